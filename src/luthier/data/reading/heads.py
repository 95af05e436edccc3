"""The first rows of a file, as a table: enough to see its columns, whatever its size."""

from __future__ import annotations

import itertools
from typing import Any

from luthier.data.reading.readers import ReadOptions, iterate_rows, read_table, refuse_equal_names
from luthier.data.sources.base import FileSource
from luthier.data.table import Problems, Table
from luthier.errors import DataError

ROWS = 200
# A json file is one value, and a packed archive one stream: to see a part of them is to read them whole.
MOST_BYTES = 20_000_000


def head_of(source: FileSource, options: ReadOptions, rows: int = ROWS) -> Table | None:
    """At most the first `rows` rows that can be read; rows with faults are passed over.

    Returns:
        None where they can't be had without reading much more, or where each has a fault.

    Raises:
        DataError: the file is empty, can't be read, or has no rows.
    """
    if not source.path.stat().st_size:
        raise DataError("the file is empty", where=source.name, fix="is it the right file?")
    kind = options.format or source.format
    packed = source.member is not None or source.path.name.lower().endswith((".gz", ".zst"))
    if (kind == "json" or packed) and source.path.stat().st_size > MOST_BYTES:
        return None
    if kind == "parquet":
        return head_of_parquet(source, rows)
    if kind == "json":
        whole = read_table(source, options)
        columns = {name: values[:rows] for name, values in whole.columns.items()}
        return Table(whole.name, columns, whole.lines[:rows] if whole.lines else None)
    problems = Problems(source.name)
    found = list(itertools.islice(iterate_rows(source, options, problems), rows))
    if not found and not problems.count:
        raise DataError("the file has no rows", where=source.name, fix="is it the right file?")
    return Table.of_records(source.name, [r.cells for r in found], [r.line for r in found]) if found else None


def head_of_parquet(source: FileSource, rows: int) -> Table:
    """The first rows of a parquet file.

    Raises:
        DataError: it is none, or has no rows.
    """
    import io

    import pyarrow
    import pyarrow.parquet

    plain = source.member is None and not source.path.name.lower().endswith((".gz", ".zst"))
    try:
        place: Any = source.path if plain else io.BytesIO(source.read())
        with pyarrow.parquet.ParquetFile(place) as file:
            refuse_equal_names(file.schema_arrow.names, source.name)
            batch = next(file.iter_batches(rows), None)
        columns = {} if batch is None else {name: batch.column(name).to_pylist() for name in batch.schema.names}
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(
            f"is not a whole parquet file: {error}", where=source.name, fix="is the file whole, and what its name says?"
        ) from error
    if batch is None or not batch.num_rows:
        raise DataError("the file has no rows", where=source.name, fix="is it the right file?")
    return Table(source.name, columns)
