"""A part of the rows of every split, encoded: enough to tell how long rows are without encoding all of them."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.data.batches.encoding import encode, encode_rows

if TYPE_CHECKING:
    from luthier.data.task_data import TaskData

# Rows drawn at random, rows with the longest texts beside them, and rows that are read of a stream.
DRAWN, LONGEST, STREAMED = 1000, 200, 300


@dataclass(frozen=True)
class Sample:
    """What was looked at of a split.

    Attributes:
        rows: of the split; None for a stream.
        drawn: how many of them were drawn at random, or read of a stream.
        encoded: rows that these became.
        longest: tokens of the longest row that was looked at.
        about: which rows were looked at; empty where it is all of them.
    """

    rows: int | None
    drawn: int
    encoded: int
    longest: int
    about: str

    @property
    def total(self) -> int | None:
        """Encoded rows of the split: exact where one becomes one, or all were looked at."""
        return None if self.rows is None else round(self.rows * self.encoded / max(1, self.drawn))

    @property
    def exact(self) -> bool:
        """Whether `total` is no estimate."""
        return not self.about or self.encoded == self.drawn


@dataclass
class SampleEncoding:
    """`luthier.data.batches.encoding.encode` for a sample of the rows: gives those that were drawn at random.

    Attributes:
        samples: what was looked at of each split.
    """

    samples: dict[str, Sample] = field(default_factory=dict)

    def __call__(self, data: TaskData, tokenizer: Any, **options: Any) -> dict[str, Any]:
        """Raises:
        DataError, ModelError: as `encode`, of the rows that are looked at.
        """
        return {split: self._sampled(split, data, tokenizer, options) for split in data.splits}

    def _sampled(self, split: str, data: TaskData, tokenizer: Any, options: dict[str, Any]) -> Any:
        rows = data.splits[split]
        if not hasattr(rows, "__len__"):
            return self._of_stream(split, data, tokenizer, options)
        total = len(rows)
        if total <= DRAWN + LONGEST:
            encoded = encode(data, tokenizer, splits=(split,), **options)[split]
            self.samples[split] = Sample(total, total, len(encoded), _longest(encoded), "")
            return encoded
        about = f"{LONGEST} with the longest texts and {DRAWN:,} others"
        named = f"split {split!r}, of whose {total:,} rows a sample was looked at"
        parts = [sorted(random.Random(0).sample(range(total), DRAWN)), longest_texts(rows, LONGEST)]
        drawn, long = (
            encode(replace(data, splits={split: rows.select(part)}), tokenizer, named=named, **options)[split]
            for part in parts
        )
        self.samples[split] = Sample(total, DRAWN, len(drawn), max(_longest(drawn), _longest(long)), about)
        return drawn

    def _of_stream(self, split: str, data: TaskData, tokenizer: Any, options: dict[str, Any]) -> Any:
        rows = list(itertools.islice(data.splits[split].rows.read(), STREAMED))
        named, form = f"split {split!r}, of whose rows the first {len(rows)} were looked at", data.form
        encoded = encode_rows(rows, str(data.schema.name), tokenizer, form=form, named=named, **options)
        self.samples[split] = Sample(None, len(rows), len(encoded), _longest(encoded), f"the first {len(rows)}")
        return encoded


def longest_texts(rows: Any, count: int) -> list[int]:
    """0-based indices, in order, of the rows of a `datasets.Dataset` that hold the most bytes of text."""
    table = rows.with_format("arrow")[:]
    sizes = sum((_bytes_of(column) for column in table.columns), np.zeros(len(table), dtype=np.int64))
    found: list[int] = np.sort(np.argsort(sizes, kind="stable")[-count:]).tolist()
    return found


def _bytes_of(column: Any) -> Any:
    """Bytes of text in every cell of a column: texts, and lists of them."""
    import pyarrow
    import pyarrow.compute

    kind = column.type
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        return pyarrow.compute.fill_null(pyarrow.compute.binary_length(column), 0).to_numpy().astype(np.int64)
    if pyarrow.types.is_list(kind):
        array = column.combine_chunks()
        lengths = pyarrow.compute.fill_null(pyarrow.compute.list_value_length(array), 0).to_numpy()
        inner = np.concatenate([[0], np.cumsum(_bytes_of(pyarrow.chunked_array([array.flatten()])))])
        ends = np.cumsum(lengths)
        return inner[ends] - inner[ends - lengths]
    if pyarrow.types.is_struct(kind):
        parts = [_bytes_of(pyarrow.chunked_array([part])) for part in column.combine_chunks().flatten()]
        return sum(parts, np.zeros(len(column), dtype=np.int64))
    return np.zeros(len(column), dtype=np.int64)


def _longest(encoded: Any) -> int:
    return max(encoded["length"][:], default=0) if len(encoded) else 0
