"""Which module defines an adapter type that PEFT does not know by itself.

The table is filled by code that is installed. A saved adapter names only its type, so that no file can choose
what is imported.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from luthier.errors import ModelError, nearest

# What saved adapters call a prompt.
PROMPT_EMBEDDINGS = "prompt_embeddings"


@dataclass(frozen=True)
class AdapterType:
    """An adapter type that PEFT does not know by itself.

    Attributes:
        module: importing it makes the type known to PEFT.
        exported_by: "module:function" that gives a saved adapter as a plain prompt or prefix, see
            `luthier.methods.export`; empty where none can stand for it.
        why_not_exported: the reason, where `exported_by` is empty.
    """

    module: str
    exported_by: str = ""
    why_not_exported: str = ""


ADAPTER_TYPES: dict[str, AdapterType] = {}


def register_adapter_type(peft_type: str, module: str, *, exported_by: str = "", why_not_exported: str = "") -> None:
    """Say what defines an adapter type. See `AdapterType`.

    Raises:
        ValueError: another module has claimed the type.
    """
    known = ADAPTER_TYPES.setdefault(peft_type.upper(), AdapterType(module, exported_by, why_not_exported))
    if known.module != module:
        raise ValueError(f"adapter type {peft_type!r} is defined by both {known.module} and {module}")


def ensure_adapter_type(peft_type: str, where: str) -> None:
    """Make PEFT know an adapter type that a saved adapter names.

    Raises:
        ModelError: nothing installed defines it.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    from luthier.registry import discover

    name = str(peft_type).upper()
    if name in {str(getattr(known, "value", known)) for known in PEFT_TYPE_TO_CONFIG_MAPPING}:
        return
    if name not in ADAPTER_TYPES:
        discover()
    if name in ADAPTER_TYPES:
        importlib.import_module(ADAPTER_TYPES[name].module)
        return
    known_names = sorted({str(getattr(k, "value", k)) for k in PEFT_TYPE_TO_CONFIG_MAPPING} | set(ADAPTER_TYPES))
    guess = nearest(name, known_names)
    raise ModelError(
        f"nothing installed defines the adapter type {name!r}",
        where=where,
        fix=(f"did you mean {guess}? " if guess else "") + "install the package that defines it, or a newer luthier",
    )
