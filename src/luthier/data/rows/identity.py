"""Which rows were scored: one hash of their content, whatever file they came from."""

from __future__ import annotations

import hashlib
from typing import Any

_AT_ONCE = 4096
# Where a row stood in its file says nothing of what it is.
_PLACES = ("row",)


def rows_digest(rows: Any, labels: list[str]) -> str:
    """sha256, in hex, over all columns of checked rows in their order.

    Args:
        rows: a `datasets.Dataset` in canonical columns.
        labels: names of the label ids.
    """
    total = hashlib.sha256(repr(labels).encode())
    columns = sorted(name for name in rows.column_names if name not in _PLACES)
    for start in range(0, len(rows), _AT_ONCE):
        batch = rows[start : start + _AT_ONCE]
        for name in columns:
            values = batch[name]
            total.update(repr((name, values.tolist() if hasattr(values, "tolist") else list(values))).encode())
    return total.hexdigest()
