"""Makes a tuner of ours known to PEFT, so that `get_peft_model`, `save_pretrained` and
`PeftModel.from_pretrained` treat it as one of PEFT's own."""

from __future__ import annotations

from typing import Any

import aenum
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType, register_peft_method


def register_tuner(name: str, config_cls: type[Any], tuner_cls: type[Any], prefix: str | None = None) -> Any:
    """Register a tuner under a new `PeftType`, once; a second call with the same classes changes nothing.

    PEFT accepts only names that its `PeftType` enum already has, so the enum is extended first.

    Args:
        name: lower-case name; the enum member and the `peft_type` in saved configs are its upper-case form.
        config_cls: the `PeftConfig` subclass.
        tuner_cls: the tuner (a `BaseTuner` subclass, or the prompt encoder of a prompt-learning method).
        prefix: what the names of the tuner's parameters contain; default `name_`.

    Returns:
        The `PeftType` member.

    Raises:
        KeyError: another class is registered under that name.
    """
    member = name.upper()
    if member not in PeftType.__members__:
        aenum.extend_enum(PeftType, member, member)
    peft_type = PeftType[member]
    if PEFT_TYPE_TO_CONFIG_MAPPING.get(peft_type) is not config_cls:
        register_peft_method(name=name, config_cls=config_cls, model_cls=tuner_cls, prefix=prefix)
    return peft_type


def register() -> None:
    """Make every tuner that is installed known to PEFT at once.

    Importing a config class does it for its own tuner, and so does PEFT when it loads a checkpoint of ours after
    `import luthier`; this is for programs that look through PEFT's tables themselves.
    """
    import importlib

    from luthier.peft_bridge.adapter_types import ADAPTER_TYPES
    from luthier.registry import discover

    discover()
    for known in ADAPTER_TYPES.values():
        importlib.import_module(known.module)
