"""Rewrites by rule that keep what a text says: contractions, letter case, final punctuation, a neutral opening."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Literal, get_args

RewriteKind = Literal["expand", "contract", "lower", "unpunctuated", "opening"]
REWRITES: tuple[RewriteKind, ...] = get_args(RewriteKind)

_LONG_FORMS = {
    "can't": "cannot",
    "won't": "will not",
    "isn't": "is not",
    "aren't": "are not",
    "wasn't": "was not",
    "weren't": "were not",
    "don't": "do not",
    "doesn't": "does not",
    "didn't": "did not",
    "hasn't": "has not",
    "haven't": "have not",
    "hadn't": "had not",
    "couldn't": "could not",
    "wouldn't": "would not",
    "shouldn't": "should not",
    "i'm": "i am",
    "i've": "i have",
    "you're": "you are",
    "we're": "we are",
    "they're": "they are",
    "it's": "it is",
    "that's": "that is",
    "there's": "there is",
}
_OPENINGS = ("Here is what I have to say: ", "For what it is worth: ", "In short: ")


# In front of "been" and "got", 's is "has".
_LONG = re.compile(
    r"\b(" + "|".join(_LONG_FORMS).replace("'", "['’]") + r")(?!\w|\s+(?:been|got)\b)",  # noqa: RUF001
    re.IGNORECASE,
)
_SHORT_FORMS = {long: short for short, long in _LONG_FORMS.items()}
# A verb is cut short only in front of another word: "I know what it is" stays.
_SHORT = re.compile(
    r"\b(" + "|".join(long + (r"\b" if long.endswith("not") else r"(?=\s+\w)") for long in _SHORT_FORMS) + ")",
    re.IGNORECASE,
)


def _replaced(text: str, pattern: re.Pattern[str], table: dict[str, str]) -> str:
    def other(match: re.Match[str]) -> str:
        old = match.group()
        new = table[old.lower().replace("’", "'")]  # noqa: RUF001
        if old.isupper():
            return new.upper()
        return new[0].upper() + new[1:] if old[0].isupper() else new

    return pattern.sub(other, text)


def expand(text: str, rng: random.Random) -> str:
    """Contractions in full: don't -> do not."""
    return _replaced(text, _LONG, _LONG_FORMS)


def contract(text: str, rng: random.Random) -> str:
    """Full forms as contractions: do not -> don't."""
    return _replaced(text, _SHORT, _SHORT_FORMS)


def lower(text: str, rng: random.Random) -> str:
    """All letters small."""
    return text.lower()


def unpunctuated(text: str, rng: random.Random) -> str:
    """Without the punctuation at the end."""
    return re.sub(r"[\s.!?…]+$", "", text)


def opening(text: str, rng: random.Random) -> str:
    """With a neutral phrase in front."""
    return rng.choice(_OPENINGS) + text


_RULES: dict[RewriteKind, Callable[[str, random.Random], str]] = {
    "expand": expand,
    "contract": contract,
    "lower": lower,
    "unpunctuated": unpunctuated,
    "opening": opening,
}


def rewrite(text: str, *, kinds: Sequence[RewriteKind] = REWRITES, seed: int = 0) -> str:
    """The text under one rule that changes it, chosen by the seed; unchanged where none does.

    Raises:
        ValueError: there is no such rule.
    """
    if not kinds or set(kinds) - set(REWRITES):
        raise ValueError(f"kinds have to be among {', '.join(REWRITES)}; got {list(kinds)}")
    rng = random.Random(f"{seed}|{text}")
    order = list(kinds)
    rng.shuffle(order)
    changed = (_RULES[kind](text, rng) for kind in order)
    return next((t for t in changed if t != text and t.strip()), text)
