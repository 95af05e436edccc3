"""The options of a tuner, written once and read twice: as fields of its PEFT configuration and as keys of a recipe.

A tuner's folder declares them as a dataclass in a module that is free of torch:

    @dataclass(init=False, repr=False, eq=False)
    class MyOptions(Options):
        rank: int = option(8, "Rank r.", ge=1)
        init: Literal["normal", "zero"] = option("normal", "First weights.")

Both readers inherit from it. The configuration is a dataclass, so that type checkers and `inspect` see every option
as an argument; the recipe's class is made of pydantic fields with the same types, defaults, texts and limits:

    @dataclass
    class MyConfig(MyOptions, PeftConfig): ...          # __post_init__ calls self.check()

    @METHODS.register
    class My(MyOptions, TuningMethod): ...              # check() runs by itself

Where one reader differs on purpose, it says so in its own class: `like` gives a configuration an option under another
name or default, and `setting` does so for a recipe.
"""

from __future__ import annotations

import operator
import re
from copy import copy, deepcopy
from dataclasses import MISSING, Field, field, fields, is_dataclass
from inspect import get_annotations
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pydantic

_LIMITS = "limits"
_CHECK = "_check_options"
_HOLDS = {"gt": operator.gt, "ge": operator.ge, "lt": operator.lt, "le": operator.le}
_SAID = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


class Options:
    """Base of the dataclasses that hold a tuner's options."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Before pydantic collects fields and validators, which it does once the class exists.
        if issubclass(cls, pydantic.BaseModel):
            for name, described in _described(cls).items():
                if name not in vars(cls):
                    setattr(cls, name, _inherited(cls, name) or _setting(described))
            setattr(cls, _CHECK, pydantic.model_validator(mode="after")(_checked))

    def check(self) -> None:
        """Check every option by itself; a subclass adds what must hold between several.

        Raises:
            ValueError: a value out of range or not among the choices.
        """
        for name, kind in _types(type(self)).items():
            _check_value(name, getattr(self, name), kind, _described(type(self))[name].metadata[_LIMITS])

    def option_values(self) -> dict[str, Any]:
        """The options by name, without what a recipe or a configuration has beside them."""
        return {name: deepcopy(getattr(self, name)) for name in _described(type(self))}


def option(default: Any, text: str, **limits: float) -> Any:
    """One option: a dataclass field.

    Args:
        default: its value where none is given; a list or a mapping is copied for every use.
        text: what it means, in Python's terms; recipes show `null`, `true` and `false` for None, True and False.
        limits: any of gt, ge, lt and le.
    """
    metadata = {"help": text, _LIMITS: limits}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: deepcopy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def like(options: type[Options], name: str, **changes: Any) -> Any:
    """A configuration's field for an option that it calls by another name, or gives another default.

    Args:
        changes: default, text or limits that differ.
    """
    return option(**{**_arguments(_described(options)[name]), **changes})


def setting(options: type[Options], name: str, **changes: Any) -> Any:
    """A recipe's field for an option that it calls by another name, or gives another default.

    Args:
        changes: default, text or limits that differ.
    """
    return _setting(option(**{**_arguments(_described(options)[name]), **changes}))


def _described(cls: type[Any]) -> dict[str, Field[Any]]:
    """The options of a class by name: the fields of the dataclasses below `Options` that it inherits from."""
    return {
        f.name: f
        for base in reversed(cls.__mro__)
        if issubclass(base, Options) and not issubclass(base, pydantic.BaseModel) and is_dataclass(base)
        for f in fields(base)
        if _LIMITS in f.metadata
    }


def _types(cls: type[Any]) -> dict[str, Any]:
    """Types of the options of a class, by name."""
    types: dict[str, Any] = {}
    for owner in reversed(cls.__mro__):
        if issubclass(owner, Options) and not issubclass(owner, pydantic.BaseModel):
            # Only the options: names in other annotations need not exist when a program runs.
            own = {name: kind for name, kind in get_annotations(owner).items() if name in _described(owner)}
            named = type(owner.__name__, (), {"__annotations__": own, "__module__": owner.__module__})
            types |= get_type_hints(named, include_extras=True)
    return types


def _arguments(described: Field[Any]) -> dict[str, Any]:
    return {"default": _default(described), "text": described.metadata["help"], **described.metadata[_LIMITS]}


def _default(described: Field[Any]) -> Any:
    return described.default if described.default_factory is MISSING else described.default_factory()


def _setting(described: Field[Any]) -> Any:
    text = re.sub(r"(^|\. )None\b", r"\1Null", described.metadata["help"])
    text = re.sub(r"\b(None|True|False)\b", lambda word: {"None": "null"}.get(word[0], word[0].lower()), text)
    return pydantic.Field(_default(described), description=text, **described.metadata[_LIMITS])


def _inherited(cls: type[Any], name: str) -> Any:
    """The field that a recipe's class has from another one, so that a subclass keeps what that one changed."""
    known = (vars(base).get("__pydantic_fields__", {}).get(name) for base in cls.__mro__[1:])
    return next((copy(f) for f in known if f is not None), None)


def _checked(self: Any) -> Any:
    self.check()
    return self


def _check_value(name: str, value: Any, kind: Any, limits: dict[str, float]) -> None:
    """Refuse a value outside the limits, one that is none of the type's literals, and an empty list."""
    for rule, limit in limits.items():
        if value is not None and not _HOLDS[rule](value, limit):
            raise ValueError(f"{name} is {value}, but must be {_SAID[rule]} {limit}")
    branches = _branches(kind)
    if isinstance(value, list):
        if not value:
            raise ValueError(f"{name} is empty")
        known = [choice for branch in branches if get_origin(branch) is list for choice in _literals(*get_args(branch))]
        stray = [entry for entry in value if known and entry not in known]
        if stray:
            raise ValueError(f"{name} has {stray[0]!r}, but knows only {_listed(known)}")
    elif all(get_origin(branch) is Literal or branch is type(None) for branch in branches):
        known = _literals(kind)
        if value not in known and not (value is None and type(None) in branches):
            raise ValueError(f"{name} is {value!r}, but must be one of {_listed(known)}")


def _branches(kind: Any) -> list[Any]:
    """The alternatives of a type, without `Annotated` around them."""
    if get_origin(kind) in (Union, UnionType):
        return [inner for branch in get_args(kind) for inner in _branches(branch)]
    return _branches(get_args(kind)[0]) if get_origin(kind) is Annotated else [kind]


def _literals(kind: Any) -> list[Any]:
    return [value for branch in _branches(kind) if get_origin(branch) is Literal for value in get_args(branch)]


def _listed(choices: list[Any]) -> str:
    return ", ".join(map(str, choices))


def refuse_idle(**idle: bool) -> None:
    """Refuse options that were set where they do nothing.

    Args:
        idle: by the option's name, whether it was set and has no effect.

    Raises:
        ValueError: one is; names them all.
    """
    named = [name for name, unused in idle.items() if unused]
    if named:
        raise ValueError(f"{', '.join(named)} would have no effect with these settings: leave it out")
