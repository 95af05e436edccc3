"""What came out of a comparison, in words that claim no more than the intervals do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from luthier.metric_names import higher_is_better
from luthier.report.results import Cell, Run
from luthier.report.scores import own_interval
from luthier.report.statistics import Row, comparable, difference, on_other_rows, with_all_seeds
from luthier.report.tables import SPLITS, Table, difference_text
from luthier.report.text import interval_text, mean_text, number_text


def headline(table: Table) -> str:
    """The best line, how far it is ahead of the baseline and of the next, and whether that can be told from chance."""
    scored = [line.row for line in table.lines if line.row.mean is not None and line.row.score_name == table.score_name]
    if not scored:
        return "No run has finished with a score."
    if len(scored) == 1:
        return f"{scored[0].label}: {table.score_name} {_mean(scored[0])}."
    baseline = next(line.row for line in table.lines if line.is_baseline)
    # What was scored on other rows or tokens than the baseline can't be ranked with it.
    ranked = [row for row in scored if row is baseline or comparable(row, baseline)]
    if len(ranked) == 1:
        of_rows = all(on_other_rows(row, baseline) for row in scored if row is not baseline)
        parts = "rows" if of_rows else "tokens"
        return f"The runs were scored on different {parts} of {table.score_name}: no one can be set above another."
    best, *others = _ranked(with_all_seeds(ranked), table.score_name)
    fewer = ", ".join(f"{row.label} ({row.n} of {best.n} seeds)" for row in ranked if row.n < best.n)
    left_out = f" Left out: {fewer}." if fewer else ""
    if others and best.mean == others[0].mean:
        equal = ", ".join(row.label for row in (best, *others) if row.mean == best.mean)
        return f"Equal mean {table.score_name} {number_text(best.mean or 0.0)}: {equal}.{left_out}"
    word = "Highest" if higher_is_better(table.score_name) else "Lowest"
    role = " (the baseline)" if best is baseline else ""
    text = f"{word} mean {table.score_name}: {best.label}{role}, {_mean(best)}."
    if not others:
        text = f"{best.label}{role}: {table.score_name} {_mean(best)}."
    rivals = {"the next": others[0]} if others and others[0] is not baseline else {}
    rivals["the baseline"] = baseline
    for role, rival in rivals.items():
        if rival is not best:
            text += f" Against {role}, {rival.label}: {_claim(best, rival, table.by_rows)}."
    return text + left_out


def run_headline(cell: Cell) -> str:
    """The main score of one run, with its interval over rows."""
    if cell.primary is None:
        return "No stage has finished with a score." if cell.status != "finished" else "The run has no main score."
    name, value = cell.primary
    intervals = [m["intervals"][name] for m in cell.stages.values() if name in m["intervals"]]
    interval = intervals[-1] if intervals else own_interval(cell, name)
    split = name.partition("/")[0]
    rows = f"{split} rows" if split in SPLITS else "rows"
    return f"{name} {number_text(value)}" + (f" (95 % {interval_text(interval)} over {rows})." if interval else ".")


def _ranked(rows: Sequence[Row], score_name: str) -> list[Row]:
    return sorted(rows, key=lambda row: row.mean or 0.0, reverse=higher_is_better(score_name))


def _mean(row: Row) -> str:
    seeds = "(one seed)" if row.deviation is None else f"over {row.n} seeds"
    return f"{mean_text(row.mean or 0.0, row.deviation)} {seeds}"


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
    """How many cells finished, failed, or are still unfinished; of a run by itself how far it came; empty for one that
    finished."""
    counts = Counter(cell.status for run in runs for cell in run.cells)
    if counts.total() == 1:
        run, cell = next((run, cell) for run in runs for cell in run.cells)
        return "" if cell.status == "finished" else _state(cell, bool(run.compare))
    parts = [f"{counts[state]} {state}" for state in ("finished", "failed", "pruned", "unfinished") if counts[state]]
    return f"{counts.total()} runs: {', '.join(parts)}."


def _state(cell: Cell, trial: bool) -> str:
    """How far a run came that did not finish."""
    word = {"failed": "The run failed", "pruned": "The search ended the run early"}.get(cell.status, "Not finished")
    done = list(cell.stages)
    text = f"{word}{f', with {_listed(done)} done' if done else ''}"
    begun = [name for name in cell.progress if name not in cell.stages]
    if begun:
        step, planned = cell.progress[begun[-1]]
        of = f" of {planned:g}" if planned else ""
        text += f"; {begun[-1]} had logged step {step:g}{of} when this page was written"
    elif not done:
        text += ": no stage has begun to train" if cell.status == "unfinished" else ""
    goes_on = "" if cell.status == "pruned" or trial else " `luthier run` with the same recipe goes on from there."
    return f"{text}.{goes_on}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)
