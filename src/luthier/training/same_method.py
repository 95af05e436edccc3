"""Whether an adapter may be trained on with a method, told by settings alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from luthier.errors import ModelError, RecipeError
from luthier.methods.base import TuningMethod

# What decides how an adapter is trained, and leaves no trace in its form.
_MAY_CHANGE = re.compile(r".*(learning_rate|weight_decay)")


def saved_whole(method: TuningMethod) -> str:
    """Why no adapter that a method made can be trained on; empty where it saves one."""
    if method.saves_adapter:
        return ""
    return f"{method.name} saves a whole model and no adapter that `continue_adapter` could go on from"


def check_same_method(method: TuningMethod, made_by: Mapping[str, Any] | None, where: str) -> None:
    """Refuse to train an adapter on with another method than made it, or with settings that would change its form.

    Args:
        method: to train with.
        made_by: the settings of the method that made it.
        where: the adapter.

    Raises:
        RecipeError: they differ.
        ModelError: the settings are none that the method takes.
    """
    made = dict(made_by or {})
    if made.get("name") != method.name:
        raise RecipeError(
            f"the adapter was made by {made.get('name') or 'no known method'}, and the stage's method is {method.name}",
            where=where,
            fix="take the method that made it, or leave `continue_adapter` out",
        )
    try:
        theirs = type(method).model_validate(made).model_dump(mode="json")
    except ValidationError as error:
        raise ModelError(
            f"the adapter's card has settings that {method.name} does not take: {error.errors()[0]['msg']}",
            where=where,
            fix="train it again with this version",
        ) from error
    ours = method.model_dump(mode="json")
    free = {name for name in ours if _MAY_CHANGE.fullmatch(name)} | set(method.may_change)
    other = [name for name in ours if ours[name] != theirs[name] and name not in free]
    if other:
        told = ", ".join(f"{name} {value_text(theirs[name])} and not {value_text(ours[name])}" for name in other)
        defaults = {name: f.default for name, f in type(method).model_fields.items()}
        both = {name: ours[name] if name in free else x for name, x in theirs.items()}
        needed = {name: x for name, x in both.items() if name == "name" or x != defaults.get(name)}
        raise RecipeError(
            f"the adapter was made with {told}, and its form can't change while it is trained on",
            where=where,
            fix=f"write `method: {_mapping(needed)}`",
        )


def _mapping(settings: dict[str, Any]) -> str:
    """One line of YAML."""
    if len(settings) <= 1:
        return str(settings.get("name", "lora"))
    return "{" + ", ".join(f"{name}: {value_text(x)}" for name, x in settings.items()) + "}"


def value_text(x: Any) -> str:
    """A value as a recipe has it."""
    return x if isinstance(x, str) and re.fullmatch(r"[A-Za-z_]\w*", x) else json.dumps(x)
