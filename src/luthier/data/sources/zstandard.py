"""Zstandard files as streams, read with Arrow, which `datasets` brings."""

from __future__ import annotations

import io
from typing import IO, Any


class _Lent:
    """A stream that stays open when Arrow is done with it."""

    closed = False

    def __init__(self, stream: IO[bytes]) -> None:
        self.read = stream.read

    def close(self) -> None:
        """Leaves it as it is."""


class _Decompressed(io.RawIOBase):
    """The decompressed bytes, which can be read on and, by reading again, from any earlier place."""

    def __init__(self, compressed: IO[bytes]) -> None:
        import pyarrow

        self._compressed, self._arrow = compressed, pyarrow
        self._stream, self._place = self._opened(), 0

    def _opened(self) -> object:
        self._compressed.seek(0)
        return self._arrow.CompressedInputStream(self._arrow.PythonFile(_Lent(self._compressed), mode="r"), "zstd")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        content = self._stream.read(len(view))  # type: ignore[attr-defined]
        view[: len(content)] = content
        self._place += len(content)
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset += self._place
        elif whence != io.SEEK_SET:
            raise io.UnsupportedOperation("the end of a compressed stream is not known")
        if offset < self._place:
            self._stream, self._place = self._opened(), 0
        while self._place < offset:
            skipped = self._stream.read(min(1 << 20, offset - self._place))  # type: ignore[attr-defined]
            if not skipped:
                break
            self._place += len(skipped)
        return self._place

    def tell(self) -> int:
        return self._place


def open_zstandard(compressed: IO[bytes]) -> io.BufferedReader:
    """The decompressed bytes of a stream.

    Raises:
        OSError: while reading, where it is no whole Zstandard stream.
    """
    return io.BufferedReader(_Decompressed(compressed))
