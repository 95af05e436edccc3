"""The code that settings bring along: the modules of their classes, and of those of every part in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from luthier.data.settings import DataSettings
from luthier.data.stated import stated_task
from luthier.registry import TASKS

_NO_PARTS = ("abc", "builtins", "enum", "pydantic", "typing")


def modules_of(value: Any) -> set[str]:
    """Modules that define the classes of settings: their own, those they derive from, those of the settings in them,
    and those of the task of a data block.

    Args:
        value: settings, or lists and mappings of them; anything else brings no code.
    """
    if isinstance(value, BaseModel):
        below = (modules_of(getattr(value, name, None)) for name in type(value).model_fields)
        tasks = map(_modules_of_class, _tasks_of(value) if isinstance(value, DataSettings) else ())
        return _modules_of_class(type(value)).union(*below, *tasks)
    if isinstance(value, Mapping):
        return set().union(*map(modules_of, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(modules_of, value))
    return set()


def _tasks_of(data: DataSettings) -> list[type[Any]]:
    """The task that data settings state; where only the rows can tell it, any may be the one."""
    name = stated_task(data)
    return list(TASKS) if name is None else [TASKS.get(name)]


def _modules_of_class(one: type[Any]) -> set[str]:
    return {base.__module__ for base in one.__mro__ if base.__module__.partition(".")[0] not in _NO_PARTS}
