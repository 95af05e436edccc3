"""Entities and relations of new texts, told by a model for joint extraction that Luthier saved."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

from luthier.data.sources.base import FileSource, resolve, unpacked
from luthier.errors import DataError
from luthier.extraction.documents import Document, with_places
from luthier.extraction.formats.base import ReadingOptions, file_at
from luthier.extraction.formats.files import read_documents
from luthier.extraction.tokens import tokenise
from luthier.extraction.types import Types
from luthier.models.quiet import noise_logged
from luthier.models.settings import Danger
from luthier.prediction.loading import check_batch_size, check_run, load_predictor

Written = TypeVar("Written")


def documents_of_texts(texts: Sequence[str], *, tokeniser: str = "words") -> list[Document]:
    """Texts as documents without annotations, with the tokenisers of `luthier.extraction.tokens`.

    Raises:
        DataError: a text holds no words; names it by its number.
    """
    made = []
    for number, text in enumerate(texts, 1):
        offsets = tokenise(text, tokeniser)
        if not offsets:
            raise DataError(f"text {number} holds no words", fix="leave it out")
        tokens = [text[start:end] for start, end in offsets]
        made.append({"tokens": tokens, "text": text, "offsets": offsets, "entities": [], "relations": []})
    return made


def documents_of_file(file: str | Path, *, tokeniser: str = "words", encoding: str = "utf-8") -> list[Document]:
    """Documents of a file: one text a line where it is a .txt, and otherwise any format of annotated documents, of
    which annotations may be there or not, and are not read.

    Raises:
        DataError: the file can't be read.
    """
    from luthier.data.reading.lines import ReadOptions, decoded_lines

    source = resolve(str(file)) if unpacked(str(file)).lower().endswith(".txt") and not Path(file).is_dir() else None
    if isinstance(source, FileSource):
        with source.open() as stream:
            lines = decoded_lines(stream, source.name, ReadOptions(encoding=encoding))
            return documents_of_texts([line for _, line in lines if line.strip()], tokeniser=tokeniser)
    options = ReadingOptions(tokeniser=tokeniser, align="widen", encoding=encoding)
    corpus = read_documents(file, invalid="drop", options=options)
    if not corpus.documents or corpus.findings.counts["document"]:  # a text that is not read is not told of
        corpus.findings.raise_if_faulty("correct the file")
    return corpus.documents


def documents_of_lines(
    file: str | Path, column: str = "text", *, tokeniser: str = "words", encoding: str = "utf-8"
) -> list[Document]:
    """Documents of the texts under one key of a JSON-lines file, each with the `id` of its line where there is one.

    Raises:
        DataError: the file can't be read, or a line has no text there.
    """
    from luthier.data.reading.readers import ReadOptions, read_table
    from luthier.data.table import Problems, shorten

    table = read_table(file_at(Path(file)), ReadOptions(format="jsonl", encoding=encoding))
    problems = Problems(str(file))
    texts = table.columns.get(column, [None] * len(table))
    for row, text in enumerate(texts):
        if not isinstance(text, str) or not tokenise(text, tokeniser):
            problems.add(table.place(row), f"has {shorten(text)} under `{column}`, which holds no words")
    problems.raise_if_any(f"the keys are: {', '.join(table.columns)}; name that of the texts with --column")
    made = documents_of_texts(texts, tokeniser=tokeniser)
    names = table.columns.get("id", [None] * len(table))
    return [one if name is None else {"id": name, **one} for one, name in zip(made, names, strict=True)]


def extract(
    run: str | Path, documents: Sequence[Document], *, batch_size: int = 64, allow: Collection[Danger] = ()
) -> tuple[list[Document], Types]:
    """Entities and relations of documents, each with its score.

    Args:
        run: a run, cell, stage or model directory.
        documents: with `tokens`; `id`, `text` and `offsets` are kept, annotations are replaced.
        batch_size: windows in one forward pass.
        allow: as in `luthier.prediction.predict_texts`.

    Returns:
        The documents with what was found, in their order, and the types that the model tells apart.

    Raises:
        ModelError: the directory holds no whole model, or one of another task.
    """
    from luthier.models.predictor import in_parts

    with noise_logged():
        answer, types = _asked(run, batch_size, allow)
        answers = [one for part in in_parts(_rows(documents), answer, batch_size) for one in part]
    return _found(documents, answers), types


def extract_and_write(
    run: str | Path,
    documents: Sequence[Document],
    output: str | Path,
    write: Callable[[list[Document], Types], Written],
    *,
    batch_size: int = 64,
    allow: Collection[Danger] = (),
) -> Written:
    """The same, and what is found is written. Until that is done it is kept beside the output, and the same call goes
    on with one that was stopped.

    Args:
        output: a file that `write` makes.
        write: documents and types -> what is returned.

    Raises:
        WorkspaceError: the output can't be written, or another process writes it.
    """
    from luthier.prediction.writing import answered, as_lines, key_of
    from luthier.storage.part_file import kept_parts

    rows = _rows(documents)
    with noise_logged():
        answer, types = _asked(run, batch_size, allow)
        with kept_parts(Path(output), key_of(run)) as kept:
            keys, _ = answered(kept, rows, answer, as_lines, batch_size)
            answers = [json.loads(line) for key in keys for line in kept.read(key).split(b"\n") if line]
            return write(_found(documents, answers), types)


def _asked(
    run: str | Path, batch_size: int, allow: Collection[Danger]
) -> tuple[Callable[[list[Any]], list[Any]], Types]:
    """What answers rows, and the types that it tells apart."""
    from luthier.extraction.pipeline import check_task
    from luthier.prediction.texts import answers_of

    check_batch_size(batch_size)
    check_run(run)
    predictor: Any = load_predictor(run, allow)
    card = check_task(getattr(predictor, "card", None), str(run))
    model, tokenizer = predictor.loaded
    return lambda rows: answers_of(model, tokenizer, card, rows, batch_size), Types.of_labels(card.labels or [])


def _rows(documents: Sequence[Document]) -> list[Any]:
    return [{"tokens": list(one["tokens"]), "row": number} for number, one in enumerate(documents, 1)]


def _found(documents: Sequence[Document], answers: Sequence[Any]) -> list[Document]:
    kept = ("id", "tokens", "text", "offsets")
    return [
        with_places(
            {key: one[key] for key in kept if key in one}
            | {key: [_rounded(item) for item in answer[key]] for key in ("entities", "relations")}
        )
        for one, answer in zip(documents, answers, strict=True)
    ]


def _rounded(item: dict[str, Any]) -> dict[str, Any]:
    return item | {"score": round(float(item["score"]), 6)}
