"""What the verbs around recipes and their runs do: call one part, print its result."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from luthier.cli.arguments import OUTPUT
from luthier.cli.messages import console
from luthier.errors import RecipeError
from luthier.recipe.loading import SUFFIXES, check_recipe, load_recipe
from luthier.recipe.recipe import RecipeBase, json_schema
from luthier.secrets import redact
from luthier.storage.nearby import check_there
from luthier.storage.paths import is_file, is_folder, is_there
from luthier.storage.ranks import is_main

DEFAULT_RECIPE = "recipe.yaml"
_PRESET_OPTIONS = {"name": "--preset", "steps": "--budget-steps", "minutes": "--budget-minutes"}


def init(arguments: argparse.Namespace) -> None:
    from luthier.cli.starter import starter_recipe

    place = Path(arguments.path)
    _check_place_of_recipe(place, arguments.data, replace=arguments.force)
    from luthier.storage.files import write_text

    starter = starter_recipe(arguments.model, arguments.data, arguments.method)
    write_text(place, starter.text)
    for line in starter.said:
        console().print(line, soft_wrap=True)
    for line in starter.doubts:
        console().print(f"not sure: {line}", soft_wrap=True)
    named = shlex.quote(str(place))
    console().print(
        f"wrote {place}; next: luthier validate {named}, luthier plan {named}, luthier run {named}", soft_wrap=True
    )


def _check_place_of_recipe(place: Path, data: str | None, *, replace: bool) -> None:
    """Refuse a file that is no place for a starter recipe.

    Raises:
        RecipeError: it is called as no recipe is, or it is there and not to be replaced.
        WorkspaceError: it can't be written, or the recipe is made for what it holds.
    """
    from luthier.storage.output_places import check_place_of

    if place.suffix.lower() not in SUFFIXES:
        fix = f"name another file, such as {DEFAULT_RECIPE}"
        if is_file(place):
            fix = f"`luthier init {DEFAULT_RECIPE} --data {shlex.quote(data or str(place))}` writes one for data"
        raise RecipeError("a recipe's file ends in .yaml, .yml or .json", where=str(place), fix=fix)
    check_place_of(place, data)
    if is_there(place) and not replace:
        raise RecipeError("the file is there already", where=str(place), fix="name another one, or add --force")


def validate(arguments: argparse.Namespace) -> None:
    place = _recipe_place(arguments)
    recipe = load_recipe(place, arguments.overrides, inputs=True)
    names = " → ".join(stage.name for stage in recipe.stage_list())
    cells = ""
    if recipe.compare is not None:
        from luthier.recipe.grid import run_count

        cells = f", {'a search' if recipe.compare.search else 'a grid'} of {run_count(recipe.compare)} runs"
    # Written plainly: importing rich would take a tenth of the time that validation does.
    from luthier.recipe.inputs import not_looked_at

    unseen = "".join(f"\nnot looked at: the Hub's {name}" for name in not_looked_at(recipe))
    sys.stdout.write(redact(f"{place} is valid: {names}{cells}{unseen}") + "\n")


def plan(arguments: argparse.Namespace) -> None:
    recipe = load_recipe(_recipe_place(arguments), arguments.overrides, inputs=True)
    from luthier.cli.printing import print_plan
    from luthier.compare.planning import plan_recipe
    from luthier.progress import progress_display

    with progress_display():
        planned = plan_recipe(recipe, Path(arguments.output))
    print_plan(planned, console())


def run(arguments: argparse.Namespace) -> None:
    _run_and_show(load_recipe(_recipe_place(arguments), arguments.overrides, inputs=True), arguments)


def _recipe_place(arguments: argparse.Namespace) -> str:
    """The recipe that was named, or the one that lies here under the name that `luthier init` gives."""
    if arguments.recipe is None and not Path(DEFAULT_RECIPE).is_file():
        raise RecipeError(
            f"no recipe is named, and there is no {DEFAULT_RECIPE} here", fix="name one, or let `luthier init` write it"
        )
    return arguments.recipe or DEFAULT_RECIPE


def compare(arguments: argparse.Namespace) -> None:
    folders = [Path(t) for t in arguments.targets if is_folder(t)]
    if len(folders) == len(arguments.targets):
        _refuse_what_runs_something(arguments)
        _show_table(folders)
        return
    if len(arguments.targets) > 1:
        for target in arguments.targets:
            check_there(target, RecipeError, "give one recipe, or only run directories")
        raise RecipeError("give one recipe, or only run directories", where=" ".join(arguments.targets))
    preset = _preset_settings(arguments)
    own = not (arguments.over or preset)
    recipe = load_recipe(arguments.targets[0], arguments.overrides, inputs=own)
    if not own:
        recipe = _with_comparison(
            recipe, arguments.over, preset, arguments.targets[0], _comparison_name(recipe, arguments)
        )
    if recipe.compare is None:
        raise RecipeError(
            "the recipe has nothing to compare",
            where=arguments.targets[0],
            fix="add a compare block, or --over stages.0.tune.method=full,lora --over seed=13,17, or --preset tuning",
        )
    _run_and_show(recipe, arguments)


def _refuse_what_runs_something(arguments: argparse.Namespace) -> None:
    """Raises RecipeError for an option that says how to run a recipe, where finished runs are compared."""
    given = {"--over": arguments.over, "--set": arguments.overrides}
    given |= {_PRESET_OPTIONS.get(key, f"--{key}"): True for key in _preset_settings(arguments)}
    given["--output"] = arguments.output != OUTPUT
    for option in (option for option, value in given.items() if value):
        raise RecipeError(
            f"{option} says how a recipe is run, and {arguments.targets[0]} is a run directory",
            fix="name the recipe, or leave the option out",
        )


def _comparison_name(recipe: RecipeBase, arguments: argparse.Namespace) -> str:
    """The name of a comparison that the command line asks for: beside the run of the recipe, unless the recipe is that
    of a comparison, the name is the user's own, or its folder holds a comparison already."""
    from luthier.runs.kinds import COMPARISON, beside, kind_of

    named = any(text.partition("=")[0].strip() == "name" for text in arguments.overrides)
    if named or recipe.compare is not None or kind_of(Path(arguments.output) / recipe.name) == COMPARISON:
        return recipe.name
    return beside(recipe.name, "compare")


