"""The code that settings bring along: the modules of their classes, and of those of every part in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

_NO_PARTS = ("abc", "builtins", "enum", "pydantic", "typing")


def modules_of(value: Any) -> set[str]:
    """Modules that define the classes of settings: their own, those they derive from, those of the settings in them.

    Args:
        value: settings, or lists and mappings of them; anything else brings no code.
    """
    if isinstance(value, BaseModel):
        own = {base.__module__ for base in type(value).__mro__}
        below = (modules_of(getattr(value, name, None)) for name in type(value).model_fields)
        return {name for name in own if name.partition(".")[0] not in _NO_PARTS}.union(*below)
    if isinstance(value, Mapping):
        return set().union(*map(modules_of, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(modules_of, value))
    return set()
