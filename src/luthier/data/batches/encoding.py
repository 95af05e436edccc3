"""Examples -> token ids that a model takes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from luthier.data.batches.arrow import record_batch, write_batches
from luthier.data.batches.collating import make_collator, with_pad_token
from luthier.data.batches.encoded_cache import CHUNK, WORTH_KEEPING, EncodedCache, encoding_key
from luthier.data.batches.encoders import Encoded, Encoder
from luthier.data.batches.notes import Notes, rows_before, tell
from luthier.data.batches.packing import PACKED_TOGETHER, Packer, tokens_of
from luthier.data.batches.unusable import UnusableRowsError
from luthier.data.schemas import SCHEMAS, TaskSchema
from luthier.data.text_form import TextForm
from luthier.errors import DataError, WorkspaceError
from luthier.progress import track

if TYPE_CHECKING:
    from luthier.data.task_data import TaskData

__all__ = ["encode", "encode_rows", "make_collator"]
_log = logging.getLogger(__name__)


def encode(
    data: TaskData,
    tokenizer: Any,
    *,
    max_length: int,
    reserved: int = 0,
    too_long: str = "error",
    splits: Sequence[str] | None = None,
    encoder_decoder: bool = False,
    named: str | None = None,
) -> dict[str, Any]:
    """Encode splits for a model.

    Args:
        data: checked examples.
        tokenizer: the model's; one without a padding token gets its end token for that, which is logged.
        max_length: positions that the model may use.
        reserved: positions kept free for a tuning method.
        too_long: `error` names the rows that are longer; `truncate` cuts them and logs how many.
        splits: which ones; all by default.
        encoder_decoder: prompt/response only: responses become the labels of a decoder of its own.
        named: what messages call the rows; the split's name by default.

    Returns:
        By split, a `datasets.Dataset` with `input_ids`, `attention_mask`, `token_type_ids` where the tokenizer gives
        them, `labels` where there are labels, `word_starts` where words are labelled, `row` and `length` (tokens).
        Multiple choice nests lists by choice; extractive answers have `start_positions`, `end_positions` and `offsets`
        and may have several windows a row; a task that is posed as text has the columns of
        `luthier.data.batches.label_text`.
        A streamed split stays a stream.

    Raises:
        DataError: rows are too long, or nothing of a row is left to learn from.
        ModelError: the tokenizer does not fit.
    """
    found = {}
    for split in data.splits if splits is None else splits:
        if split not in data.splits:
            raise DataError(f"there is no split {split!r}", fix=f"the data has: {', '.join(data.splits)}")
        where = named or f"split {split!r}"
        told = tuple(data.labels) if data.schema.tells_labels else ()
        options = Encoder(tokenizer, max_length, reserved, too_long, encoder_decoder, where, data.form, told)
        rows = data.splits[split]
        if hasattr(rows, "encoded"):
            found[split] = rows.encoded(options)
            continue
        source = _Source(len(rows), partial(_part_of, rows), rows)
        found[split] = _encoded(source, data.kind, options, f"encoding {split}", f"{data.fingerprint}-{split}")
    return found


def encode_rows(
    rows: Sequence[Mapping[str, Any]],
    schema: str,
    tokenizer: Any,
    *,
    max_length: int,
    reserved: int = 0,
    too_long: str = "error",
    encoder_decoder: bool = False,
    form: TextForm | None = None,
    named: str = "rows",
) -> Any:
    """Encode rows that are no part of a loaded set, as `encode` does.

    Args:
        rows: canonical columns, with `row` or without; all rows have the same ones.
        schema: name of the task schema.
        tokenizer, max_length, reserved, too_long, encoder_decoder: as in `encode`.
        form: how the task is posed as text, or None.
        named: what messages call them.

    Returns:
        A `datasets.Dataset`.

    Raises:
        DataError, ModelError: as `encode`.
    """
    if not rows:
        raise DataError("there are no rows to encode")
    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in rows[0]}
    columns.setdefault("row", [rows_before() + number for number in range(1, len(rows) + 1)])
    options = Encoder(tokenizer, max_length, reserved, too_long, encoder_decoder, named, form)
    task = SCHEMAS[schema] if form is None else SCHEMAS[schema].posed_as(form)

    def part(start: int, stop: int) -> dict[str, list[Any]]:
        return {name: values[start:stop] for name, values in columns.items()}

    return _encoded(_Source(len(rows), part), task, options, f"encoding {named}", repr(columns))


def _part_of(rows: Any, start: int, stop: int) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = rows[start:stop]
    return columns


@dataclass(frozen=True)
class _Source:
    """Rows that are encoded.

    Attributes:
        total: how many.
        part: start, stop -> their columns.
        dataset: the `datasets.Dataset` that they are, or None.
    """

    total: int
    part: Callable[[int, int], dict[str, list[Any]]]
    dataset: Any = None


def _encoded(source: _Source, task: TaskSchema, options: Encoder, told: str, content: str) -> Any:
    import datasets

    if options.room < 1:
        raise DataError(
            f"{options.reserved} of {options.max_length} positions are reserved, which leaves no room for text"
        )
    with_pad_token(options.tokenizer)
    table, notes, key = _found_or_made(source, task, options, told)
    tell(notes, options.where, source.total, options.room)
    name = (
        key
        or hashlib.sha256(
            f"{content}-{options.where}-{options.room}-{options.form}-{options.labels}".encode()
        ).hexdigest()
    )
    return datasets.Dataset(table, fingerprint=name[:32])


def _found_or_made(source: _Source, task: TaskSchema, options: Encoder, told: str) -> tuple[Any, Notes, str | None]:
    """The table of the encoded rows, what is told of them, and the key that they are kept under, if they are."""
    key = _key_of(source, task, options)
    if key is None:
        return *_in_memory(source, task, options, told), None
    cache = EncodedCache()
    found = cache.open(key)
    if found is not None:
        table, noted = found
        return table, Notes(**noted | {"longest": tuple(noted["longest"])}), key
    notes = Notes()
    try:
        with cache.writing(key) as (file, finish):
            write_batches(file, _batches(source, task, options, told, notes))
            finish(vars(notes))
    except WorkspaceError as error:
        _log.warning("encoded rows are held in memory, and encoded again in the next run: %s", error)
        return *_in_memory(source, task, options, told), None
    table, _ = cache.open(key) or (None, None)
    return (table, notes, key) if table is not None else (*_in_memory(source, task, options, told), None)


def _key_of(source: _Source, task: TaskSchema, options: Encoder) -> str | None:
    rows = source.dataset
    if rows is None or rows.data.nbytes * len(rows) < WORTH_KEEPING * max(1, rows.data.num_rows):
        return None
    settings = {
        "max_length": options.max_length,
        "reserved": options.reserved,
        "too_long": options.too_long,
        "encoder_decoder": options.encoder_decoder,
        "form": None if options.form is None else vars(options.form),
        **({"labels": options.labels} if options.labels else {}),
    }
    return encoding_key(rows, options.tokenizer, task, settings)


def _in_memory(source: _Source, task: TaskSchema, options: Encoder, told: str) -> tuple[Any, Notes]:
    import pyarrow

    notes = Notes()
    batches = list(_batches(source, task, options, told, notes))
    return pyarrow.Table.from_batches(batches) if batches else pyarrow.table({}), notes


def _batches(source: _Source, task: TaskSchema, options: Encoder, told: str, notes: Notes) -> Iterator[Any]:
    """Arrow batches of the encoded rows, made one after another."""
    schema = None
    with track(told, source.total) if source.total > CHUNK else nullcontext() as bar:
        for done, encoded in _chunks(source, task, options):
            notes.take(options)
            if encoded:
                batch = record_batch(encoded, schema)
                schema = batch.schema
                yield batch
            if bar is not None:
                bar.update(done)


def _chunks(source: _Source, task: TaskSchema, options: Encoder) -> Iterator[tuple[int, Encoded]]:
    """Encoded rows a part at a time, each with the number of rows done before it is over.

    Raises:
        DataError: rows can't be encoded; tells of those of all parts.
    """
    if task.packed:
        yield from _packed(source, options)
        return
    options.conversations = _any_history(source)
    failed: UnusableRowsError | None = None
    for start in range(0, max(1, source.total), CHUNK):
        stop = min(start + CHUNK, source.total)
        try:
            encoded = task.encode(source.part(start, stop), options)
        except UnusableRowsError as error:
            failed = error if failed is None else failed.joined(error)
            options.cut, options.unseen = [], []
            continue
        if failed is None:
            yield stop, encoded
    if failed is not None:
        raise failed.told(failed.rows, options.counted)


def _any_history(source: _Source) -> bool | None:
    if "history" not in source.part(0, 1):
        return None
    return any(any(source.part(start, start + CHUNK)["history"]) for start in range(0, source.total, CHUNK))


def _packed(source: _Source, options: Encoder) -> Iterator[tuple[int, Encoded]]:
    """Blocks that are cut from the texts of all rows together."""
    packer = Packer(options)
    blocks: list[dict[str, Any]] = []
    for start in range(0, source.total, PACKED_TOGETHER):
        some = source.part(start, start + PACKED_TOGETHER)
        packer.add(some["row"], tokens_of(some["text"], options))
        blocks += packer.blocks()
        last = start + PACKED_TOGETHER >= source.total
        blocks += packer.rest() if last else ()
        if last or len(blocks) >= PACKED_TOGETHER:
            yield min(start + PACKED_TOGETHER, source.total), _side_by_side(blocks)
            blocks = []


def _side_by_side(rows: list[dict[str, Any]]) -> Encoded:
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
