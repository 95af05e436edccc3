"""Text to words, and characters to words.

The tokeniser `words`: a run of letters, digits and underscores is a word, every other visible character is one by
itself; marks stay with the letter that they change; a character of a script that parts no words by blanks (Chinese,
Japanese, Thai, Lao, Khmer, Myanmar) is one by itself. The tokeniser `blanks`: whatever stands between blanks.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

_UNPARTED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
    "\u3005\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_UNPARTED}]|[^\W{_UNPARTED}]+|[^\s\w]")
_BLANK = re.compile(r"\S+")
# Zero-width joiner and non-joiner, which shape the letters around them.
_JOINERS = "\u200c\u200d"
TOKENISERS = ("words", "blanks")


def tokenise(text: str, tokeniser: str = "words") -> list[list[int]]:
    """[start, end] characters of every word of a text, in order.

    Raises:
        ValueError: there is no such tokeniser.
    """
    if tokeniser not in TOKENISERS:
        raise ValueError(f"there is no tokeniser {tokeniser!r}; known: {', '.join(TOKENISERS)}")
    if tokeniser == "blanks":
        return [[*found.span()] for found in _BLANK.finditer(text)]
    words: list[list[int]] = []
    open_word = False
    for found in _WORD.finditer(text):
        start, end = found.span()
        is_mark = end - start == 1 and (unicodedata.category(text[start])[0] == "M" or text[start] in _JOINERS)
        touches = bool(words) and words[-1][1] == start
        if touches and (is_mark or (open_word and _is_letter(text[start]))):
            words[-1][1] = end
            open_word = is_mark
        else:
            words.append([start, end])
            open_word = False
    return words


def _is_letter(character: str) -> bool:
    return character.isalnum() and not re.match(f"[{_UNPARTED}]", character)


def find_words(text: str, words: Sequence[str]) -> list[list[int]] | None:
    """[start, end] characters of given words in a text, where they follow one another with only blanks between them;
    None where they don't make up the text."""
    found, place = [], 0
    for word in words:
        start = text.find(word, place)
        if start < 0 or text[place:start].strip():
            return None
        place = start + len(word)
        found.append([start, place])
    return None if text[place:].strip() else found


def joined(words: Sequence[str]) -> tuple[str, list[list[int]]]:
    """Words parted by single blanks, and [start, end] characters of each."""
    offsets, place = [], 0
    for word in words:
        offsets.append([place, place + len(word)])
        place += len(word) + 1
    return " ".join(words), offsets


@dataclass(frozen=True)
class Aligned:
    """A span of characters as words.

    Attributes:
        start, end: first word, and the one behind the last.
        exact: whether the span begins and ends where these words do, blanks at its ends aside.
    """

    start: int
    end: int
    exact: bool


class Aligner:
    """Finds the words of character spans.

    Args:
        text: the whole text.
        offsets: [start, end] characters of every word, in order.
    """

    def __init__(self, text: str, offsets: Sequence[Sequence[int]]) -> None:
        self._text = text
        self._starts = [start for start, _ in offsets]
        self._ends = [end for _, end in offsets]

    def words(self, start: int, end: int) -> Aligned | None:
        """The words that a span of characters touches; None where it touches none, or lies outside the text."""
        if not 0 <= start < end <= len(self._text):
            return None
        inside = self._text[start:end]
        start, end = start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())
        first, last = bisect_right(self._ends, start), bisect_left(self._starts, end)
        if first >= last:
            return None
        return Aligned(first, last, self._starts[first] == start and self._ends[last - 1] == end)
