"""Writes docs/recipe.md from the settings classes, and docs/recipe.schema.json. `--check` only compares."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from luthier.cli.explain import KINDS, nested_settings, part_name, ports_of, settings_rows
from luthier.data.settings import DataSettings
from luthier.models.settings import ModelSettings
from luthier.recipe.comparison import CompareSettings, SearchSettings, TuningPreset
from luthier.recipe.recipe import RecipeBase, json_schema
from luthier.registry import discover
from luthier.stages.artifacts import KINDS as ARTIFACT_KINDS

HEADER = """\
# Recipe reference

Generated from the settings classes by `make docs`; do not edit. The same text is behind `luthier explain NAME`,
and `recipe.schema.json` beside this page gives editors completion and checks:
put `# yaml-language-server: $schema=…/recipe.schema.json` on a recipe's first line.

A stage is one key with its settings below it. A method, objective or suite is written as its name, or as a mapping with
its `name` and settings. `${env:NAME}` anywhere in a text is filled in from the environment when the stage runs;
what was filled in appears in no log, report or saved recipe, unless it has fewer than 4 characters, is a word of fewer
than 8 letters or a part of a name that recipes use, which no search could tell from chance; a warning says so. With
another value a finished stage runs again, unless the setting has no effect on its results, as `api_key`. A model's base
in such a place is found again through the same variable. Any key can be set from the command line:
`--set stages.0.tune.epochs=1`. The value is read as YAML, so that text which looks like a number needs quotes within
those of the shell: `--set 'name="2024"'`.

A stage takes artefacts and gives artefacts; one called NAME lies in the folder NAME of the stage's own. What goes in as
`model` is the newest model of the stages before, or the recipe's, unless the stage names another one:
`model: stages.0`, `model: stages.0.NAME`, or a model from outside of the recipe, such as `model: runs/other/00-tune`.
Stages that can't follow one another are refused when the recipe is loaded. The kinds of artefacts:

{KINDS_OF_ARTIFACTS}

A recipe is one YAML 1.2 document of at most 100,000 characters, 10,000 values (those of aliases counted) and 50 levels.
Anchors, aliases and merges (`<<`) work, and each place of an alias is set by itself; tags other than `!!str` are
refused, and dates are text.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a page is out of date, write nothing")
    check = parser.parse_args().check
    folder = Path(__file__).parent
    pages = {
        folder / "recipe.md": recipe_page(),
        folder / "recipe.schema.json": json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n",
    }
    stale = [p for p, text in pages.items() if not p.exists() or p.read_text(encoding="utf8") != text]
    if check:
        for page in stale:
            print(f"{page.name} is out of date: run `make docs`", file=sys.stderr)
        return len(stale)
    for page, text in pages.items():
        page.write_text(text, encoding="utf8")
    return 0


def recipe_page() -> str:
    """The whole page."""
    discover()
    kinds = "\n".join(f"- `{kind.name}`: {kind.about}" for kind in ARTIFACT_KINDS.values())
    header = HEADER.replace("{KINDS_OF_ARTIFACTS}", kinds)
    parts = [header, section("The recipe", RecipeBase, skip=frozenset({"stages"})), section("model", ModelSettings)]
    parts += [section("compare", CompareSettings), section("compare.preset", TuningPreset, level=3)]
    parts += [section("compare.search", SearchSettings, level=3), section("data", DataSettings)]
    for kind, registry in KINDS.items():
        if registry.names():
            parts.append(f"## {kind.capitalize()}\n")
        for part in registry:
            resolved = part.resolved() if hasattr(part, "resolved") else part
            parts.append(section(f"`{part_name(part)}`: {part.summary}", resolved, level=3, source=part))
            for inner, keys in nested_settings(resolved).items():
                title = f"An entry of {', '.join(f'`{key}`' for key in keys)}"
                parts.append(section(title, inner, level=4, with_name=True))
    return "\n".join(parts)


def section(
    title: str,
    settings: type[Any],
    *,
    level: int = 2,
    skip: frozenset[str] = frozenset(),
    source: Any = None,
    with_name: bool = False,
) -> str:
    """One settings class as a table."""
    lines = [f"{'#' * level} {title}\n"]
    if source is not None and source.paper is not None:
        lines.append(f"Paper: {source.paper}\n")
    if source is not None and (ports := ports_of(source)):
        lines += [*(f"- {line}" for line in ports), ""]
    rate = getattr(source, "default_learning_rate", None)
    if rate:
        lines.append(f"Learning rate where the recipe names none: {rate:g}\n")
    rows = [row for row in settings_rows(settings, with_name=with_name) if row[0] not in skip]
    if not rows:
        return "\n".join([*lines, "No settings.\n"])
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, *cells in rows:
        told = " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
        lines.append(f"| `{key}` | {told} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
