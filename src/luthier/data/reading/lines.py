"""Bytes of a text file -> its lines, with every fault named by line and byte.

A file is read in blocks, which are checked and decoded as one; from the first block that has a fault on, line by line,
so that the fault has its place.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from luthier.data.reading.places import Place
from luthier.errors import DataError

if TYPE_CHECKING:
    from luthier.data.sources.base import FileSource

BYTE_ORDER_MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_BLOCK = 1 << 20


@dataclass(frozen=True)
class ReadOptions:
    """How a file is read.

    Attributes:
        format: csv, tsv, jsonl, json, parquet, txt or conll; None goes by the file's name.
        delimiter: field separator of csv and tsv.
        column_names: columns of csv and tsv files without a header line.
        encoding: of text files.
        max_line_bytes: longest line that is believed.
        tagged: whether every word of a conll file has its tag.
    """

    format: str | None = None
    delimiter: str | None = None
    column_names: tuple[str, ...] | None = None
    encoding: str = "utf-8"
    max_line_bytes: int = 8_000_000
    tagged: bool = True


def shown_encoding(source: FileSource, stated: str) -> str:
    """The encoding of a file: as stated, unless a byte order mark names another, or the bytes are UTF-8 beyond ASCII,
    which text in another encoding is next to never.

    Args:
        source: a text file.
        stated: what the file should have.

    Raises:
        DataError: it can't be read.
    """
    with source.open() as stream:
        start = stream.read(_BLOCK)
    if start.startswith(codecs.BOM_UTF8):
        return "utf-8"
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            return encoding
    return "utf-8" if not start.isascii() and b"\0" not in start and is_utf8(start) else stated


def is_utf8(start: bytes) -> bool:
    """Whether the first bytes of a file are UTF-8; the last character may be cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return True


def decoded_lines(
    stream: IO[bytes], name: str, options: ReadOptions, start: Place | None = None
) -> Iterator[tuple[int, str]]:
    """Number and text of every line, without its line break.

    Args:
        stream, name, options: the bytes, what messages call them, and how they are read.
        start: where in the file the stream is, if not at its start.

    Raises:
        DataError: empty file, NUL byte, bytes that are not in the encoding, a line that is too long, or several that
            end with carriage returns alone.
    """
    for number, lines in decoded_blocks(stream, name, options, start):
        yield from enumerate(lines, number)


def decoded_blocks(
    stream: IO[bytes], name: str, options: ReadOptions, start: Place | None = None
) -> Iterator[tuple[int, list[str]]]:
    """The lines of a file in runs: the number of the first line, and the lines without their breaks.

    Raises:
        DataError: as `decoded_lines`, when all lines before the fault have been given.
    """
    held_something = start is not None and start.line > 0
    for number, lines in _raw_blocks(stream, name, options, start or Place()):
        held_something = held_something or any(map(str.strip, lines))
        yield number, lines
    if not held_something:
        raise DataError("the file is empty", where=name, fix="is it the right file?")


def _raw_blocks(stream: IO[bytes], name: str, options: ReadOptions, start: Place) -> Iterator[tuple[int, list[str]]]:
    if not breaks_lines_as_ascii(name, options):
        for number, text in _character_lines(stream, name, options):
            yield number, [text.rstrip("\r\n")]
        return
    number, offset, kept = start.line + 1, start.offset, b""
    blockwise = _decodes_line_by_line(options.encoding)
    while blockwise:
        block = stream.read(_BLOCK)
        kept += block
        end = kept.rfind(b"\n") + 1 if block else len(kept)
        part = kept[:end]
        lines = _lines_of(part, number == 1, options) if len(kept) - end <= options.max_line_bytes else None
        if lines is None:
            break
        if number == 1 and len(lines) == 1:
            refuse_other_ends(part, name)
        if part:
            yield number, lines
            kept, number, offset = kept[end:], number + len(lines), offset + end
        if not block:
            return
    for line, text in _byte_lines(_Reread(kept, stream), number, offset, name, options):
        yield line, [text.rstrip("\r\n")]


def refuse_other_ends(start: bytes, name: str) -> None:
    """Refuse a file whose first line, which has no line feed, is several.

    Raises:
        DataError: they end with carriage returns alone.
    """
    if b"\n" not in start and start.strip(b"\r").count(b"\r") > 1:
        raise DataError(
            "its lines end with carriage returns alone, as those of old Macs do",
            where=name,
            fix="save it with line feeds, as by `tr '\\r' '\\n' < FILE > NEW_FILE`",
        )


def _decodes_line_by_line(encoding: str) -> bool:
    """Whether lines that are decoded together are what each is alone, with breaks only where the bytes have them."""
    return codecs.lookup(encoding).name.startswith(("utf-8", "ascii", "iso8859", "cp125")) and "sig" not in encoding


def _lines_of(part: bytes, first: bool, options: ReadOptions) -> list[str] | None:
    """The lines in a run of whole lines; None where one of them has a fault."""
    if b"\0" in part or (first and part.startswith(_foreign_marks(options))):
        return None
    if len(part) > options.max_line_bytes and max(map(len, part.split(b"\n"))) >= options.max_line_bytes:
        return None
    try:
        text = (part.removeprefix(codecs.BOM_UTF8) if first else part).decode(options.encoding)
    except UnicodeError:
        return None
    lines = text.removesuffix("\n").split("\n")
    return [line.rstrip("\r") for line in lines] if "\r" in text else lines


