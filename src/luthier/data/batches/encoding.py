"""Examples -> token ids that a model takes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.data.batches.collating import make_collator, with_pad_token
from luthier.data.batches.encoders import Encoded, Encoder
from luthier.data.schemas import SCHEMAS, TaskSchema
from luthier.data.text_form import TextForm
from luthier.errors import DataError

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
        them, `labels` where there are labels, `word_starts` where words have none, `row` and `length` (tokens).
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
        options = Encoder(tokenizer, max_length, reserved, too_long, encoder_decoder, where, data.form)
        rows = data.splits[split]
        if hasattr(rows, "encoded"):
            found[split] = rows.encoded(options)
            continue
        columns = {name: list(rows[name]) for name in rows.column_names}
        found[split] = _encode_columns(columns, data.kind, options, data.fingerprint)
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
    columns.setdefault("row", list(range(1, len(rows) + 1)))
    options = Encoder(tokenizer, max_length, reserved, too_long, encoder_decoder, named, form)
    task = SCHEMAS[schema] if form is None else SCHEMAS[schema].posed_as(form)
    return _encode_columns(columns, task, options, repr(columns))


def _encode_columns(columns: dict[str, list[Any]], task: TaskSchema, options: Encoder, content: str) -> Any:
    if options.room < 1:
        raise DataError(
            f"{options.reserved} of {options.max_length} positions are reserved, which leaves no room for text"
        )
    with_pad_token(options.tokenizer)
    encoded = task.encode(columns, options)
    if options.cut:
        row, length = max(options.cut, key=lambda pair: pair[1])
        _log.warning(
            "%s: %d of %d rows were cut to %d tokens; the longest, row %d, had %d",
            options.where,
            len(options.cut),
            len(columns["row"]),
            options.room,
            row,
            length,
        )
    if options.unseen:
        _log.warning(
            "%s: %d words of %d rows become no tokens or lie behind the cut, so that they are neither learned nor "
            "judged, and predicted to be nothing; the first is in row %d",
            options.where,
            sum(words for _, words in options.unseen),
            len(options.unseen),
            options.unseen[0][0],
        )
    return _dataset(encoded, f"{content}-{options.where}-{options.room}-{options.form}")


def _dataset(encoded: Encoded, content: str) -> Any:
    import datasets
    import pyarrow

    table = pyarrow.table({name: pyarrow.array(values) for name, values in encoded.items()})
    return datasets.Dataset(table, fingerprint=hashlib.sha256(content.encode()).hexdigest()[:32])
