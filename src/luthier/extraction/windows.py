"""Parts of a text that a model can read at once: whole sentences wherever they fit."""

from __future__ import annotations

from collections.abc import Sequence

_ENDS = frozenset(".!?。！？")
_CLOSING = frozenset(("''", '"', "'", "”", "’", ")", "]", "-RRB-", "-RSB-"))


def sentence_ends(words: Sequence[str]) -> list[int]:
    """Places behind the words that end a sentence, the marks that close a quotation counted to it."""
    ends = []
    for place, word in enumerate(words):
        if word in _ENDS or (word in _CLOSING and ends and ends[-1] == place):
            if ends and ends[-1] == place:
                ends[-1] = place + 1
            else:
                ends.append(place + 1)
    return ends


def windows(words: Sequence[str], pieces: Sequence[int], room: int) -> list[tuple[int, int]]:
    """(first word, word behind the last) of windows that hold at most `room` pieces and overlap by about a half.

    A window begins and ends between sentences, or, where a sentence does not fit, between words; a word that does not
    fit is a window by itself.

    Args:
        words: of the text.
        pieces: how many pieces each word has.
    """
    ends, found, first = sentence_ends(words), [], 0
    while True:
        last = _last_that_fits(pieces, first, room)
        if last == len(words):
            return [*found, (first, last)]
        last = max((end for end in ends if first < end <= last), default=last)
        found.append((first, last))
        middle = max(first + 1, (first + last + 1) // 2)
        first = min((end for end in ends if middle <= end < last), default=last if last in ends else middle)


def _last_that_fits(pieces: Sequence[int], first: int, room: int) -> int:
    last, taken = first + 1, pieces[first]
    while last < len(pieces) and taken + pieces[last] <= room:
        taken += pieces[last]
        last += 1
    return last
