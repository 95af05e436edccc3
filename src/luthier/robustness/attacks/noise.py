"""Typing errors, as pure functions of a text and a seed."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from luthier.data.words import LETTER

NoiseKind = Literal["swap", "delete", "insert", "keyboard", "homoglyph"]
KINDS: tuple[NoiseKind, ...] = get_args(NoiseKind)

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_GLYPHS = str.maketrans("aceiopsxyABCEHIKMOPTX", "асеіорѕхуАВСЕНІКМОРТХ")  # noqa: RUF001
_WORD = re.compile(rf"(?:{LETTER}){{2,}}")


def neighbours(letter: str) -> str:
    """Letters beside, above and below a letter on a QWERTY keyboard, in its case; empty for anything else."""
    low = letter.lower()
    for number, row in enumerate(_ROWS):
        at = row.find(low)
        if low and at >= 0:
            beside = row[max(0, at - 1) : at] + row[at + 1 : at + 2]
            above = _ROWS[number - 1][at : at + 2] if number else ""
            below = _ROWS[number + 1][max(0, at - 1) : at + 1] if number + 1 < len(_ROWS) else ""
            found = beside + above + below
            return found.upper() if letter.isupper() else found
    return ""


def swap(word: str, at: int, rng: random.Random) -> str:
    """Exchange the letters at `at` and `at + 1`."""
    return word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :]


def delete(word: str, at: int, rng: random.Random) -> str:
    """Leave the letter at `at` out."""
    return word[:at] + word[at + 1 :]


def insert(word: str, at: int, rng: random.Random) -> str:
    """Put a neighbour of the letter at `at` in front of it, or the letter twice where it has none."""
    return word[:at] + rng.choice(neighbours(word[at]) or word[at]) + word[at:]


def keyboard(word: str, at: int, rng: random.Random) -> str:
    """Hit a neighbouring key instead of the letter at `at`; letters without one stay."""
    return word[:at] + rng.choice(neighbours(word[at]) or word[at]) + word[at + 1 :]


def homoglyph(word: str, at: int, rng: random.Random) -> str:
    """Replace the letter at `at` by one that looks the same; letters without one stay."""
    return word[:at] + word[at].translate(_GLYPHS) + word[at + 1 :]


_EDITS: dict[NoiseKind, Callable[[str, int, random.Random], str]] = {
    "swap": swap,
    "delete": delete,
    "insert": insert,
    "keyboard": keyboard,
    "homoglyph": homoglyph,
}


def corrupt(text: str, *, rate: float = 0.1, kinds: Sequence[NoiseKind] = KINDS, seed: int = 0) -> str:
    """One error in each of a share of the words.

    The same text and seed always give the same result, whatever else is corrupted.

    Args:
        text: words of two letters or more can be hit.
        rate: share of words, in (0, 1]; at least one word is hit.
        kinds: errors to choose from.
        seed: of the choice.

    Raises:
        ValueError: the rate is outside (0, 1], or there is no such kind.
    """
    if not 0 < rate <= 1 or not kinds or set(kinds) - set(KINDS):
        raise ValueError(f"rate has to lie in (0, 1] and kinds in {', '.join(KINDS)}; got {rate} and {list(kinds)}")
    rng = random.Random(f"{seed}|{text}")
    found = list(_WORD.finditer(text))
    hit = sorted(rng.sample(range(len(found)), max(1, round(rate * len(found))))) if found else []
    for number in reversed(hit):
        match = found[number]
        text = text[: match.start()] + _with_error(match.group(), kinds, rng) + text[match.end() :]
    return text


def _with_error(word: str, kinds: Sequence[NoiseKind], rng: random.Random) -> str:
    tries = [(kind, at) for kind in kinds for at in range(len(word) - (kind == "swap"))]
    rng.shuffle(tries)
    changed = (_EDITS[kind](word, at, rng) for kind, at in tries)
    return next((w for w in changed if w != word), word)
