"""Text from data, models and attacks, made fit to be looked at: nothing hidden, nothing that changes direction."""

from __future__ import annotations

import unicodedata
from typing import Any

# Control, format (direction, zero width), lone surrogates, private use, unassigned, line and paragraph separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def is_hidden(character: str) -> bool:
    """Whether a character shows as nothing, or changes how its neighbours show."""
    return unicodedata.category(character) in _HIDDEN


def runs_from_right(text: str) -> bool:
    """Whether a part of the text is written from right to left, as Hebrew and Arabic are."""
    return not text.isascii() and any(unicodedata.bidirectional(one) in ("R", "AL", "AN") for one in text)


def mark(character: str) -> str:
    """The visible stand-in of a hidden character: `⟨U+202E⟩`."""
    return f"⟨U+{ord(character):04X}⟩"


def visible(text: str, keep: str = "") -> str:
    """Text with every hidden character replaced by its mark, but for those in `keep`."""
    if text.isprintable():
        return text
    return "".join(mark(c) if is_hidden(c) and c not in keep else c for c in text)


def one_line(value: Any, longest: int = 80) -> str:
    """A value as one visible line of at most `longest` characters."""
    text = visible(str(value))
    return text if len(text) <= longest else text[: longest - 1] + "…"


def number_text(value: float) -> str:
    """A score for people: four significant digits, `0.8730`, `12.35`, `0.01200`, `1.200e-07`, `12345`."""
    return f"{value:.0f}" if abs(value) >= 1e4 else f"{value:#.4g}".removesuffix(".")


def figure_text(value: float, digits: int = 4) -> str:
    """A count or measure for people: from a thousand on, and where it is whole, in full with separators, `1,240`; else
    so many significant digits, `0.87`."""
    in_full = abs(value) >= 1000 or float(value).is_integer()
    return f"{value:,.0f}" if in_full and abs(value) < 1e15 else f"{value:.{digits}g}"
