"""What came out of a comparison, in words that claim no more than the intervals do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from luthier.metric_names import higher_is_better
from luthier.report.results import Run
from luthier.report.statistics import Row, difference, on_other_rows
from luthier.report.tables import Table, difference_text


def headline(table: Table) -> str:
    """The best line, how far it is ahead of the baseline and of the next, and whether that can be told from chance."""
    scored = [line.row for line in table.lines if line.row.mean is not None and line.row.score_name == table.score_name]
    if not scored:
        return "No run has finished with a score."
    if len(scored) == 1:
        return f"{scored[0].label}: {table.score_name} {_mean(scored[0])}."
    baseline = next(line.row for line in table.lines if line.is_baseline)
    # What was scored on other rows than the baseline can't be ranked with it.
    comparable = [row for row in scored if row is baseline or not on_other_rows(row, baseline)]
    if len(comparable) == 1:
        return f"The runs were scored on different rows of {table.score_name}: no one can be set above another."
    best, *others = _ranked(comparable, table.score_name)
    if best.mean == others[0].mean:
        equal = ", ".join(row.label for row in (best, *others) if row.mean == best.mean)
        return f"Equal mean {table.score_name} {best.mean:.4f}: {equal}."
    word = "Highest" if higher_is_better(table.score_name) else "Lowest"
    role = " (the baseline)" if best is baseline else ""
    text = f"{word} mean {table.score_name}: {best.label}{role}, {_mean(best)}."
    rivals = {"the baseline": baseline} if others[0] is baseline else {"the next": others[0], "the baseline": baseline}
    for role, rival in rivals.items():
        if rival is not best:
            text += f" Against {role}, {rival.label}: {_claim(best, rival, table.by_rows)}."
    return text


def _ranked(rows: Sequence[Row], score_name: str) -> list[Row]:
    return sorted(rows, key=lambda row: row.mean or 0.0, reverse=higher_is_better(score_name))


def _mean(row: Row) -> str:
    if row.deviation is None:
        return f"{row.mean:.4f} (one seed)"
    return f"{row.mean:.4f} ± {row.deviation:.4f} over {row.n} seeds"


def _claim(best: Row, rival: Row, by_rows: bool) -> str:
    gap = difference(best, rival, by_rows=by_rows)
    if gap is None:
        return "no seed in common, so no difference can be told"
    shown, seeds = difference_text(gap), f"{gap.seeds} seeds"
    if gap.seeds == 1:
        return f"{shown} on one seed in common, where no difference can be told from chance"
    if gap.interval is None:
        return f"{shown} on every one of {seeds}, and without spread no interval can be given"
    return shown if gap.decided else f"{shown}; no difference can be told at n = {seeds}"


def states(runs: Sequence[Run]) -> str:
    """How many cells finished, failed, or are still unfinished; empty for one that finished."""
    counts = Counter(cell.status for run in runs for cell in run.cells)
    if counts.total() == counts["finished"] == 1:
        return ""
    parts = [f"{counts[state]} {state}" for state in ("finished", "failed", "pruned", "unfinished") if counts[state]]
    return f"{counts.total()} {'run' if counts.total() == 1 else 'runs'}: {', '.join(parts)}."
