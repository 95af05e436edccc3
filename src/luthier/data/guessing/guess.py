"""From the name of a training file to the keys of a data block, and the reasons for them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.data.catalogue.lookup import set_of_source
from luthier.data.guessing.columns import columns_of
from luthier.data.guessing.sample import Sample, read_sample, reread
from luthier.data.guessing.size import rows_about
from luthier.data.guessing.tasks import TaskGuess, guess_task
from luthier.data.reading.heads import MOST_BYTES
from luthier.data.reading.lines import ReadOptions, shown_encoding
from luthier.data.schemas import SCHEMAS
from luthier.data.settings import DataSettings
from luthier.data.sources.base import FileSource, FolderSource, annotated_folder, resolve
from luthier.data.sources.origins import plan
from luthier.data.table import Problems, Table, is_missing
from luthier.errors import DataError

_VALIDATION = ("validation", "valid", "val", "dev", "eval", "development")
_TEST = ("test",)
_LENGTHS = (32, 64, 128, 256, 512, 1024, 2048)
_TOKENS_OF_WORD, _BYTES_OF_TOKEN, _SPECIAL_TOKENS = 1.4, 3.5, 4
_LEFT_OUT = 0.02
# Letters beyond it may be a token each: few vocabularies have words of every alphabet.
_LAST_LATIN = "\u024f"
# What a chat template writes around a prompt and its response, beside the special tokens of any row: a system text of
# its own, and who speaks.
_TEMPLATE_TOKENS = 28
# A part of a set that is in several files, as data sets on the Hub have them.
_PART = re.compile(r"(\d+)-of-(\d+)")


@dataclass(frozen=True)
class Guess:
    """What a training file seems to hold.

    Attributes:
        task: as in recipes; None where the examples were not looked at.
        keys: of the data block, in the order in which they are written.
        metrics: names of what the task is scored by.
        said: what was found, for people.
        doubts: what else it could be, and how to say so.
        examples: about how many there are to learn from, or None where that is not known.
        exchanges: whether rows hold conversations of several messages.
    """

    task: str | None
    keys: dict[str, Any]
    metrics: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    doubts: tuple[str, ...] = field(default=())
    examples: int | None = None
    exchanges: bool = False


def guess_data(source: str) -> Guess:
    """Look at the first rows of a file, or at what is known about a set. Nothing is downloaded.

    Raises:
        DataError: there is no such file, it can't be read, or it holds nothing to learn from.
    """
    found = annotated_folder(source) or resolve(source)
    if not isinstance(found, FileSource | FolderSource):
        return _of_set(source)
    sample = _annotated(found)
    if sample is None:
        if isinstance(found, FolderSource):
            raise DataError("holds no annotated text", where=source, fix="is it the right folder?")
        sample = read_sample(found)
    guess, table = guess_task(sample.table)
    keys = {"task": guess.task} | _with_column_names(sample.keys, guess.keys)
    count = len(sample.table)
    if count == 1:
        seen = "the only row" if sample.whole else "the first row"
    else:
        seen = f"{'all' if sample.whole else 'the first'} {count} rows"
    said = [f"looked at {seen}; the columns are {', '.join(map(repr, sample.table.columns))}"]
    said += [*sample.said, f"the task is {guess.task}", *guess.said]
    doubts = [*sample.doubts, *guess.doubts]
    _refuse_too_few(guess, table, sample)
    if not sample.whole and guess.task in ("single_sentence", "pair"):
        doubts.append("labels that only later rows have are found when the data are loaded")
    part = _PART.search(found.path.name) if isinstance(found, FileSource) else None
    if part and int(part[2]) > 1:
        doubts.append(
            f"by its name it is one of {int(part[2])} parts, and the others are not read: join them to one file"
        )
    splits, about_splits = _splits_beside(found, source, sample, guess)
    if "validation" not in splits:
        splits["validation_fraction"] = _share(len(table)) if sample.whole else 0.1
    length, told = _max_length(guess, table)
    keys |= splits | {"max_length": length}
    return Guess(
        guess.task,
        keys,
        SCHEMAS[guess.task].metrics_for(guess.labels) if guess.labels else SCHEMAS[guess.task].metrics,
        (*said, *about_splits, told),
        tuple(doubts),
        _examples(_rows(found, sample), sample, _learned_at_once(guess, table, length), splits),
        guess.exchanges,
    )


def _rows(source: FileSource | FolderSource, sample: Sample) -> int | None:
    return len(sample.table) if isinstance(source, FolderSource) else rows_about(source, sample)


def _learned_at_once(guess: TaskGuess, table: Table, length: int) -> float:
    """Examples that the rows of a table are: as many as rows, or as blocks that their texts fill one after another."""
    if not SCHEMAS[guess.task].packed:
        return len(table)
    return sum(_tokens([text], 0) for text in table.columns[str(guess.keys.get("text", "text"))]) / length


def _examples(rows: int | None, sample: Sample, of_sample: float, splits: dict[str, Any]) -> int | None:
    """Examples to learn from: of a row that was read may become several, or a part of one, and a share of them may be
    cut off."""
    if rows is None:
        return None
    return max(1, round(rows * of_sample / len(sample.table) * (1 - splits.get("validation_fraction", 0.0))))


def _annotated(source: FileSource | FolderSource) -> Sample | None:
    """The rows of a file or folder in a format of a task's own that hold what the task learns; None for any other."""
    if isinstance(source, FileSource) and (source.format == "conll" or source.path.stat().st_size > MOST_BYTES):
        return None
    for name, schema in SCHEMAS.items():
        noted = Problems(source.name)
        try:
            table = schema.read_source(source, ReadOptions(), noted)
        except DataError:
            if isinstance(source, FolderSource):
                raise
            continue
        if table is not None and any(table.columns[schema.label_column or ""]):
            doubts = (f"{noted.count} annotations can't be used: `luthier validate` names them",) if noted.count else ()
            return Sample(table, said=(f"annotated as the task {name} reads it",), doubts=doubts)
    return None


