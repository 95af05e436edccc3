"""`${env:NAME}` in recipes: filled in from the environment when a stage runs, and never written anywhere.

What is written is blotted out twice: values while they are still values (`redact_values`, before JSON or YAML escapes
them), and text that a library wrote or formatted (`redact`), where a secret may be escaped in any way.

Not every value can be hidden. One of fewer than `SHORTEST` characters, a word of fewer than `SHORTEST_WORD` letters, or
a part of a name that recipes use would blot out every place where it stands by chance, numbers and keys among them.
Such a value is filled in as any other, and a warning names its variable.
"""

from __future__ import annotations

import base64
import logging
import os
import re
from functools import lru_cache
from html.entities import codepoint2name
from typing import Any

from luthier.errors import RecipeError

logger = logging.getLogger(__name__)
SHORTEST, SHORTEST_WORD = 4, 8
HIDDEN = "•••"
_REFERENCE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
_known: dict[str, str] = {}
_told: set[str] = set()
# Bytes that a whole encoded secret needs before it can't stand in a text by chance.
_SHORTEST_ENCODED = 6
# JSON inside JSON doubles backslashes: so many levels are looked through.
_LEVELS = 5
_ESCAPES = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f", "\v": "v", "\a": "a", "\0": "0", "\x1b": "e"}
_ESCAPES |= {"\x85": "N", "\xa0": "_", "\u2028": "L", "\u2029": "P"}
_MAYBE_SLASHES = r"\\{0,31}"
_SLASHES = r"\\{1,32}"
# Where a long double-quoted text of YAML goes on in the next line.
_FOLD = r"(?:\\?\n[ ]*+)?"


def references(value: Any) -> set[str]:
    """Names of the environment variables that a recipe value refers to."""
    if isinstance(value, str):
        return set(_REFERENCE.findall(value))
    if isinstance(value, dict):
        return set().union(*(references(v) for v in value.values()), set())
    if isinstance(value, list | tuple):
        return set().union(*(references(v) for v in value), set())
    return set()


