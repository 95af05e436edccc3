"""Records of a run as JSON lines, each with an id. While a step writes them they are appended; when it is done they
stand in the order of what was asked, so that a run that was killed leaves the same file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from luthier.storage.files import json_text, reporting_failed_writes, write_bytes
from luthier.storage.jsonlines import read_log

Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """Every whole record; a line that a kill cut short is left out. Nothing where there is no file."""
    return read_log(path, errors="surrogateescape") if path.is_file() else []


def write_records(path: Path, records: Iterable[Record]) -> Path:
    """Write all in one step."""
    text = "".join(json_text(record, indent=None) for record in records)
    write_bytes(path, text.encode("utf8", "backslashreplace"))
    return path


class Appending:
    """A file of records that is written bit by bit.

    Args:
        path: of the file; what an earlier, stopped call left there is kept.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = {str(one["id"]): one for one in read_records(path)}
        if self.records or path.exists():
            write_records(path, self.records.values())  # without a torn line

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(self.records)

    def add(self, records: Sequence[Record]) -> None:
        """Append those whose id is not there yet."""
        new = [one for one in records if str(one["id"]) not in self.records]
        if not new:
            return
        text = "".join(json_text(record, indent=None) for record in new)
        with reporting_failed_writes(self.path), self.path.open("ab") as file:
            file.write(text.encode("utf8", "backslashreplace"))
        self.records |= {str(one["id"]): one for one in new}

    def finish(self, order: Sequence[str]) -> list[Record]:
        """Rewrite the file in that order of ids, and give the records."""
        kept = [self.records[one] for one in order]
        write_records(self.path, kept)
        return kept