def _of_set(source: str) -> Guess:
    known = set_of_source(source)
    if known is None:
        unseen = "a set on the Hub, which is not looked at here, as nothing is downloaded"
        doubt = "the task follows from the columns when the set is loaded: see `luthier plan`, or name it with `task`"
        return Guess(None, {"max_length": 128}, (), (unseen,), (doubt,))
    whole = "#" not in source
    plan(DataSettings(**{"source" if whole else "train": source}))
    said = (f"a set that is known: its task is {known.task}", f"labels: {', '.join(known.labels or ()) or 'its own'}")
    keys: dict[str, Any] = {} if whole else {"validation_fraction": 0.1}
    if whole and "validation" not in known.splits and "validation" not in (known.cut or {}):
        keys["validation_fraction"] = 0.1
    return Guess(known.task, keys | {"max_length": 256}, known.metrics, said)


def _with_column_names(read: dict[str, Any], named: dict[str, Any]) -> dict[str, Any]:
    """The keys, where the columns of a file without a header line are called as the task calls them."""
    if "column_names" not in read:
        return read | named
    canonical = {column: name for name, column in named.items() if isinstance(column, str)}
    names = [canonical.get(column, column) for column in read["column_names"]]
    rest = {name: column for name, column in named.items() if not isinstance(column, str)}
    return read | {"column_names": names} | rest


def _refuse_too_few(guess: TaskGuess, table: Table, sample: Sample) -> None:
    if not sample.whole:
        return
    if len(table) < 2:
        raise DataError(
            "there is one row, which is too few to train on and to validate",
            where=table.name,
            fix="give more rows; if the first line is an example, too, name the columns with `column_names`",
        )
    if guess.task in ("single_sentence", "pair"):
        label = columns_of(table)[str(guess.keys.get("label", "label"))]
        if len(set(label.labels)) < 2:
            raise DataError(
                f"the examples have only one label: {', '.join(map(repr, sorted(set(label.labels))))}",
                where=table.name,
                fix="give examples of at least two labels",
            )


def _share(rows: int) -> float:
    """The share of the rows to validate on, so that neither part is empty."""
    return 0.1 if rows >= 10 else 0.2 if rows >= 5 else 0.5


def _splits_beside(
    file: FileSource | FolderSource, source: str, sample: Sample, guess: TaskGuess
) -> tuple[dict[str, Any], list[str]]:
    """Files or folders beside the training one that their names and columns tell to be its other splits."""
    keys: dict[str, Any] = {}
    said: list[str] = []
    if isinstance(file, FileSource) and file.member is not None:
        return keys, said
    for split, names in (("validation", _VALIDATION), ("test", _TEST)):
        for name in _siblings(file.path, names):
            problem = _unlike(file, name, sample, guess)
            if problem:
                said.append(f"{name} lies beside it and is left out: {problem}")
                continue
            keys[split] = source.rstrip("/").removesuffix(file.path.name) + name
            said.append(f"{name} lies beside it, and is taken for {split}")
            break
    return keys, said


