"""What is wrong with a recipe, in the words of its user: the line, the key, and the nearest valid one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from luthier.recipe.problem import Problem
from luthier.recipe.recipe import RecipeBase, stage_name
from luthier.recipe.yaml_text import Path, YamlText
from luthier.stages.chaining import ChainError

_SHOWN = 200
_WANTED_OF = re.compile(r"has to be (.*?)(; the recipe gives .*)", re.DOTALL)
# Pydantic's kind of error -> what the value has to be, with the names that the error brings.
_WANTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing", "decimal_type", "decimal_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("string_type", "string_sub_type"), "text"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "a mapping of keys to values"),
    **dict.fromkeys(("literal_error", "enum"), "{expected}"),
    "finite_number": "a finite number",
    "none_required": "left out",
    "greater_than": "above {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "below {lt}",
    "less_than_equal": "{le} or less",
    "too_short": "of {min_length} entries or more",
    "too_long": "of {max_length} entries or fewer",
    "string_too_short": "of {min_length} characters or more",
    "string_too_long": "of {max_length} characters or fewer",
    "string_pattern_mismatch": "of the form {pattern}",
}


def explained(detail: ErrorDetails, source: YamlText, model: type[RecipeBase]) -> list[Problem]:
    """What one of pydantic's errors says, each problem with its fix."""
    error = detail.get("ctx", {}).get("error")
    if isinstance(error, ChainError):
        return [Problem(one.path, one.what, one.fix or None) for one in error.problems]
    return [_explained(detail, source, model)]


def _explained(detail: ErrorDetails, source: YamlText, model: type[RecipeBase]) -> Problem:
    path, leaf = source.resolve(detail["loc"])
    key = ".".join(map(str, path)) or "recipe"
    message, fix = detail["msg"].removeprefix("Value error, "), None
    if detail["type"] == "extra_forbidden":
        known = known_keys(model, detail["loc"][:-1])
        guess = difflib.get_close_matches(str(leaf)[:_SHOWN], known, n=1, cutoff=0.5)
        message = f"unknown key {_shown(leaf)}"
        fix = f"did you mean {guess[0]!r}?" if guess else f"known keys: {', '.join(known)}"
    elif detail["type"] == "unknown_part" and (problem := _no_stage(detail, path)) is not None:
        return problem
    elif detail["type"] == "unknown_part":
        context = detail["ctx"]
        given = stage_name(detail["input"]) if context["kind"] == "stage" else None
        given = given or (detail["input"].get("name") if isinstance(detail["input"], dict) else detail["input"])
        guess = difflib.get_close_matches(str(given)[:_SHOWN], context["known"], n=1, cutoff=0.5)
        unnamed = isinstance(detail["input"], dict) and given is None
        message = "`name` is missing" if unnamed else f"there is no {context['kind']} called {_shown(given)}"
        fix = (f"did you mean {guess[0]!r}? " if guess else "") + f"known: {', '.join(context['known'])}"
    elif detail["type"] == "missing":
        message, fix = f"{leaf!r} is missing", "add it"
        key = ".".join(map(str, [*path, leaf])) if not path or path[-1] != leaf else key
    elif detail["type"] not in ("value_error", "assertion_error"):
        wanted, given = _WANTED.get(detail["type"]), detail["input"]
        named = {k: f"{v:g}" if isinstance(v, float) else v for k, v in detail.get("ctx", {}).items()}
        message = f"has to be {wanted.format(**named)}" if wanted else message
        message += f"; the recipe gives {_shown(given)}"
        choices = re.findall(r"'([^']*)'", detail.get("ctx", {}).get("expected", ""))
        if isinstance(given, str) and (near := difflib.get_close_matches(given[:_SHOWN], choices, n=1, cutoff=0.5)):
            fix = f"did you mean {near[0]!r}?"
        if detail["type"] == "string_type" and isinstance(detail["input"], bool | int | float):
            fix = source.quoting(path)
    return Problem(path, message, fix, _cut(key))


def _no_stage(detail: ErrorDetails, path: Path) -> Problem | None:
    """What is wrong with an item of `stages` that is no mapping of one key; None where it is one."""
    item, known = detail["input"], detail["ctx"]["known"]
    if detail["ctx"]["kind"] != "stage" or (isinstance(item, dict) and len(item) == 1):
        return None
    key, what = ".".join(map(str, path)), "a stage is one key with its settings below it"
    if isinstance(item, str) and item in known:
        return Problem(path, f"{what}, and this is text", f"write `{item}:`, with a colon", key)
    if not isinstance(item, dict) or not item:
        given = _shown(item) if item else "empty"
        return Problem(path, f"{what}, and this is {given}", f"write one of {', '.join(known)}", key)
    names = list(map(str, item))
    others = [name for name in names if name not in known]
    what += f", and here are {len(names)}: {_cut(', '.join(names))}"
    if not others:
        return Problem(path, what, "begin each stage with a dash of its own", key)
    near = difflib.get_close_matches(others[0][:_SHOWN], known, n=1, cutoff=0.5)
    fix = (
        f"did you mean {near[0]!r}?"
        if near
        else f"indent {_shown(others[0])} further than the stage that it belongs to"
    )
    return Problem((*path, others[0]), what, fix, key)


def merged(problems: Sequence[Problem]) -> list[Problem]:
    """The problems, with what a value has to be in one line where each member of a union has told its own."""
    found: list[Problem] = []
    places: dict[tuple[Path, str, str], int] = {}
    for one in problems:
        parts = _WANTED_OF.fullmatch(one.what)
        place = places.setdefault((one.path, one.key, parts[2]), len(found)) if parts else len(found)
        if parts is None or place == len(found):
            found.append(one)
            continue
        before = _WANTED_OF.fullmatch(found[place].what)
        if before is not None and parts[1] not in before[1].split(", or "):
            what = f"has to be {before[1]}, or {parts[1]}{parts[2]}"
            found[place] = replace(found[place], what=what, fix=found[place].fix or one.fix)
    return [one for one in found if not _is_of_other_member(one, found)]


def _is_of_other_member(one: Problem, found: Sequence[Problem]) -> bool:
    """Whether a value is told to be of another kind, while another member of the union took it and found more."""
    return _WANTED_OF.fullmatch(one.what) is not None and any(
        other.path[: len(one.path)] == one.path and _WANTED_OF.fullmatch(other.what) is None for other in found
    )


def _shown(value: Any) -> str:
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that are valid at a place of the recipe, found by walking the types along pydantic's location."""
    candidates: list[type[BaseModel]] = [model]
    for step in location:
        if isinstance(step, int):
            continue
        below = [c.model_fields[step].annotation for c in candidates if step in c.model_fields]
        if below:
            candidates = [m for annotation in below for m in _models_in(annotation)]
        else:
            candidates = [c for c in candidates if step == _tag(c)] or candidates
    return sorted({name for c in candidates for name in c.model_fields})


def _tag(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("name")
    return field.default if field else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]
