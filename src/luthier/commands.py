"""What each verb of the command line does: call one part, print its result."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from luthier.errors import RecipeError
from luthier.recipe import RecipeBase, check_recipe, json_schema, load_recipe


def console(**arguments: Any) -> Any:
    """A rich console on standard output that prints brackets as they are; wide enough for a table in a pipe."""
    from rich.console import Console

    shown = Console(highlight=False, markup=False, **arguments)
    return (
        shown if shown.is_terminal else Console(highlight=False, markup=False, width=max(shown.width, 110), **arguments)
    )


def init(arguments: argparse.Namespace) -> None:
    from luthier.starter import starter_recipe

    place = Path(arguments.path)
    if place.exists() and not arguments.force:
        raise RecipeError("the file is there already", where=str(place), fix="name another one, or add --force")
    from luthier.files import write_text

    write_text(place, starter_recipe(arguments.model, arguments.data, arguments.method))
    console().print(f"wrote {place}; next: luthier validate {place}, luthier plan {place}, luthier run {place}")


def validate(arguments: argparse.Namespace) -> None:
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    names = " → ".join(stage.name for stage in recipe.stage_list())
    cells = ""
    if recipe.compare is not None:
        from luthier.grid import cells as grid_cells

        cells = f", a grid of {len(grid_cells(recipe.compare))} runs"
    console().print(f"{arguments.recipe} is valid: {names}{cells}", soft_wrap=True)


def plan(arguments: argparse.Namespace) -> None:
    from luthier.planning import plan_recipe, print_plan
    from luthier.progress import progress_display

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    with progress_display():
        planned = plan_recipe(recipe, Path(arguments.output))
    print_plan(planned, console())


def run(arguments: argparse.Namespace) -> None:
    _run_and_show(load_recipe(arguments.recipe, arguments.overrides), arguments)


def compare(arguments: argparse.Namespace) -> None:
    folders = [Path(t) for t in arguments.targets if Path(t).is_dir()]
    if len(folders) == len(arguments.targets):
        _show_table(folders)
        return
    if len(arguments.targets) > 1:
        raise RecipeError("give one recipe, or only run directories", where=" ".join(arguments.targets))
    recipe = load_recipe(arguments.targets[0], arguments.overrides)
    if arguments.over:
        recipe = _with_grid(recipe, arguments.over)
    if recipe.compare is None:
        raise RecipeError(
            "the recipe has nothing to compare",
            where=arguments.targets[0],
            fix="add a compare block, or --over stages.0.tune.method=full,lora --over seed=13,17",
        )
    _run_and_show(recipe, arguments)


def _with_grid(recipe: RecipeBase, over: list[str]) -> RecipeBase:
    from luthier.yaml_text import dump_yaml, parse_value, parse_yaml

    grid = {}
    for text in over:
        key, equals, values = text.partition("=")
        if not equals:
            raise RecipeError(f"--over {text}: write KEY=A,B", fix="for example --over seed=13,17,23")
        grid[key] = parse_value(f"[{values}]")
    data = recipe.model_dump(mode="json", exclude_unset=True) | {"compare": {"over": grid}}
    return check_recipe(parse_yaml(dump_yaml(data), "--over"))


def _run_and_show(recipe: RecipeBase, arguments: argparse.Namespace) -> None:
    from luthier import runner
    from luthier.progress import progress_display, track

    cells = 1
    if recipe.compare is not None:
        from luthier.grid import cells as grid_cells

        cells = len(grid_cells(recipe.compare))
    with progress_display(not arguments.quiet), track(recipe.name, cells) as bar:

        def on_cell(number: int, _count: int, factors: dict[str, Any]) -> None:
            bar.update(
                number,
                ", ".join(str(v.get("name", v) if isinstance(v, dict) else v) for v in factors.values()),
            )

        record = runner.run(recipe, output=arguments.output, on_cell=on_cell)
        bar.update(cells, "finished")
    _show_table([record.folder])
    if not arguments.no_report:
        from luthier.report.html import write_report

        console().print(f"report: {write_report([record.folder])}", soft_wrap=True)
    for cell in record.cells:
        if cell.error:
            console(stderr=True).print(f"failed: {cell.folder.name}: {cell.error}", markup=False, soft_wrap=True)


def _show_table(folders: list[Path]) -> None:
    from luthier.report.results import read_runs
    from luthier.report.tables import comparison_table, print_table

    print_table(comparison_table(read_runs(folders)), console())


def report(arguments: argparse.Namespace) -> None:
    from luthier.report.html import write_report

    place = write_report([Path(r) for r in arguments.runs], Path(arguments.output) if arguments.output else None)
    console().print(f"wrote {place}", soft_wrap=True)


def predict(arguments: argparse.Namespace) -> None:
    from luthier.prediction import predict_file, predict_texts
    from luthier.progress import progress_display

    with progress_display():
        if arguments.text:
            found = predict_texts(arguments.run, arguments.text, arguments.pair, batch_size=arguments.batch_size)
        else:
            found = predict_file(arguments.run, arguments.file, batch_size=arguments.batch_size)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
    if arguments.output:
        from luthier.files import write_text

        write_text(Path(arguments.output), lines)
        console().print(f"wrote {len(found)} predictions to {arguments.output}", soft_wrap=True)
    else:
        sys.stdout.write(lines)


def list_parts(arguments: argparse.Namespace) -> None:
    from luthier.explain import parts_table

    for table in parts_table(arguments.kind):
        console().print(table)


def explain(arguments: argparse.Namespace) -> None:
    from luthier.explain import explanation

    console().print(explanation(arguments.name))


def doctor(_arguments: argparse.Namespace) -> None:
    from luthier.doctor import examine

    console().print(examine())


def schema(arguments: argparse.Namespace) -> None:
    text = json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"
    if arguments.output:
        from luthier.files import write_text

        write_text(Path(arguments.output), text)
        console().print(f"wrote {arguments.output}")
    else:
        sys.stdout.write(text)
