"""What each verb of the command line does: call one part, print its result."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from luthier.errors import ModelError, RecipeError
from luthier.recipe.loading import check_recipe, load_recipe
from luthier.recipe.recipe import RecipeBase, json_schema
from luthier.secrets import redact, redact_values
from luthier.storage.nearby import check_there
from luthier.storage.paths import is_folder
from luthier.storage.ranks import is_main


def console(**arguments: Any) -> Any:
    """A rich console on standard output that prints brackets as they are; wide enough for a table in a pipe.

    Secrets in the texts that it prints are blotted out.
    """
    from rich.console import Console as AnyConsole

    class Console(AnyConsole):
        def print(self, *objects: Any, **options: Any) -> None:
            super().print(*redact_values(objects), **options)

    shown = Console(highlight=False, markup=False, **arguments)
    return (
        shown if shown.is_terminal else Console(highlight=False, markup=False, width=max(shown.width, 110), **arguments)
    )


DEFAULT_RECIPE = "recipe.yaml"
_PRESET_OPTIONS = {"name": "--preset", "steps": "--budget-steps", "minutes": "--budget-minutes"}


def init(arguments: argparse.Namespace) -> None:
    from luthier.cli.starter import starter_recipe

    place = Path(arguments.path)
    if place.exists() and not arguments.force:
        raise RecipeError("the file is there already", where=str(place), fix="name another one, or add --force")
    from luthier.storage.files import write_text

    starter = starter_recipe(arguments.model, arguments.data, arguments.method)
    write_text(place, starter.text)
    for line in starter.said:
        console().print(line, soft_wrap=True)
    for line in starter.doubts:
        console().print(f"not sure: {line}", soft_wrap=True)
    console().print(f"wrote {place}; next: luthier validate {place}, luthier plan {place}, luthier run {place}")


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
    from luthier.recipe.yaml_text import YamlText, parse_value

    grid: dict[str, Any] = {}
    for text in over:
        key, equals, values = text.partition("=")
        if not equals:
            raise RecipeError(f"--over {text}: write KEY=A,B", fix="for example --over seed=13,17,23")
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


def predict(arguments: argparse.Namespace) -> None:
    from luthier.prediction.texts import predict_file, predict_texts
    from luthier.progress import progress_display

    _refuse_pair_of_file(arguments, "name the file's column of second texts as in training, `text_pair`")
    options = {"batch_size": arguments.batch_size, "allow": arguments.allow}
    with progress_display():
        if arguments.text:
            found = predict_texts(arguments.run, arguments.text, arguments.pair, **options)
        else:
            found = predict_file(arguments.run, arguments.file, **options)
    lines = _as_lines(found)
    if arguments.output:
        from luthier.storage.files import write_text

        write_text(Path(arguments.output), lines)
        console().print(f"wrote {len(found)} predictions to {arguments.output}", soft_wrap=True)
    else:
        sys.stdout.write(lines)


def _refuse_pair_of_file(arguments: argparse.Namespace, fix: str) -> None:
    if arguments.file is not None and arguments.pair is not None:
        raise RecipeError("--pair is the second text of a --text, and --file was given", fix=fix)


def extract(arguments: argparse.Namespace) -> None:
    if arguments.suggest and not arguments.output:
        raise RecipeError("--suggest writes a file, and no --output was given", fix="name the file with --output")
    if arguments.column and not arguments.jsonl:
        raise RecipeError("--column is a key of the lines of --jsonl, which was not given", fix="leave it out")
    from luthier.extraction.formats.files import check_format
    from luthier.prediction import extracting
    from luthier.progress import progress_display

    if arguments.suggest:
        check_format(arguments.suggest)
    options = {"tokeniser": arguments.tokeniser}
    with progress_display():
        if arguments.text:
            documents = extracting.documents_of_texts(arguments.text, **options)
        elif arguments.jsonl:
            documents = extracting.documents_of_lines(arguments.jsonl, arguments.column or "text", **options)
        else:
            documents = extracting.documents_of_file(arguments.file, **options)
        found, types = extracting.extract(
            arguments.run, documents, batch_size=arguments.batch_size, allow=arguments.allow
        )
    _write_extractions(arguments, found, types)


def _write_extractions(arguments: argparse.Namespace, found: list[Any], types: Any) -> None:
    from luthier.extraction import write_documents, write_graph, write_view

    written = []
    if arguments.output and arguments.suggest:
        write_documents(arguments.output, found, arguments.suggest, types=types)
        written.append(f"{len(found)} documents to {arguments.output}")
    elif arguments.output:
        from luthier.storage.files import write_text

        write_text(Path(arguments.output), _as_lines(found))
        written.append(f"{len(found)} documents to {arguments.output}")
    if arguments.view:
        written.append(f"a page to {write_view(Path(arguments.view), found, types, title='Extractions')}")
    if arguments.graph:
        written.append(f"a graph to {write_graph(Path(arguments.graph), found)}")
    if not written:
        sys.stdout.write(_as_lines(found))
    for one in written:
        console().print(f"wrote {one}", soft_wrap=True)


def _as_lines(rows: list[Any]) -> str:
    return "".join(json.dumps(redact_values(row), ensure_ascii=False) + "\n" for row in rows)


def attacks(arguments: argparse.Namespace) -> None:
    """Nothing that was asked or answered is printed: only counts and places."""
    from luthier.redteaming.exchange import write_attacks, write_preferences
    from luthier.redteaming.labels import read_labels
    from luthier.redteaming.marks import marks_in
    from luthier.redteaming.reading import attacks_of, preferences_of, round_folders, stage_folders
    from luthier.redteaming.review import write_review

    folder = stage_folders(arguments.run)[-1]
    if arguments.labels and not (arguments.view or arguments.serve):
        raise RecipeError("--labels belongs to --view or --serve", fix="give one of them")
    if arguments.serve and arguments.endpoint:
        raise RecipeError("--serve and --endpoint each serve until they are stopped", fix="give them to two commands")
    if arguments.all and arguments.form == "preferences":
        raise RecipeError("--all has no effect with --form preferences", fix="leave it out")
    if arguments.view:
        page = write_review(folder, arguments.view, read_labels(arguments.labels))
        console().print(f"wrote the review page to {page}", soft_wrap=True)
    if arguments.write:
        if arguments.form == "preferences":
            pairs = preferences_of(folder, arguments.round)
            write_preferences(arguments.write, pairs)
            console().print(f"wrote {len(pairs)} pairs of answers to {arguments.write}", soft_wrap=True)
        else:
            found = attacks_of(folder, arguments.round, every=arguments.all)
            write_attacks(arguments.write, found, arguments.form)
            console().print(f"wrote {len(found)} attacks to {arguments.write}", soft_wrap=True)
    if arguments.serve:
        _serve_review(folder, Path(arguments.labels or "labels.jsonl"), arguments.port or 0)
    if arguments.endpoint:
        _serve_target(folder, arguments.endpoint, arguments.port or 0)
    if not (arguments.view or arguments.write or arguments.serve or arguments.endpoint):
        for mark in marks_in(folder):
            console().print(mark, style="yellow", soft_wrap=True, highlight=False, markup=False)
        for place in round_folders(folder):
            number = int(place.name.removeprefix("round-"))
            written, succeeded = len(attacks_of(folder, [number], every=True)), len(attacks_of(folder, [number]))
            console().print(f"round {number}: {written} attacks were asked, {succeeded} succeeded")


def _serve_review(folder: Path, labels: Path, port: int) -> None:
    from luthier.redteaming.serving import review_server

    server = review_server(folder, labels, port)
    console().print(f"the review page: {server.address}  (Ctrl-C ends it; labels go to {labels})", soft_wrap=True)
    _until_stopped(server)


def _serve_target(folder: Path, when: Any, port: int) -> None:
    from luthier.redteaming.chat_server import chat_server, target_of

    server = chat_server(target_of(folder, when), port, name=f"target-{when}")
    console().print(f"{server.name} answers at {server.address}  (Ctrl-C ends it)", soft_wrap=True)
    _until_stopped(server)


def _until_stopped(server: Any) -> None:
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        console().print("ended")
    finally:
        server.server_close()


def embed(arguments: argparse.Namespace) -> None:
    from luthier.prediction.embedding import embed_file, embed_texts
    from luthier.progress import progress_display

    _refuse_pair_of_file(arguments, "name the file's column of second texts with --pair-column")
    options = {"batch_size": arguments.batch_size, "dtype": arguments.dtype, "allow": arguments.allow}
    with progress_display():
        if arguments.text:
            shape = embed_texts(arguments.run, arguments.text, arguments.output, arguments.pair, **options)
        else:
            columns = {"text": arguments.column, "text_pair": arguments.pair_column}
            shape = embed_file(arguments.run, arguments.file, arguments.output, **columns, **options)
    console().print(f"wrote {shape[0]} vectors of {shape[1]} numbers to {arguments.output}", soft_wrap=True)


def tokenizer(arguments: argparse.Namespace) -> None:
    from luthier.progress import progress_display
    from luthier.report.html import write_sections
    from luthier.report.terminal import print_section_table
    from luthier.storage.files import write_json
    from luthier.vocabulary.comparing import as_data, compare_tokenizers, sections, tables
    from luthier.vocabulary.settings import LanguageText

    place = None if arguments.output is None else Path(arguments.output)
    if place is not None and place.suffix not in (".html", ".json"):
        raise RecipeError("--output is an .html page or a .json file", where=str(place), fix="give it such a name")
    text = LanguageText(folder=arguments.text, text=arguments.column)
    with progress_display():
        measured = compare_tokenizers(arguments.tokenizers, text, lines=arguments.lines)
    for table in tables(measured, brief=True):
        print_section_table(table, console())
    if place is not None and place.suffix == ".json":
        write_json(place, as_data(measured))
    elif place is not None:
        lead = f"{' and '.join(arguments.tokenizers)} on {arguments.text}"
        write_sections(place, "Tokenizers", lead, sections(measured))
    if place is not None:
        console().print(f"wrote {place}", soft_wrap=True)


def export(arguments: argparse.Namespace) -> None:
    check_there(arguments.run, ModelError, "name a finished run, a stage of it, or the stage's `model` folder")
    from luthier.methods.export import export_run
    from luthier.prediction.loading import import_plugins_of

    import_plugins_of(arguments.run, arguments.allow)
    place, holds = export_run(arguments.run, arguments.to, overwrite=arguments.force, allow=tuple(arguments.allow))
    console().print(f"wrote {place}; {holds}", soft_wrap=True)


def list_parts(arguments: argparse.Namespace) -> None:
    from luthier.cli.explain import parts_table

    for table in parts_table(arguments.kind):
        console().print(table)


def explain(arguments: argparse.Namespace) -> None:
    if arguments.name == "rope":
        from luthier.cli.rope import explain_rope

        for shown in explain_rope(arguments):
            console().print(shown)
        return
    given = [name for name in ("model", "length", "kind", "base", "output") if getattr(arguments, name) is not None]
    if given:
        raise RecipeError(f"`{given[0]}` belongs to `luthier explain rope`", fix="leave it out")
    from luthier.cli.explain import explanation

    console().print(explanation(arguments.name))


def doctor(_arguments: argparse.Namespace) -> None:
    from luthier.cli.doctor import examine

    console().print(examine())


def schema(arguments: argparse.Namespace) -> None:
    text = json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"
    if arguments.output:
        from luthier.storage.files import write_text

        write_text(Path(arguments.output), text)
        console().print(f"wrote {arguments.output}")
    else:
        sys.stdout.write(text)
