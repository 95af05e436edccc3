"""Lines of a text file from any place in it, each with the place behind it."""

from __future__ import annotations

import itertools
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import NoReturn

from luthier.data.reading.lines import refuse_other_ends
from luthier.data.reading.readers import ReadOptions, decoded_lines
from luthier.data.sources.base import FileSource
from luthier.errors import DataError


def lines_from(
    source: FileSource, options: ReadOptions, offset: int = 0, number: int = 0
) -> Iterator[tuple[int, str, int]]:
    """Number, text without its line break, and the offset behind it, of every line after a place.

    Args:
        source: the file.
        options: its encoding, and the longest line that is believed.
        offset: decompressed bytes in front of the place; a plain file is not read up to there.
        number: lines in front of it.

    Raises:
        DataError: the file can't be read, a line is not text in the encoding, or too long, or lines end with carriage
            returns alone.
    """
    if not _breaks_lines_as_ascii(options.encoding):
        with source.open() as stream:
            for count, text in itertools.islice(decoded_lines(stream, source.name, options), number, None):
                yield count, text, 0
        return
    with source.open() as stream:
        stream.seek(offset)
        while raw := stream.readline(options.max_line_bytes + 1):
            if not offset:
                refuse_other_ends(raw, source.name)
            line = raw if offset else raw.removeprefix(BOM_UTF8)
            decoded = None if len(raw) > options.max_line_bytes or b"\0" in raw else _decoded(line, options.encoding)
            text = _refused(source, options, number + 1) if decoded is None else decoded
            offset, number = offset + len(raw), number + 1
            yield number, text.rstrip("\r\n"), offset


def _breaks_lines_as_ascii(encoding: str) -> bool:
    try:
        return "\n".encode(encoding) == b"\n"
    except (LookupError, ValueError):
        return False


def _decoded(raw: bytes, encoding: str) -> str | None:
    try:
        return raw.decode(encoding)
    except UnicodeError:
        return None


def _refused(source: FileSource, options: ReadOptions, number: int) -> NoReturn:
    """Read the file again from its start, with the reader that says what is wrong with a line."""
    with source.open() as stream:
        for _ in decoded_lines(stream, source.name, options):
            pass
    raise DataError(f"line {number} can't be read as {options.encoding}", where=source.name)
