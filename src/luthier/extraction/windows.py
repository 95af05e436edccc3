"""Parts of a text that a model can read at once: whole sentences wherever they fit."""

from __future__ import annotations

from collections.abc import Sequence

_ENDS = frozenset(".!?\u3002\uff01\uff1f")  # and those of Chinese and Japanese
_CLOSING = frozenset(("''", '"', "'", "\u201d", "\u2019", ")", "]", "-RRB-", "-RSB-"))


def sentence_ends(words: Sequence[str]) -> list[int]:
    """Places behind the words that end a sentence, the marks that close a quotation counted to it."""
    ends: list[int] = []
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
    ends, found = sentence_ends(words), list[tuple[int, int]]()
    first = covered = 0
    while True:
        fits = _last_that_fits(pieces, first, room)
        if fits == len(words):
            return [*found, (first, fits)]
        last = max((end for end in ends if covered < end <= fits), default=fits)
        if first < covered and (last <= covered or (last not in ends and covered in ends)):
            first = covered  # without an overlap more of what follows finds room
            continue
        found.append((first, last))
        covered, middle = last, max(first + 1, (first + last + 1) // 2)
        first = min((end for end in ends if middle <= end <= last), default=middle)


def _last_that_fits(pieces: Sequence[int], first: int, room: int) -> int:
    last, taken = first + 1, pieces[first]
    while last < len(pieces) and taken + pieces[last] <= room:
        taken += pieces[last]
        last += 1
    return last