class _Reread:
    """Bytes that were read of a stream already, and then the rest of it."""

    def __init__(self, known: bytes, stream: IO[bytes]) -> None:
        self._known, self._stream = io.BytesIO(known), stream

    def readline(self, size: int) -> bytes:
        line = self._known.readline(size)
        return line if line.endswith(b"\n") or len(line) == size else line + self._stream.readline(size - len(line))


def breaks_lines_as_ascii(name: str, options: ReadOptions) -> bool:
    """Whether a line break is the one byte in an encoding that it is in ASCII.

    Raises:
        DataError: there is no such encoding.
    """
    try:
        return "\n".encode(options.encoding) == b"\n"
    except (LookupError, ValueError) as error:
        raise DataError(
            f"there is no encoding called {options.encoding!r} for text",
            where=name,
            fix="set `encoding` to what the file has, such as utf-8, utf-16 or windows-1252",
        ) from error


def _byte_lines(
    stream: _Reread, number: int, offset: int, name: str, options: ReadOptions
) -> Iterator[tuple[int, str]]:
    """Lines one by one, from the line `number`, which starts at the byte `offset`."""
    while raw := stream.readline(options.max_line_bytes + 1):
        if len(raw) > options.max_line_bytes:
            raise _too_long(stream, len(raw), number, name, options)
        mark = _mark_length(raw, name, options) if number == 1 else 0
        yield number, _decode(raw[mark:], offset + mark, number, name, options)
        offset += len(raw)
        number += 1


def _character_lines(stream: IO[bytes], name: str, options: ReadOptions) -> Iterator[tuple[int, str]]:
    """Lines of an encoding such as UTF-16, in which a line break is not the one byte that it is in ASCII."""
    reader, number = io.TextIOWrapper(stream, options.encoding, newline="\n"), 0
    try:
        while text := reader.readline(options.max_line_bytes + 1):
            number += 1
            if len(text) > options.max_line_bytes:
                raise _too_long(reader, len(text), number, name, options)
            if "\0" in text:
                raise _holds_nul(f"line {number}", name, options)
            yield number, text.removeprefix("\ufeff") if number == 1 else text
    except UnicodeError as error:
        raise DataError(
            f"line {number + 1}, or one soon after it, is not valid {options.encoding}: "
            f"{getattr(error, 'reason', error)}",
            where=name,
            fix="set `encoding` to what the file has, such as utf-8 or utf-16-le, or save the file as UTF-8",
        ) from error


def _foreign_marks(options: ReadOptions) -> tuple[bytes, ...]:
    """Byte order marks of other encodings than the one that is stated."""
    return tuple(BYTE_ORDER_MARKS) if _is_utf8_named(options) else (*BYTE_ORDER_MARKS, codecs.BOM_UTF8)


def _is_utf8_named(options: ReadOptions) -> bool:
    return codecs.lookup(options.encoding).name.startswith("utf-8")


def _mark_length(raw: bytes, name: str, options: ReadOptions) -> int:
    other = next((encoding for mark, encoding in BYTE_ORDER_MARKS.items() if raw.startswith(mark)), None)
    if other and _is_utf8_named(options):
        raise DataError(
            f"the file starts with the byte order mark of {other}",
            where=name,
            fix=f"set `encoding: {other}`, or save it as UTF-8",
        )
    if not raw.startswith(codecs.BOM_UTF8):
        return 0
    if not _is_utf8_named(options):
        raise DataError(
            f"the file starts with the byte order mark of utf-8, and is to be read as {options.encoding}",
            where=name,
            fix="leave `encoding` out, or save all files in the encoding that it names",
        )
    return len(codecs.BOM_UTF8)


def _too_long(stream: Any, length: int, number: int, name: str, options: ReadOptions) -> DataError:
    while part := stream.readline(1 << 20):
        length += len(part)
        if part[-1:] in ("\n", b"\n"):
            break
    return DataError(
        f"line {number} is {length / 1e6:.1f} MB long; more than {options.max_line_bytes / 1e6:g} MB is not believed",
        where=name,
        fix="is it the format its name says, with one example a line? If so, raise `max_line_megabytes`",
    )


def _decode(raw: bytes, offset: int, number: int, name: str, options: ReadOptions) -> str:
    if b"\0" in raw:
        raise _holds_nul(f"line {number}", name, options, f", at byte {offset + raw.index(0)} of the file")
    try:
        return raw.decode(options.encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"line {number} is not valid {options.encoding}: byte 0x{raw[error.start]:02x} "
            f"at byte {offset + error.start} of the file",
            where=name,
            fix="save the file as UTF-8, or set `encoding` to what it is, such as windows-1252 of Excel",
        ) from error
    except UnicodeError as error:
        raise DataError(f"line {number} is not valid {options.encoding}: {error}", where=name) from error


def _holds_nul(line: str, name: str, options: ReadOptions, place: str = "") -> DataError:
    return DataError(
        f"{line} holds a NUL byte{place}",
        where=name,
        fix=f"the file is binary, damaged, or not {options.encoding.upper()} text: "
        "set `encoding` to what it is, or save it as UTF-8 text",
    )
