"""Where a reader is in a text file, so that another one can go on from there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Generic, TypeVar

T = TypeVar("T")


class Reading(Generic[T]):
    """Rows that are read one after another, and where the reader is.

    Args:
        rows: what is read.
        place: gives what tells another reading to begin behind the row that was given last.
    """

    def __init__(self, rows: Iterator[T], place: Callable[[], dict[str, Any]]) -> None:
        self._rows, self.place = rows, place

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        return next(self._rows)


@dataclass
class Place:
    """A place between two lines of a text file.

    Attributes:
        offset: bytes before it, of the decompressed file.
        line, row: number of the line and of the row before it; 0 at the start.
    """

    offset: int = 0
    line: int = 0
    row: int = 0


class LineStarts:
    """The bytes of a stream from a place on, of whose lines it is known where each ends.

    Args:
        stream: at its start.
        place: where to begin.
    """

    def __init__(self, stream: IO[bytes], place: Place) -> None:
        self._stream, self._read, self._line = stream, place.offset, place.line
        self._ends: deque[int] = deque()
        if place.offset:
            stream.seek(place.offset)

    def read(self, size: int = -1) -> bytes:
        return self._noted(self._stream.read(size))

    def readline(self, size: int = -1) -> bytes:
        return self._noted(self._stream.readline(size))

    def behind(self, line: int) -> int:
        """How many bytes there are up to the end of a line; lines are asked for in their order."""
        while self._line < line and self._ends:
            self._line, end = self._line + 1, self._ends.popleft()
            if self._line == line:
                return end
        return self._read

    def _noted(self, part: bytes) -> bytes:
        found = part.find(b"\n")
        while found >= 0:
            self._ends.append(self._read + found + 1)
            found = part.find(b"\n", found + 1)
        self._read += len(part)
        return part