def _preset_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of the preset."""
    from luthier.recipe.yaml_text import parse_value

    given = {
        "name": arguments.preset,
        "methods": None if arguments.methods is None else parse_value(f"[{arguments.methods}]"),
        "seeds": arguments.seeds,
        "steps": arguments.budget_steps,
        "minutes": arguments.budget_minutes,
        "prefer": arguments.prefer,
    }
    return {key: value for key, value in given.items() if value is not None}


def _with_comparison(recipe: RecipeBase, over: list[str], preset: dict[str, Any], place: str, name: str) -> RecipeBase:
    """The recipe with the comparison of the command line in place of its own; a preset keeps what is not given."""
    from luthier.recipe.comparison import filled_in
    from luthier.recipe.yaml_text import YamlText, parse_value

    grid: dict[str, Any] = {}
    for text in over:
        key, equals, values = text.partition("=")
        if not equals:
            raise RecipeError(f"--over {text}: write KEY=A,B", fix="for example --over seed=13,17,23")
        key = key.strip()
        if key in grid:
            raise RecipeError(f"--over {key} is given twice", fix=f"give all values at once: --over {key}=A,B")
        grid[key] = parse_value(f"[{values}]")
    own = recipe.compare.preset if recipe.compare else None
    if preset and own is None and "name" not in preset:
        raise RecipeError(f"--{next(iter(preset))} is a setting of a preset", fix="add --preset tuning")
    comparison: dict[str, Any] = {"over": grid}
    if preset:
        kept = own.model_dump(mode="json", exclude_unset=True) if own else {}
        if {"steps", "minutes"} & preset.keys():
            kept = {key: value for key, value in kept.items() if key not in ("steps", "minutes")}
        comparison["preset"] = kept | preset
    if own is not None and preset:
        assert recipe.compare is not None
        filled = filled_in(own, [stage.name for stage in recipe.stage_list()], recipe.seed)
        comparison["over"] = {k: v for k, v in recipe.compare.over.items() if k not in filled} | grid
        comparison |= {"baseline": recipe.compare.baseline} if recipe.compare.baseline else {}
    given = recipe.model_dump(mode="json", exclude_unset=True) | {"name": name, "compare": comparison}
    source = YamlText(place, given)
    source.override(("compare",), "--preset" if preset else "--over")
    for key in preset:
        source.override(("compare", "preset", key), _PRESET_OPTIONS.get(key, f"--{key}"))
    for key in grid:
        source.override(("compare", "over", key), f"--over {key}")
    return check_recipe(source, inputs=True)


def _run_and_show(recipe: RecipeBase, arguments: argparse.Namespace) -> None:
    from luthier import api
    from luthier.progress import progress_display, track
    from luthier.recipe.grid import run_count

    cells = run_count(recipe.compare)
    with progress_display(is_main() and not arguments.quiet), track(recipe.name, cells) as bar:

        def on_cell(number: int, _count: int, factors: dict[str, Any]) -> None:
            bar.update(
                number,
                ", ".join(str(v.get("name", v) if isinstance(v, dict) else v) for v in factors.values()),
            )

        record = api.run(recipe, output=arguments.output, on_cell=on_cell)
        bar.update(cells, "finished")
    if not is_main():
        return
    _show_table([record.folder])
    if not arguments.no_report:
        from luthier.report.html import write_report

        console().print(f"report: {write_report([record.folder])}", soft_wrap=True)
    if recipe.compare is None:
        from luthier.prediction.asking import next_command

        if (command := next_command(record.folder)) is not None:
            console().print(f"next: {command}", soft_wrap=True)
    told = recipe.compare is not None and recipe.compare.chooses
    for cell in [] if told else record.cells:
        if cell.error:
            console(stderr=True).print(f"failed: {cell.folder.name}: {cell.error}", markup=False, soft_wrap=True)


def _show_table(folders: list[Path]) -> None:
    from luthier.compare.cells import CHOSEN
    from luthier.report.choice import recommend
    from luthier.report.results import read_runs
    from luthier.report.tables import comparison_table
    from luthier.report.terminal import print_details, print_table

    runs = read_runs(folders)
    table = comparison_table(runs)
    print_table(table, console())
    print_details(table, console())
    for run in runs:
        choice = recommend(run)
        if choice is None:
            continue
        console().print(f"{run.name}: {choice.lead}" if len(runs) > 1 else choice.lead, style="bold")
        for text in choice.reasons:
            console().print(text)
        for label, reason in choice.left_out:
            console().print(f"Left out: {label}: {reason}", soft_wrap=True)
        if (run.folder / CHOSEN).exists():
            console().print(f"to run it alone: luthier run {run.folder / CHOSEN}", soft_wrap=True)


def report(arguments: argparse.Namespace) -> None:
    from luthier.report.html import write_report

    place = write_report([Path(r) for r in arguments.runs], Path(arguments.output) if arguments.output else None)
    console().print(f"wrote {place}", soft_wrap=True)


def doctor(_arguments: argparse.Namespace) -> None:
    from luthier.cli.doctor import examine

    console().print(examine())


def schema(arguments: argparse.Namespace) -> None:
    text = json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"
    if arguments.output:
        from luthier.storage.files import write_text
        from luthier.storage.output_places import check_place_of

        check_place_of(Path(arguments.output))
        write_text(Path(arguments.output), text)
        console().print(f"wrote {arguments.output}")
    else:
        sys.stdout.write(text)
