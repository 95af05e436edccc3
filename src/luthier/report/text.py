"""Text from data, models and attacks, made fit to be looked at: nothing hidden, nothing that changes direction."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import Any

# Control, format (direction, zero width), lone surrogates, private use, unassigned, line and paragraph separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})

# Scores from here on are written with an exponent.
_HUGE = 10_000_000


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


def number_text(value: float, rounding: str = ROUND_HALF_EVEN) -> str:
    """A score for people: four decimals from 0.01 to 10,000, `0.8730`, `12.3456`; below four significant digits,
    `0.001200`, `1.200e-07`; above no decimals, `12345`, and from ten millions on `1.235e+07`. Nothing but 1 becomes 1.

    Args:
        value: the score.
        rounding: a way of `decimal`.
    """
    if not math.isfinite(value):
        return str(value)
    # What stands behind twelve digits is a remainder of the computation.
    number = Decimal(f"{value:.11e}")
    size = abs(number)
    if size >= _HUGE or 0 < size < Decimal("0.01"):
        rounded = float(number.quantize(Decimal(1).scaleb(number.adjusted() - 3), rounding))
        return f"{rounded:#.4g}"
    places = 0 if size >= 10_000 else 4
    while abs(number.quantize(Decimal(1).scaleb(-places), rounding)) == 1 != size:
        places += 1
    return f"{number.quantize(Decimal(1).scaleb(-places), rounding):f}"


def interval_text(pair: Sequence[float] | None) -> str:
    """`[0.7120, 0.7430]`, or nothing: ends as scores are written, rounded outwards, so that they hold the score."""
    return f"[{number_text(pair[0], ROUND_FLOOR)}, {number_text(pair[1], ROUND_CEILING)}]" if pair else ""


def mean_text(mean: float, deviation: float | None) -> str:
    """A mean with its deviation, `0.8730 ± 0.0120`, which is written as 0 where it is that alone; or the mean alone."""
    if deviation is None:
        return number_text(mean)
    as_the_mean = 0.01 <= abs(mean) < 10_000 and (deviation >= 0.00005 or not deviation)
    return f"{number_text(mean)} ± " + (f"{deviation:.4f}" if as_the_mean else number_text(deviation))


def figure_text(value: float, digits: int = 4) -> str:
    """A count or measure for people: from a thousand on, and where it is whole, in full with separators, `1,240`; else
    so many significant digits, `0.87`."""
    in_full = abs(value) >= 1000 or float(value).is_integer()
    return f"{value:,.0f}" if in_full and abs(value) < 1e15 else f"{value:.{digits}g}"
