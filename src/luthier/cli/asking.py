"""The verbs that ask what a run made, or any tokenizer."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from luthier.cli.messages import console
from luthier.errors import ModelError, RecipeError
from luthier.storage.nearby import check_there


def predict(arguments: argparse.Namespace) -> None:
    from luthier.prediction.texts import predict_file, predict_texts
    from luthier.prediction.writing import write_predictions
    from luthier.progress import progress_display

    _refuse_pair_of_file(arguments, "name the file's column of second texts as in training, `text_pair`")
    _check_lines_place(arguments.output, arguments.run, arguments.file)
    how = {"batch_size": arguments.batch_size, "allow": arguments.allow}
    if arguments.file and arguments.output:
        with progress_display():
            rows, before = write_predictions(arguments.run, arguments.file, arguments.output, **how)
        told = f", {before} of them by an earlier command" if before else ""
        console().print(f"wrote {rows} predictions to {arguments.output}{told}", soft_wrap=True)
        return
    with progress_display():
        if arguments.text:
            found = predict_texts(arguments.run, arguments.text, arguments.pair, **how)
        else:
            found = predict_file(arguments.run, arguments.file, **how)
    _write_lines(found, arguments.output)
    if arguments.output:
        console().print(f"wrote {len(found)} predictions to {arguments.output}", soft_wrap=True)


def _write_lines(rows: list[Any], output: str | None) -> None:
    from luthier.prediction.writing import as_lines, place_of_output
    from luthier.storage.files import write_bytes

    if output is None:
        sys.stdout.write(as_lines(rows).decode())
    else:
        write_bytes(place_of_output(output), as_lines(rows))


def _check_lines_place(output: str | None, run: str, *read: str | None) -> None:
    """Refuse what can't be written when all is done, before anything is."""
    if output is None:
        return
    from luthier.prediction.writing import place_of_output

    place_of_output(output, *read, run=run)
    if Path(output).suffix.lower() in (".csv", ".tsv", ".parquet"):
        raise RecipeError("JSON lines are written", where=output, fix="name the file .jsonl")


def _refuse_pair_of_file(arguments: argparse.Namespace, fix: str) -> None:
    if arguments.file is not None and arguments.pair is not None:
        raise RecipeError("--pair is the second text of a --text, and --file was given", fix=fix)


def _refuse_equal(*outputs: str | None) -> None:
    places = [os.path.realpath(one) for one in outputs if one is not None]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise RecipeError("two outputs would be written there", where=place, fix="name another file for one")


def extract(arguments: argparse.Namespace) -> None:
    if arguments.suggest and not arguments.output:
        raise RecipeError("--suggest writes a file, and no --output was given", fix="name the file with --output")
    if arguments.column and not arguments.jsonl:
        raise RecipeError("--column is a key of the lines of --jsonl, which was not given", fix="leave it out")
    from luthier.extraction.formats.files import check_format, check_place
    from luthier.prediction import extracting
    from luthier.prediction.writing import place_of_output
    from luthier.progress import progress_display

    read = arguments.file, arguments.jsonl
    places = [arguments.view, arguments.graph]
    if arguments.suggest:
        check_format(arguments.suggest)
        check_place(arguments.output, arguments.suggest)
        places += [] if arguments.suggest == "brat" else [arguments.output]  # that is a folder
    else:
        _check_lines_place(arguments.output, arguments.run, *read)
    for place in filter(None, places):
        place_of_output(place, *read, run=arguments.run)
    _refuse_equal(arguments.output, arguments.view, arguments.graph)
    options = {"tokeniser": arguments.tokeniser}
    with progress_display():
        if arguments.text:
            documents = extracting.documents_of_texts(arguments.text, **options)
        elif arguments.jsonl:
            documents = extracting.documents_of_lines(arguments.jsonl, arguments.column or "text", **options)
        else:
            documents = extracting.documents_of_file(arguments.file, **options)
        how = {"batch_size": arguments.batch_size, "allow": arguments.allow}
        if arguments.output:
            write = partial(_write_extractions, arguments)
            written = extracting.extract_and_write(arguments.run, documents, arguments.output, write, **how)
        else:
            found, types = extracting.extract(arguments.run, documents, **how)
    if not arguments.output:
        written = _write_extractions(arguments, found, types)
    for one in written:
        console().print(f"wrote {one}", soft_wrap=True)


def _write_extractions(arguments: argparse.Namespace, found: list[Any], types: Any) -> list[str]:
    """What was written, in words; nothing where it went to standard output."""
    from luthier.extraction import write_documents, write_graph, write_view
    from luthier.progress import tell

    written = []
    if arguments.output and arguments.suggest:
        how: dict[str, Any] = {"types": types, "invalid": "drop", "suggestions": True}
        left_out = write_documents(arguments.output, found, arguments.suggest, **how).faults
        if left_out.count:
            tell(f"{arguments.suggest} can't hold all of it; left out is\n  {left_out.listed()}")
        written.append(f"{len(found)} documents to {arguments.output}")
    elif arguments.output:
        _write_lines(found, arguments.output)
        written.append(f"{len(found)} documents to {arguments.output}")
    if arguments.view:
        written.append(f"a page to {write_view(Path(arguments.view), found, types, title='Extractions')}")
    if arguments.graph:
        written.append(f"a graph to {write_graph(Path(arguments.graph), found, types)}")
    if not written:
        _write_lines(found, None)
    return written


def embed(arguments: argparse.Namespace) -> None:
    from luthier.data.rows.canonical import MissingColumnsError
    from luthier.prediction.embedding import embed_file, embed_texts
    from luthier.progress import progress_display

    _refuse_pair_of_file(arguments, "name the file's column of second texts with --pair-column")
    if arguments.text and (arguments.column or arguments.pair_column):
        given = "--column" if arguments.column else "--pair-column"
        raise RecipeError(f"{given} is a column of --file, which was not given", fix="leave it out")
    options = {"batch_size": arguments.batch_size, "dtype": arguments.dtype, "allow": arguments.allow}
    with progress_display():
        if arguments.text:
            shape = embed_texts(arguments.run, arguments.text, arguments.output, arguments.pair, **options)
        else:
            columns = {"text": arguments.column or "text", "text_pair": arguments.pair_column}
            try:
                shape = embed_file(arguments.run, arguments.file, arguments.output, **columns, **options)
            except MissingColumnsError as error:
                raise error.advising("name it with --column, or --pair-column") from None
    console().print(f"wrote {shape[0]} vectors of {shape[1]} numbers to {arguments.output}", soft_wrap=True)


def tokenizer(arguments: argparse.Namespace) -> None:
    from luthier.data.rows.canonical import MissingColumnsError
    from luthier.progress import progress_display
    from luthier.report.html import write_sections
    from luthier.report.terminal import print_section_table
    from luthier.storage.files import write_json
    from luthier.storage.output_places import check_place_of
    from luthier.vocabulary.comparing import as_data, compare_tokenizers, sections, tables
    from luthier.vocabulary.settings import LanguageText

    place = None if arguments.output is None else Path(arguments.output)
    if place is not None and place.suffix not in (".html", ".json"):
        raise RecipeError("--output is an .html page or a .json file", where=str(place), fix="give it such a name")
    text = LanguageText(folder=arguments.text, text=arguments.column)
    if place is not None:
        check_place_of(place, *Path(arguments.text).rglob("*"))
    with progress_display():
        try:
            measured = compare_tokenizers(arguments.tokenizers, text, lines=arguments.lines)
        except MissingColumnsError as error:  # which advises a key of a recipe
            raise error.advising("name the one that holds the text with --column") from None
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
