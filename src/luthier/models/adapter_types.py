"""Which module defines an adapter type that PEFT does not know by itself.

The table is filled by code that is installed. A saved adapter names only its type, so that no file can choose
what is imported.
"""

from __future__ import annotations

import importlib

from luthier.errors import ModelError, nearest

ADAPTER_LOADERS: dict[str, str] = {}


def register_adapter_type(peft_type: str, module: str) -> None:
    """Say that importing `module` makes the adapter type known to PEFT.

    Raises:
        ValueError: another module has claimed the type.
    """
    known = ADAPTER_LOADERS.setdefault(peft_type.upper(), module)
    if known != module:
        raise ValueError(f"adapter type {peft_type!r} is defined by both {known} and {module}")


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
    if name not in ADAPTER_LOADERS:
        discover()
    if name in ADAPTER_LOADERS:
        importlib.import_module(ADAPTER_LOADERS[name])
        return
    known_names = sorted({str(getattr(k, "value", k)) for k in PEFT_TYPE_TO_CONFIG_MAPPING} | set(ADAPTER_LOADERS))
    guess = nearest(name, known_names)
    raise ModelError(
        f"nothing installed defines the adapter type {name!r}",
        where=where,
        fix=(f"did you mean {guess}? " if guess else "") + "install the package that defines it, or a newer luthier",
    )
