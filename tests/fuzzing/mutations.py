"""Changes to small files that are sound: of their bytes, their lines, their cells, and the values in their JSON."""

from __future__ import annotations

import copy
import json
import random
import re
import struct
from collections.abc import Callable
from typing import Any

TEXTS = (
    "", " ", "a", "\u200b", "\u202eabc", "\ud800", "\0", "\n", "\r", "\t", '"', "'", ",", "\\", "nan", "NaN", "None",
    "null", "true", "1", "1.0", "-1", "1e400", "²", "٣", "1_000", "O", "B-", "B-x", "I-x", "-", "=1+1", "<b>x</b>",
    "{{x}}", "%s", "{", "[", "[]", "{}", "../x", "/etc/passwd", "~", "$HOME", "${X}", "é" * 3, "e\u0301", "한",
    "x" * 3000, "x " * 700,
)  # fmt: skip
NUMBERS = (
    0, -0.0, 1, -1, 2, 3.5, 10**6, 2**31, 2**32, 2**53 + 1, 2**63, -(2**63), 2**64, 10**30, 1e-320, 1e308,
    float("inf"), float("-inf"), float("nan"),
)  # fmt: skip
BYTES = (
    b"\0", b"\xff", b"\xfe\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\n", b"\r", b"\r\n", b"\t", b'"',
    b"'", b",", b";", b"\\", b"{", b"}", b"[", b"]", b":", b"#", b"&a ", b"*a", b"!!x ", b"- ", b"? ", b"|", b">", b"%",
    b"\x1a",
    b"\xe2\x80\xa8", b"\xc2\x85", b"NaN", b"1e999", b"-", b"9" * 5000, b"[" * 3000, b"\\ud800", b"\\u0000",
)  # fmt: skip

Change = Callable[[bytes, random.Random], bytes]


