"""`luthier list` and `luthier explain`: what the parts of a recipe are, told from their own settings classes."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, get_args

from luthier.cli.plain import bold, paragraphs, show, table
from luthier.errors import RecipeError, nearest
from luthier.registry import METHODS, OBJECTIVES, STAGES, SUITES, TASKS, Registry
from luthier.settings import Paper
from luthier.stages.base import Stage
from luthier.tasks.base import settings_class

if TYPE_CHECKING:
    import argparse

KINDS: dict[str, Registry[Any]] = {
    "methods": METHODS,
    "objectives": OBJECTIVES,
    "stages": STAGES,
    "suites": SUITES,
}
# Tasks have no settings of their own: what they need stands in `data`.
LISTED: dict[str, Registry[Any]] = {**KINDS, "tasks": TASKS}


def list_parts(arguments: argparse.Namespace) -> None:
    """`luthier list`."""
    show(parts_table(arguments.kind))


def explain(arguments: argparse.Namespace) -> None:
    """`luthier explain`."""
    if arguments.name == "rope":
        from luthier.cli.messages import console
        from luthier.cli.rope import explain_rope

        for shown in explain_rope(arguments):
            console().print(shown)
        return
    given = [name for name in ("model", "length", "kind", "base", "output") if getattr(arguments, name) is not None]
    if given:
        raise RecipeError(f"`{given[0]}` belongs to `luthier explain rope`", fix="leave it out")
    show(explanation(arguments.name))


def part_name(part: type[Any]) -> str:
    """The name that recipes use."""
    field = getattr(part, "model_fields", {}).get("name")
    return str(field.default if field else part.name)


def parts_table(kind: str | None = None) -> list[str]:
    """One table per kind of part, as lines: name, what it is, where it was published."""
    lines: list[str] = []
    for name, registry in LISTED.items():
        if kind in (None, name) and registry.names():
            rows = [(part_name(part), part.summary, _cited(getattr(part, "paper", None))) for part in registry]
            lines += ["", bold(name), *table(("name", "what it is", "paper"), rows)]
    return lines[1:]


def _cited(paper: Paper | None) -> str:
    return f"{paper.authors.split(',')[0]} et al., {paper.venue}" if paper else ""


def explanation(name: str) -> list[str]:
    """Everything about one part, as lines: what it is, its settings with defaults and meaning, its paper.

    Raises:
        RecipeError: there is no such part.
    """
    found = [(kind, registry.get(name)) for kind, registry in LISTED.items() if name in registry]
    if not found:
        known = sorted({n for registry in LISTED.values() for n in registry.names()})
        guess = nearest(name, known)
        raise RecipeError(
            f"there is no part called {name!r}",
            fix=f"did you mean {guess!r}?" if guess else "`luthier list` shows all parts",
        )
    return [line for kind, part in found for line in _explained(kind.rstrip("s"), part)]


def _explained(kind: str, part: type[Any]) -> list[str]:
    lines = [f"{bold(part_name(part))}  ({kind})", *paragraphs(part.summary, _unwrapped(part.__doc__ or ""))]
    if kind == "task":
        lines += [*paragraphs(*columns_of(part)), ""]
        if part.head_settings:
            lines.append(f"{bold('head')}: what a `tune` stage can choose of the head")
            lines += _settings_table(settings_class(part.head_settings))
        return lines
    rate = getattr(part, "default_learning_rate", None)
    lines += [f"learning rate where the recipe names none: {rate:g}"] if rate else []
    lines += paragraphs(*ports_of(part), *([f"paper: {part.paper}"] if part.paper else []))
    resolved = part.resolved() if hasattr(part, "resolved") else part
    lines += ["", *_settings_table(resolved)]
    for inner, keys in nested_settings(resolved).items():
        lines += ["", f"{bold(', '.join(keys))}: an entry has", *_settings_table(inner, with_name=True)]
    return lines


def _unwrapped(text: str) -> str:
    """A docstring with a line for each paragraph."""
    return "\n".join(" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n"))


def _settings_table(part: type[Any], *, with_name: bool = False) -> list[str]:
    return table(("setting", "type", "default", "meaning"), settings_rows(part, with_name=with_name))


def columns_of(task: type[Any]) -> list[str]:
    """What the rows of a task hold, and how it is scored, a line each."""
    lines = [f"a recipe asks for it with `task: {task.name}` in `data`", f"columns: {', '.join(task.columns)}"]
    lines += [f"columns that may be there: {', '.join(task.optional)}"] if task.optional else []
    lines += [f"learned: {task.label_column}"] if task.label_column else []
    lines += [f"metrics: {', '.join(task.metrics)}"] if task.metrics else []
    return lines


def ports_of(part: type[Any]) -> list[str]:
    """Of a stage, what it takes and gives, a line an artefact; empty for other parts."""
    if not issubclass(part, Stage):
        return []
    lines = []
    for name, port in part.ports.items():
        about = f": {port.about}" if port.about else ""
        lines.append(f"takes {name} ({' or '.join(port.kinds)}{', may be left out' if port.optional else ''}){about}")
    lines += [f"gives {name} ({' or '.join(kinds)})" for name, kinds in part.products.items()]
    return lines


def nested_settings(part: type[Any]) -> dict[type[Any], list[str]]:
    """Settings classes that the entries of a part's settings have, and those of theirs, with the keys that hold them.

    Left out are those that have a place of their own: parts, and what `data` and `model` hold.
    """
    found: dict[type[Any], list[str]] = {}
    waiting = [part]
    while waiting:
        for key, field in waiting.pop(0).model_fields.items():
            for one in _settings_classes(field.annotation):
                waiting += [] if one in found else [one]
                if key not in found.setdefault(one, []):
                    found[one].append(key)
    return found


def _settings_classes(annotation: Any) -> list[type[Any]]:
    from luthier.data.settings import DataSettings
    from luthier.models.settings import ModelSettings
    from luthier.settings import Settings

    if isinstance(annotation, type) and issubclass(annotation, Settings):
        elsewhere = any(annotation in list(registry) for registry in KINDS.values())
        return [] if elsewhere or issubclass(annotation, DataSettings | ModelSettings) else [annotation]
    return list(dict.fromkeys(one for inner in get_args(annotation) for one in _settings_classes(inner)))


def settings_rows(part: type[Any], *, with_name: bool = False) -> list[tuple[str, str, str, str]]:
    """(key, type, default, meaning) of every setting of a part, as documentation shows them.

    Args:
        with_name: whether `name` is a setting like others, and not what recipes call the part.
    """
    schema = part.model_json_schema()
    rows = []
    for key, entry in schema.get("properties", {}).items():
        if key == "name" and not with_name:
            continue
        field = part.model_fields[key]
        default = "required" if field.is_required() else _plain(field.get_default(call_default_factory=True))
        rows.append((key, _type_name(entry, schema), default, field.description or ""))
    return rows


def _type_name(entry: dict[str, Any], schema: dict[str, Any]) -> str:
    if "$ref" in entry:
        target = schema["$defs"][entry["$ref"].rpartition("/")[2]]
        return "mapping" if target.get("type") == "object" else _type_name(target, schema)
    if "enum" in entry:
        return " | ".join(map(str, entry["enum"]))
    if "const" in entry:
        return str(entry["const"])
    branches = entry.get("anyOf") or entry.get("oneOf")
    if branches:
        names = list(dict.fromkeys(_type_name(branch, schema) for branch in branches))
        return " | ".join(names) if len(" | ".join(names)) < 60 else "name or mapping"
    if entry.get("type") == "array":
        return f"list of {_type_name(entry.get('items', {}), schema)}"
    return {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true | false",
        "null": "null",
    }.get(str(entry.get("type")), "mapping" if entry.get("type") == "object" else "any")


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if hasattr(type(value), "model_fields"):
        return part_name(type(value)) if "name" in type(value).model_fields else "see there"
    return "[]" if value in ([], ()) else str(value)