def _siblings(path: Path, names: tuple[str, ...]) -> Iterator[str]:
    """The files beside a training file that have another split's name in place of `train`, or are called so alone."""
    suffix = "".join(path.suffixes[-2:]) if path.name.endswith((".gz", ".zst")) else path.suffix
    alike = [one for one in path.parent.iterdir() if one.is_dir() == path.is_dir() and one != path]
    present = {one.name.lower(): one.name for one in alike}
    for name in names:
        replaced, count = re.subn(r"train(ing)?", name, path.name.lower(), count=1)
        wanted = replaced if count else f"{name}{suffix}".lower()
        if wanted in present:
            yield present[wanted]


def _unlike(file: FileSource | FolderSource, name: str, sample: Sample, guess: TaskGuess) -> str | None:
    """Why another file or folder can't be a split of the same data; None where it can."""
    path = file.path.with_name(name)
    try:
        if isinstance(file, FolderSource):
            annotated = _annotated(FolderSource(path, name))
            return None if annotated else "holds no annotated text"
        annotated = _annotated(FileSource(path, None, name))
        encoding = str(sample.keys.get("encoding", "utf-8"))
        if annotated is None and shown_encoding(FileSource(path, None, name), encoding) != encoding:
            return f"it is not in {encoding}"
        table = annotated.table if annotated else reread(FileSource(path, None, name), sample.keys)
    except DataError as error:
        return error.what.splitlines()[0]
    needed = {one for value in guess.keys.values() for one in (value if isinstance(value, list) else [value])}
    needed = {one for one in needed if isinstance(one, str) and one in sample.table.columns}
    needed |= {one for one in (*guess.shown, *_learned(guess)) if one in sample.table.columns}
    missing = sorted(needed - set(table.columns))
    if missing:
        return f"it has no column {missing[0]!r}"
    learned = [one for one in _learned(guess) if one in table.columns]
    empty = [one for one in learned if all(is_missing(value) or value == "" for value in table.columns[one])]
    return f"its column {empty[0]!r} is empty" if empty else None


def _learned(guess: TaskGuess) -> tuple[str, ...]:
    column = SCHEMAS[guess.task].label_column
    named = guess.keys.get(column or "", column)
    return () if named is None else tuple(named) if isinstance(named, list) else (str(named),)


def _max_length(guess: TaskGuess, table: Table) -> tuple[int, str]:
    """Tokens that nearly all rows fit into."""
    if guess.task == "plain_text":
        return 256, "the texts are packed one after another into blocks of 256 tokens"
    shown = [name for name in guess.shown if name in table.columns]
    template = _TEMPLATE_TOKENS if guess.task == "prompt_response" else 0
    lengths = sorted(
        template + _tokens([table.columns[name][row] for name in shown], template // 4) for row in range(len(table))
    )
    nearly_all = lengths[min(len(lengths) - 1, int(len(lengths) * (1 - _LEFT_OUT)))]
    if guess.task == "extractive_qa":
        length = next((one for one in (128, 256, 384) if one >= nearly_all), 384)
        return length, f"the longest rows have about {lengths[-1]} tokens; contexts over {length} are read in windows"
    most = 2048 if guess.task == "prompt_response" else 512
    length = min(next((one for one in _LENGTHS if one >= nearly_all), most), most)
    told = f"the longest rows have about {lengths[-1]} tokens, so max_length is {length}"
    longer = sum(one > length for one in lengths)
    return length, told + (f": about {longer} of {len(lengths)} are cut" if longer else "")


def _tokens(cells: list[Any], of_message: int) -> int:
    """Tokens of a row's cells, with so many beside each message that was said before."""
    total = 0.0
    for cell in cells:
        total += of_message * len(cell) if isinstance(cell, list) else 0
        for text in _texts_in(cell):
            words, others = len(text.split()), sum(one > _LAST_LATIN for one in text)
            latin = len("".join(one for one in text if one <= _LAST_LATIN).encode())
            total += max(_TOKENS_OF_WORD * words, latin / _BYTES_OF_TOKEN + others) + 1
    return round(total) + _SPECIAL_TOKENS


def _texts_in(cell: Any) -> list[str]:
    if isinstance(cell, str):
        return [cell]
    if isinstance(cell, dict):
        return [text for value in cell.values() for text in _texts_in(value)]
    return [text for one in cell for text in _texts_in(one)] if isinstance(cell, list) else []