def of_bytes(content: bytes, draw: random.Random) -> bytes:
    """A few bytes flipped, cut, doubled, moved, or put in."""
    found = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 8))):
        place = draw.randrange(len(found) + 1)
        end = min(len(found), place + draw.choice((1, 1, 2, 4, 16, 64, len(found) // 2)))
        kind = draw.randrange(6)
        if kind == 0 and place < len(found):
            found[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del found[place:end]
        elif kind == 2:
            found[place:place] = found[place:end] * draw.choice((1, 1, 2, 50))
        elif kind == 3:
            found[place:end] = draw.choice(BYTES)
        elif kind == 4:
            found[place:place] = draw.choice(BYTES)
        else:
            del found[place:]
    return bytes(found)


def of_lines(content: bytes, draw: random.Random) -> bytes:
    """Lines lost, doubled, swapped, joined, indented; a word put in place of another."""
    lines = content.split(b"\n")
    for _ in range(draw.choice((1, 1, 2, 3))):
        place, other = draw.randrange(len(lines)), draw.randrange(len(lines))
        kind = draw.randrange(7)
        if kind == 0 and len(lines) > 1:
            del lines[place]
        elif kind == 1:
            lines[place:place] = [lines[other]] * draw.choice((1, 1, 20))
        elif kind == 2:
            lines[place], lines[other] = lines[other], lines[place]
        elif kind == 3:
            lines[place] = lines[place] + draw.choice((b" ", b"\t", b",", b"")) + lines[other]
        elif kind == 4:
            lines[place] = draw.choice((b" ", b"  ", b"\t", b"    ")) + lines[place]
        else:
            lines[place] = _with_another_word(lines[place], draw)
    return b"\n".join(lines)


def _with_another_word(line: bytes, draw: random.Random) -> bytes:
    separator = draw.choice([one for one in (b"\t", b",", b" ", b": ", b"=") if one in line] or [b" "])
    words = line.split(separator)
    words[draw.randrange(len(words))] = _text(draw).encode("utf-8", "surrogatepass")
    return separator.join(words)


def of_words(content: bytes, draw: random.Random) -> bytes:
    """A value of a recipe put in place of another, of any type that YAML has."""
    values = re.findall(rb"[\w./-]+", content)
    found = list(re.finditer(rb"[\w./-]+|\{[^{}]*\}|\[[^\[\]]*\]", content))
    place = draw.choice(found)
    other = draw.choice(
        (
            draw.choice(values),
            json.dumps(_text(draw)).encode(),
            str(draw.choice(NUMBERS)).encode(),
            draw.choice(
                (b"null", b"[]", b"{}", b"true", b"~", b"[1, 2]", b"{name: lora}", b"2001-01-01", b".inf", b"0x1F")
            ),
        )
    )
    return content[: place.start()] + other + content[place.end() :]


def of_json(content: bytes, draw: random.Random) -> bytes:
    """Values of one JSON text replaced, lost, nested, or of another type; keys renamed."""
    return _dumped(changed(json.loads(content), draw), draw)


def of_json_lines(content: bytes, draw: random.Random) -> bytes:
    """As `of_json`, of lines with one value each."""
    records = [json.loads(line) for line in content.splitlines() if line.strip()]
    if draw.random() < 0.3:
        number = draw.randrange(len(records))
        records[number] = changed(records[number], draw)
    else:
        records = changed(records, draw)
        records = records if isinstance(records, list) else [records]
    return b"\n".join(_dumped(one, draw) for one in records) + b"\n"


def of_safetensors(content: bytes, draw: random.Random) -> bytes:
    """The header's JSON changed; the numbers as they were."""
    size = struct.unpack("<Q", content[:8])[0]
    header = of_json(content[8 : 8 + size], draw)
    return struct.pack("<Q", len(header)) + header + content[8 + size :]


def of_parquet(content: bytes, draw: random.Random) -> bytes:
    """A table of the same kind with cells of other values and types, written by the library itself."""
    import io

    import pyarrow
    import pyarrow.parquet

    records = pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
    out = io.BytesIO()
    try:
        records = [one for one in changed(records, draw) if isinstance(one, dict)]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), out)
    except (TypeError, ValueError, OverflowError, UnicodeError, pyarrow.ArrowException):
        return of_bytes(content, draw)
    return out.getvalue()


def changed(value: Any, draw: random.Random) -> Any:
    """A JSON value with a few of its parts changed."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        value = _changed_once(value, draw)
    return value


def _changed_once(value: Any, draw: random.Random) -> Any:
    holder, key = None, None
    at = value
    while isinstance(at, dict | list) and at and draw.random() < 0.85:
        holder, key = at, draw.choice(list(at)) if isinstance(at, dict) else draw.randrange(len(at))
        at = at[key]
    if holder is None:
        return _replaced(value, draw)
    kind = draw.randrange(5)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[draw.choice((*list(holder), _text(draw)))] = holder.pop(key)
    elif kind == 2 and isinstance(holder, list):
        holder.insert(draw.randrange(len(holder) + 1), copy.deepcopy(draw.choice(holder)))
    else:
        holder[key] = _replaced(at, draw)
    return value


def _replaced(value: Any, draw: random.Random) -> Any:
    kind = draw.randrange(10)
    if kind < 2:
        return _text(draw)
    if kind < 4:
        return draw.choice(NUMBERS)
    if kind == 4:
        return draw.choice((None, True, False, [], {}, [[]], [None], {"": None}, [{}]))
    if kind == 5:
        return [value]
    if kind == 6:
        return {_text(draw): value}
    if kind == 7:
        return json.dumps(value) if draw.random() < 0.5 else str(value)
    if kind == 8 and isinstance(value, int | float) and not isinstance(value, bool):
        return draw.choice((value + 1, value - 1, -value, float(value), value * 1000))
    nested: Any = value
    for _ in range(draw.choice((2, 5, 200))):
        nested = [nested]
    return nested


def _text(draw: random.Random) -> str:
    return draw.choice(TEXTS) if draw.random() < 0.9 else draw.choice(TEXTS) + draw.choice(TEXTS)


def _dumped(value: Any, draw: random.Random) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    except RecursionError:
        return b"[" * 5000
