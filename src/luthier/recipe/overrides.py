"""Setting one dotted key of a recipe."""

from __future__ import annotations

from typing import Any

from luthier.errors import RecipeError
from luthier.recipe.yaml_text import YamlText, parse_value

_LONGEST_NUMBER = 10
# What a block that is written as text alone is short for.
_SHORT_FOR = {"method": "name", "objective": "name", "preset": "name", "model": "reference", "data": "source"}


def apply_override(source: YamlText, text: str) -> None:
    """Set one dotted key of parsed YAML, `a.b=value`; the value is read as YAML.

    Raises:
        RecipeError: no `=`, or a step of the key that is neither a mapping key nor a list index.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {text}: write key=value", fix="for example --set stages.0.tune.epochs=1")
    set_key(source.data, key.strip(), parse_value(value), f"--set {text}")
    path = place_of(key)
    source.override(path, f"--set {key.strip()}")
    source.set_to[path] = value


def place_of(key: str) -> tuple[str | int, ...]:
    """The steps of a dotted key."""
    return tuple(_step(part) for part in key.strip().split("."))


def set_key(data: Any, key: str, value: Any, where: str) -> None:
    """Set a dotted key inside nested mappings and lists. A method given by name alone makes room for its settings,
    and so does any other block that is written as text."""
    parts = key.split(".")
    for position, part in enumerate(parts[:-1]):
        data = _descend(data, part, ".".join(parts[: position + 1]), where)
    last = parts[-1]
    if isinstance(data, list):
        data[_position(data, last, key, where)] = value
    elif isinstance(data, dict):
        data[last] = value
    else:
        raise RecipeError(f"{key} can't be set: {'.'.join(parts[:-1])} holds a plain value", where=where)


def _descend(data: Any, part: str, path: str, where: str) -> Any:
    if isinstance(data, list):
        holder, key = data, _position(data, part, path, where)
    elif isinstance(data, dict):
        holder, key = data, part  # type: ignore[assignment]
        data.setdefault(part, {})
    else:
        raise RecipeError(f"{path} can't be set: what is above it holds a plain value", where=where)
    if holder[key] is None:
        holder[key] = {}
    if isinstance(holder[key], str) and part in _SHORT_FOR:
        holder[key] = {_SHORT_FOR[part]: holder[key]}
    return holder[key]


def _position(items: list[Any], part: str, path: str, where: str) -> int:
    position = _step(part)
    if isinstance(position, str) or position >= len(items):
        there = f"items 0 to {len(items) - 1}" if items else "it is empty"
        raise RecipeError(f"{path}: the list has no item {part}", where=where, fix=there)
    return position


def _step(part: str) -> str | int:
    return int(part) if len(part) < _LONGEST_NUMBER and part.isdecimal() else part