def expand(value: Any) -> Any:
    """The value with every reference replaced; the replaced texts are hidden by `redact` from then on.

    Raises:
        RecipeError: a variable is not set.
    """
    if isinstance(value, str):
        return _REFERENCE.sub(_lookup, value)
    if isinstance(value, dict):
        return {k: expand(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(expand(v) for v in value)
    return value


def redact(text: str) -> str:
    """The text with every secret that was used in this process blotted out, however it is escaped there.

    Known are JSON, Python's `repr`, YAML, HTML and URL escapes, also mixed and within each other, and the secret as a
    whole in base64 or hexadecimal.
    """
    if not _known:
        return text
    spans = sorted(span for secret in _known for span in _spans(secret, text))
    parts, position, end = [], 0, -1
    for start, stop in spans:
        if start >= end:
            parts += [text[position:start], HIDDEN]
        end = max(end, stop)
        position = end
    return "".join([*parts, text[position:]])


def redact_values(value: Any) -> Any:
    """Plain data with every secret in its texts and keys blotted out. Numbers stay as they are."""
    if not _known:
        return value
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact(k) if isinstance(k, str) else k: redact_values(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redact_values(v) for v in value]
    return value


def as_reference(text: str) -> str:
    """The text with every secret as the `${env:NAME}` that it came from, which `expand` turns back."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, f"${{env:{_known[secret]}}}")
    return text


def _lookup(match: re.Match[str]) -> str:
    name = match[1]
    secret = os.environ.get(name)
    if not secret:
        raise RecipeError(f"the environment variable {name} is not set", fix=f"export {name}=… before running")
    if secret in _known or (reason := _why_shown(secret)) is None:
        _known[secret] = name
    elif name not in _told:
        _told.add(name)
        logger.warning("the environment variable %s %s, so it is not hidden in what is written", name, reason)
    return secret


def _why_shown(secret: str) -> str | None:
    """What the value of a variable is, where it would be found in other texts by chance; None where it would not."""
    from luthier.settings import names_in_use

    if len(secret) < SHORTEST:
        return f"has fewer than {SHORTEST} characters"
    if len(secret) < SHORTEST_WORD and secret.isalpha():
        return f"holds a word of fewer than {SHORTEST_WORD} letters"
    if any(secret in name for name in names_in_use()):
        return "holds a part of a name that recipes use"
    return None


def _spans(secret: str, text: str) -> list[tuple[int, int]]:
    """Where the secret stands, overlapping places included."""
    found: list[tuple[int, int]] = []
    for pattern in _patterns(secret):
        position = 0
        while match := pattern.search(text, position):
            found.append(match.span())
            position = match.start() + 1
    return found


@lru_cache(maxsize=256)
def _patterns(secret: str) -> tuple[re.Pattern[str], ...]:
    patterns = [_escaped(secret)]
    as_path = os.path.normpath(secret) if "/" in secret else secret
    if as_path != secret and len(as_path) >= SHORTEST:
        patterns.append(_escaped(as_path))
    raw = b"".join(map(_bytes, secret))
    if len(raw) >= _SHORTEST_ENCODED:
        patterns += [f"(?i:{raw.hex()})", *_in_base64(raw)]
    return tuple(map(re.compile, patterns))


def _escaped(text: str) -> str:
    return _FOLD.join(_any_form(run) for run in re.findall(r"\\+|.", text, re.DOTALL))


def _any_form(run: str) -> str:
    """A pattern of every escaped form of one character, or of a run of backslashes."""
    first = run[0]
    if first == "\\":
        slashes = "|".join(rf"\\{{{len(run) << level}}}" for level in reversed(range(_LEVELS)))
        return f"(?:{slashes}|(?:%(?:25)*5[Cc]|&#92;|&#x5[Cc];|{_SLASHES}(?:x5[Cc]|u005[Cc])){{{len(run)}}})"
    if first.isascii() and first.isalnum():
        return first
    number = ord(first)
    forms = [
        f"{_SLASHES}(?i:{'|'.join(_numbered(first))})",
        f"&(?:amp;)*(?:#0*{number};|#[xX]0*(?i:{number:x});{_entity(first)})",
        "(?i:" + "".join(rf"%(?:25)*{byte:02x}" for byte in _bytes(first)) + ")",
    ]
    if first in _ESCAPES:
        forms.append(_SLASHES + _ESCAPES[first])
    if first in "'\"":
        forms.append(first * 2)
    if first == " ":
        forms += [r"\+", r"[ ]?\n[ ]*+"]
    if first == "\n":
        forms.append(r"\n[ ]*+\n?[ ]*+")
    return f"(?:{'|'.join(forms)}|{_MAYBE_SLASHES}{re.escape(first)})"


def _numbered(character: str) -> list[str]:
    """Escapes by number, without their backslash: of Python, JSON and YAML, the bytes in a `repr` of bytes too."""
    number = ord(character)
    forms = [f"U{number:08x}", _SLASHES.join(f"x{byte:02x}" for byte in _bytes(character))]
    if number < 256:
        forms += [f"x{number:02x}"]
    if number < 1 << 16:
        return [*forms, f"u{number:04x}"]
    units = character.encode("utf-16-be").hex()
    return [*forms, f"u{units[:4]}{_SLASHES}u{units[4:]}"]


def _entity(character: str) -> str:
    name = "apos" if character == "'" else codepoint2name.get(ord(character))
    return f"|{name};" if name else ""


def _bytes(character: str) -> bytes:
    return character.encode("utf8", "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass")


def _in_base64(raw: bytes) -> list[str]:
    """Patterns of the secret in base64, at each of the three places within a group that it can begin at."""
    patterns = []
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw).decode().rstrip("=")
        whole = encoded[(0, 2, 3)[offset] : len(encoded) - (1 if (offset + len(raw)) % 3 else 0)]
        patterns.append("".join({"+": "[+-]", "/": r"(?:\\?/|_|%2F)"}.get(c, c) for c in whole))
    return patterns
