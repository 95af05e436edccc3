"""Rows that can't be used and are left out, where the settings ask for that."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from luthier.data.table import Problems
from luthier.errors import DataError

_log = logging.getLogger(__name__)
# Where more than this share of the rows can't be used, the settings are wrong and not the rows.
MOST = 0.5
NAMED = 10


@dataclass(frozen=True)
class LeftOut:
    """What was left out of a split.

    Attributes:
        rows: how many rows.
        first: the first faults, each with row, line and column.
        reasons: what is wrong -> how many cells or rows.
        source: as the user wrote it.
    """

    rows: int
    first: list[str]
    reasons: dict[str, int]
    source: str

    def told(self) -> dict[str, Any]:
        """For metrics and cards."""
        return {"rows": self.rows, "source": self.source, "first": self.first, "reasons": self.reasons}


def left_out(problems: Problems | None) -> LeftOut | None:
    """The rows with these problems; None where there are none."""
    if problems is None or not problems.count:
        return None
    return LeftOut(problems.rows, problems.found[:NAMED], dict(problems.reasons.most_common()), problems.name)


def settle(found: Problems, noted: Problems | None, kept: int, fix: str) -> None:
    """Refuse rows with problems, or, where they are to be left out, note them.

    Args:
        found: problems of the rows.
        noted: those that the split has so far, where such rows are left out; None where they are refused.
        kept: rows that can be used.
        fix: what the user can do.

    Raises:
        DataError: they are refused, or they are more than half of all rows.
    """
    if noted is None:
        found.raise_if_any(fix)
        return
    if not found.count:
        return
    noted.take(found)
    total = noted.rows + kept
    if noted.rows > MOST * total:
        raise DataError(
            f"{noted.rows} of {total} rows can't be used, which are too many to leave out\n  {noted.listed()}",
            where=noted.name,
            fix=f"{fix}; `invalid_rows: drop` leaves out at most half of the rows",
        )


def warn_of(one: LeftOut | None) -> None:
    """Name the rows that were left out, and say why."""
    if one is None:
        return
    reasons = ", ".join(f"{reason}: {count}" for reason, count in one.reasons.items())
    unnamed = sum(one.reasons.values()) - len(one.first)
    more = f"\n  ... and {unnamed} more" if unnamed else ""
    _log.warning(
        "%s: %d rows can't be used and were left out (%s)\n  %s%s",
        one.source,
        one.rows,
        reasons,
        "\n  ".join(one.first),
        more,
    )
