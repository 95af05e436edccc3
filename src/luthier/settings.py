"""The base of every settings class: typed, frozen, and an unknown key is an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator

from luthier.errors import LuthierError


class Settings(BaseModel):
    """One typed block of a recipe. A field's `description` is its only documentation: help text, the JSON
    schema and the recipe reference are all generated from it."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        protected_namespaces=(),
        defer_build=True,
        ser_json_inf_nan="constants",
        allow_inf_nan=False,
    )
    # Fields that may name a file or folder of this machine; a recipe's relative ones are looked for beside it, too.
    path_fields: ClassVar[tuple[str, ...]] = ()
    # Values of these fields that name something built in, whatever lies beside the recipe.
    no_paths: ClassVar[frozenset[str]] = frozenset()
    # Fields that are no part of a key of results, since no result depends on them.
    without_effect_on_results: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any) -> Any:
        # Pydantic takes true for 1, so that `evaluate_every: true` would be every step; it does not take the text.
        if not isinstance(value, dict):
            return value
        wrong = {
            name: str(one).lower() for name, one in value.items() if isinstance(one, bool) and name in _numbers(cls)
        }
        return {**value, **wrong} if wrong else value

    def outside_keys(self) -> dict[Any, Any]:
        """What no result depends on, here and in the settings inside, as pydantic's `exclude` takes it."""
        found: dict[Any, Any] = dict.fromkeys(self.without_effect_on_results, True)
        for name in type(self).model_fields:
            inside = None if name in found else _outside_keys(getattr(self, name))
            if inside:
                found[name] = inside
        return found

    def changed(self, *names: str) -> list[str]:
        """Those of these fields that have another value than by default. What has no effect is refused by its value,
        not for being named: a recipe that is written out names every field."""
        fields = type(self).model_fields
        return [n for n in names if getattr(self, n) != fields[n].get_default(call_default_factory=True)]

    def extras(self) -> Mapping[str, str]:
        """Extras of Luthier (`luthier.extras`) that these settings need, and the field that each is needed for."""
        return {}

    def missing(self) -> Iterable[tuple[str, LuthierError]]:
        """Fields that name what is not there, each with the error; looked at before anything runs, without torch."""
        return ()


def names_in_use() -> set[str]:
    """The names of all fields, and of all parts, in the settings that have been imported."""
    found: set[str] = set()
    classes: list[type[Settings]] = [Settings]
    while classes:
        one = classes.pop()
        classes += one.__subclasses__()
        found.update(one.model_fields)
        if "name" in one.model_fields and isinstance(name := one.model_fields["name"].default, str):
            found.add(name)
    return found


@cache
def _numbers(settings: type[Settings]) -> frozenset[str]:
    """The fields that hold a number, and neither text, true or false, nor anything whatever."""
    found = {name: _members(field.annotation) for name, field in settings.model_fields.items()}
    return frozenset(
        name
        for name, kinds in found.items()
        if (int in kinds or float in kinds) and not any(kind in kinds for kind in (bool, str, object, Any))
    )


def _members(annotation: Any) -> list[Any]:
    """The members of a union, or the one type that a field has."""
    kind, inside = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        return _members(inside[0])
    if kind in (Union, UnionType):
        return [member for one in inside for member in _members(one)]
    return [annotation]


def _outside_keys(value: Any) -> dict[Any, Any]:
    if isinstance(value, Settings):
        return value.outside_keys()
    if isinstance(value, list | tuple):
        return {place: inside for place, one in enumerate(value) if (inside := _outside_keys(one))}
    return {}


class Paper(BaseModel):
    """Where a method was published."""

    model_config = ConfigDict(frozen=True)

    title: str
    authors: str
    venue: str
    url: str

    def __str__(self) -> str:
        return f"{self.authors}, “{self.title}”, {self.venue} ({self.url})"
