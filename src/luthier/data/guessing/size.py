"""About how many rows a file has, of which the first ones are known."""

from __future__ import annotations

import json

from luthier.data.guessing.sample import Sample
from luthier.data.sources.base import FileSource


def rows_about(source: FileSource, sample: Sample) -> int | None:
    """All rows where they were looked at; else as many as fit into the file at the length of the first ones, and None
    for a packed file, whose size tells little."""
    table = sample.table
    if sample.whole:
        return len(table)
    if source.member is not None or source.path.name.lower().endswith(".gz"):
        return None
    kind = sample.keys.get("format") or source.format
    if kind == "parquet":
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(source.path) as file:
            return int(file.metadata.num_rows)
    named = kind in ("json", "jsonl")
    length = sum(_length(table.record(row), named=named) for row in range(len(table)))
    return max(len(table), round(source.path.stat().st_size * len(table) / max(1, length)))


def _length(record: dict[str, object], *, named: bool) -> int:
    """Bytes that a row takes in a file, with its separators."""
    if named:
        return len(json.dumps(record, ensure_ascii=False, default=str).encode("utf-8", "replace")) + 1
    cells = [one for cell in record.values() for one in (cell if isinstance(cell, list) else [cell])]
    return sum(len(str(one).encode("utf-8", "replace")) + 1 for one in cells)
