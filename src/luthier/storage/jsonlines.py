"""An append-only log of JSON objects, one a line, that survives a kill in the middle of a write."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from luthier.storage.files import json_text, reporting_failed_writes


class JsonLog:
    """Appends one object a line and flushes it. A line that a crash cut short is closed before the next one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: str, **fields: Any) -> None:
        """Append `{"event": event, "time": unix seconds, **fields}`."""
        record = {"event": event, "time": round(time.time(), 3), **{k: _plain(v) for k, v in fields.items()}}
        line = json_text(record, indent=None)
        with reporting_failed_writes(self.path), self.path.open("a+b") as file:
            if file.tell() and not _ends_with_newline(self.path):
                line = "\n" + line
            file.write(line.encode("utf8", "backslashreplace"))


def read_log(path: Path, *, errors: str = "replace") -> list[dict[str, Any]]:
    """Every whole line of a log; torn ones are left out.

    Args:
        path: of the log.
        errors: what bytes that are not UTF-8 become, as of `bytes.decode`.
    """
    records = []
    for line in path.read_text(encoding="utf8", errors=errors).split("\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
