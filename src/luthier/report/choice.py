"""What a comparison that chooses comes to: the best by validation score, what can't be told from it, and the cheapest
of those. Test scores play no part."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from luthier.metric_names import higher_is_better
from luthier.report.baselines import trivial_mean, trivial_of
from luthier.report.marks import FEW_ROWS, scored_row_count
from luthier.report.results import Cell, Run, read_run
from luthier.report.statistics import Difference, Row, difference, on_other_rows, on_other_tokens, summarise
from luthier.report.tables import cost_text, difference_text, score_text
from luthier.report.text import interval_text, mean_text, number_text, one_line

_COSTS = {"parameters": "trainable_parameters", "seconds": "seconds"}
_MOST_SHOWN = 100


@dataclass(frozen=True)
class Contender:
    """One line of the choice.

    Attributes:
        row: its validation scores by seed.
        gap: the paired difference of the best to it, and its interval; None for the best itself, and where there are
            no two seeds.
        by_rows: whether the interval counts in that other validation rows would have been other ones.
    """

    row: Row
    gap: Difference | None = None
    by_rows: bool = False

    @property
    def level(self) -> bool:
        """Whether it can't be told from the best."""
        if self.gap is None or self.gap.interval is not None:
            return self.gap is None or not self.gap.decided
        # Seeds that all say the same have no spread to take an interval from.
        return self.gap.by_rows or self.gap.mean == 0


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Attributes:
        kind: `preset` chooses among methods over seeds, `search` among trials of one seed.
        score_name: the validation score.
        contenders: best first.
        chosen: None where nothing can be told.
        prefer: parameters or seconds, which decides among those that are level.
        left_out: (label, reason) of what can't be compared: a run failed, has no score or another one, or is not done.
        unfinished: how many cells are not done yet.
    """

    kind: Literal["preset", "search"]
    score_name: str | None = None
    contenders: list[Contender] = field(default_factory=list)
    chosen: Row | None = None
    prefer: str = "parameters"
    left_out: list[tuple[str, str]] = field(default_factory=list)
    unfinished: int = 0

    @property
    def lead(self) -> str:
        """The choice in one sentence."""
        if self.chosen is not None:
            if self.kind == "search":
                of = f"{len(self.contenders)} finished trial" + ("s" if len(self.contenders) > 1 else "")
                return f"Best of {of}: {self.chosen.label}, {self.score_name} {number_text(self.chosen.mean or 0.0)}."
            return self._too_few_rows() or f"Recommended: {self.chosen.label}."
        if not self.contenders:
            return "Nothing can be recommended: no run has finished with a validation score."
        best = self.contenders[0].row
        return (
            "Nothing can be recommended: with one seed no method can be told from another. "
            f"{self._word} {self.score_name} of that seed: {best.label}, {number_text(best.mean or 0.0)}."
        )

    @property
    def _word(self) -> str:
        return "Highest" if higher_is_better(self.score_name or "") else "Lowest"

    def _too_few_rows(self) -> str:
        """The choice where few validation rows tell no method from another; empty where they tell some, or are many."""
        count = self._validation_rows()
        if not 0 < count < FEW_ROWS or len(self.contenders) < 2 or not all(c.level for c in self.contenders):
            return ""
        assert self.chosen is not None
        cheapest = "the cheapest" if self.prefer == "parameters" else "the fastest"
        return (
            f"Too few validation rows to choose: {count} rows. {self.chosen.label} is {cheapest} of those that can't "
            "be told apart."
        )

    def _validation_rows(self) -> int:
        """How many rows the best was scored on, 0 where no run tells."""
        cells = self.contenders[0].row.cells.values()
        return max((scored_row_count(cell, self.score_name or "") for cell in cells), default=0)

    @property
    def reasons(self) -> list[str]:
        """Why, and what the choice does not say."""
        if self.chosen is None:
            return ["Give at least two seeds; three or more tell smaller differences."] if self.contenders else []
        told = [self._caveat()] if self.kind == "search" else [self._comparison(), self._price(), self._caveat()]
        told.insert(0, self._doubt())
        if len(self.contenders) > _MOST_SHOWN:
            told.append(f"The best {_MOST_SHOWN} of {len(self.contenders)} are shown.")
        if self.unfinished:
            told.append(f"{self.unfinished} of the runs are not finished: this may change.")
        return [text for text in told if text]

    def _comparison(self) -> str:
        best, level = self.contenders[0].row, [c for c in self.contenders[1:] if c.level]
        text = f"{self._word} mean {self.score_name}: {best.label}, "
        text += f"{mean_text(best.mean or 0.0, best.deviation or 0.0)} over {best.n} seeds. "
        if len(self.contenders) == 1:
            return text + "There is no other method to compare it with."
        if not level:
            return text + "Every other method is told apart from it."
        apart = "; all others are" if len(level) < len(self.contenders) - 1 else ""
        return text + f"Can't be told apart from it: {', '.join(c.row.label for c in level)}{apart}."

    def _doubt(self) -> str:
        """What makes the choice worth little: no better than guessing, or few rows to choose by."""
        best = self.contenders[0].row
        count = self._validation_rows()
        trivial = [trivial_of(cell, str(self.score_name)) for cell in best.cells.values()]
        if all(one is not None and not one.better for one in trivial):
            return (
                f"{best.label}, the best of all, is not shown to be better than the trivial baseline, "
                f"{self.score_name} {number_text(trivial_mean(best) or 0.0)}. Train longer, or give more rows."
            )
        labels = max((_label_count(cell) for cell in best.cells.values()), default=0)
        if not count or not labels or not str(self.score_name).endswith("/accuracy"):
            return ""
        guess = 1 / labels
        if (best.mean or 0.0) < guess + 1.96 * math.sqrt(guess * (1 - guess) / count):
            return (
                f"Nothing was learned that {count} validation rows could show: the best accuracy can't be told from "
                f"guessing among {labels} labels. Train longer, or give more rows."
            )
        if count < FEW_ROWS and not self._too_few_rows():
            return f"Chosen by {count} validation rows only: one row is {1 / count:.3f} of accuracy."
        return ""

    def _price(self) -> str:
        assert self.chosen is not None
        if not any(c.level for c in self.contenders[1:]):
            return ""
        parameters, seconds = (self.chosen.mean_cost(key) for key in _COSTS.values())
        sizes = (
            f"{cost_text('trainable_parameters', parameters)} parameters",
            f"{cost_text('seconds', seconds)} seconds",
        )
        least = "trains the fewest parameters" if self.prefer == "parameters" else "takes the least time"
        return f"Of these, {self.chosen.label} {least}: {sizes[0]}, {sizes[1]} a run."

    def _caveat(self) -> str:
        if self.kind == "search":
            return (
                "Chosen by the validation score alone. The best of many trials on the same rows looks better than it "
                "is; rows that took no part in the choice tell how good it is."
            )
        of = (
            "other seeds and other rows"
            if all(c.by_rows for c in self.contenders[1:])
            else "other seeds on the same rows"
        )
        return (
            "Chosen by validation scores alone. Two methods are told apart where the 95 % interval of their paired "
            f"difference leaves out 0: it speaks of {of}, and for one pair at a time."
        )

    @property
    def by_rows(self) -> bool:
        """Whether rows can be redrawn for every contender."""
        return bool(self.contenders) and all(c.row.by_rows for c in self.contenders)

    def table(self) -> dict[str, Any]:
        """Columns and rows for the page; every cell as (text, whether it is a number)."""
        head, *gaps = ("method", "best minus this [95 %]", "told apart") if self.kind == "preset" else ("trial",)
        own = ["95 %"] if self.by_rows else []
        rows = []
        for contender in self.contenders[:_MOST_SHOWN]:
            row, first = contender.row, contender is self.contenders[0]
            told = "best" if first else "no" if contender.level else "yes"
            cells = [(one_line(row.label), False), (score_text(row, str(self.score_name)), True)]
            cells += [(interval_text(row.interval), True)] if own else []
            cells += [(difference_text(contender.gap), True), (told, False)] if gaps else []
            cells += [(cost_text(key, row.mean_cost(key)), True) for key in _COSTS.values()]
            rows.append([*cells, ("chosen" if row is self.chosen else "", False)])
        return {"columns": [head, self.score_name, *own, *gaps, "trained", "seconds", ""], "rows": rows, "left_out": 0}

    def chosen_by_split(self) -> dict[str, Any] | None:
        """The chosen one's score on validation and on test rows, side by side; None where only one of them is known."""
        if self.chosen is None or self.score_name is None:
            return None
        metric, cells = self.score_name.partition("/")[2], list(self.chosen.cells.values())
        rows = []
        for split, role in (("validation", "chose it"), ("test", "took no part")):
            found = summarise(cells, (), score=partial(_named_score, f"{split}/{metric}"))[0]
            if found.scores:
                interval = interval_text(found.interval)
                rows.append(
                    [(split, False), (score_text(found, str(found.score_name)), True), (interval, True), (role, False)]
                )
        columns = ["split", metric, "95 %", "rows that"]
        return {"columns": columns, "rows": rows, "left_out": 0} if len(rows) > 1 else None


def _named_score(name: str, cell: Cell) -> tuple[str, float] | None:
    for metrics in reversed(list(cell.stages.values())):
        if name in metrics["scores"]:
            return name, metrics["scores"][name]
    return None


def recommend(run: Run | Path | str) -> Choice | None:
    """What a finished preset or search comes to; None for a run that chooses nothing.

    Raises:
        WorkspaceError: the folder is no run.
    """
    run = run if isinstance(run, Run) else read_run(Path(run))
    preset, search = (run.compare.get(key) for key in ("preset", "search"))
    if not preset and not search:
        return None
    kind: Literal["preset", "search"] = "search" if search else "preset"
    # A trial is chosen with its seed, where that is searched too; methods are compared over seeds.
    by = list(dict.fromkeys(key for cell in run.cells for key in cell.factors)) if search else None
    rows = summarise(run.cells, by, run.name, score=validation_score)
    reasons = {id(row): reason for row in rows if (reason := _missing(row))}
    whole = [row for row in rows if row.n == len(row.cells)]
    name, apart = _of_one_kind(whole)
    ranked = _ranked([row for row in whole if id(row) not in apart], name)
    prefer = str(preset.get("prefer") or "parameters") if isinstance(preset, dict) else "parameters"
    contenders = _contenders(ranked)
    several = kind == "preset" and any(row.n > 1 for row in ranked)
    chosen = None
    if ranked and kind == "search":
        chosen = ranked[0]
    elif several:
        chosen = cheapest([c.row for c in contenders if c.level], prefer)
    unfinished = sum(cell.status == "unfinished" for cell in run.cells)
    reasons |= apart
    left_out = [(row.label, reasons[id(row)]) for row in rows if id(row) in reasons]
    return Choice(kind, name, contenders, chosen, prefer, left_out, unfinished)


def validation_score(cell: Cell) -> tuple[str, float] | None:
    """Name and value of the last stage's main score on the validation split; None where it is no finite number."""
    found = validation_score_of(list(cell.stages.values()))
    return None if found is None or math.isnan(found[1]) else found


def validation_score_of(stages: Sequence[Mapping[str, Any]]) -> tuple[str, float] | None:
    """The same from the metrics of a run's stages; NaN where the score is no finite number, for which that of an
    earlier stage is none."""
    for metrics in reversed(stages):
        name = metrics.get("primary")
        if isinstance(name, str) and name.startswith("validation/"):
            score = metrics["scores"].get(name)
            return name, math.nan if score is None else float(score)
    return None


def cheapest(rows: Iterable[Row], prefer: str) -> Row | None:
    """The row that costs least, the better one of two that cost the same; rows come best first."""
    key = _COSTS[prefer if prefer in _COSTS else "parameters"]
    costs = [(row.mean_cost(key), row) for row in rows]
    known = [(cost, row) for cost, row in costs if cost is not None]
    return min(known, key=lambda pair: pair[0])[1] if known else next((row for _, row in costs), None)


def _missing(row: Row) -> str:
    """Why a row has not a score for each of its cells; empty where it has, or none of them has come so far yet."""
    failed = [cell for cell in row.cells.values() if cell.status == "failed"]
    if failed:
        some = f"{len(failed)} of {len(row.cells)} runs failed: " if len(failed) < len(row.cells) else ""
        return some + str(failed[0].error)
    finished = [cell for cell in row.cells.values() if cell.status == "finished"]
    if (silent := sum(validation_score(cell) is None for cell in finished)) > 0:
        return f"{silent} of {len(row.cells)} runs finished without a validation score that is a number"
    if finished and (begun := sum(cell.status == "unfinished" for cell in row.cells.values())) > 0:
        return f"{begun} of {len(row.cells)} runs not finished yet"
    other = len(finished) - row.n
    return f"{other} of {len(row.cells)} runs have another score than {row.score_name}" if other else ""


def _of_one_kind(rows: Sequence[Row]) -> tuple[str | None, dict[int, str]]:
    """The score that most rows have, and why others can't be compared with these, by the id of the row: they have
    another score, or were scored on other validation rows."""
    name = next(iter(Counter(row.score_name for row in rows).most_common(1)), (None, 0))[0]
    apart = {id(row): f"its validation score is {row.score_name}, not {name}" for row in rows if row.score_name != name}
    alike = [row for row in rows if row.score_name == name]
    scored_on = Counter(map(_rows_scored, (row for row in alike if row.rows)))
    usual = next((row for row in alike if row.rows and _rows_scored(row) == scored_on.most_common(1)[0][0]), None)
    for row in alike:
        if usual is not None and on_other_rows(row, usual):
            apart[id(row)] = f"its validation rows are not those of {usual.label}"
        elif usual is not None and on_other_tokens(row, usual):
            apart[id(row)] = f"its score is the mean over other tokens than that of {usual.label}"
    return name, apart


def _rows_scored(row: Row) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((str(seed), rows) for seed, rows in row.rows.items()))


def _ranked(rows: list[Row], score_name: str | None) -> list[Row]:
    """Rows, the best first."""
    sign = -1 if higher_is_better(score_name or "") else 1
    return sorted(rows, key=lambda row: sign * (row.mean or 0.0))


def _contenders(ranked: list[Row]) -> list[Contender]:
    """Every row with its distance to the best, all with one kind of interval."""
    if not ranked:
        return []
    best, *others = ranked
    by_rows = all(row.by_rows for row in ranked)
    return [Contender(best), *(_against(best, row, by_rows) for row in others)]


def _against(best: Row, row: Row, by_rows: bool) -> Contender:
    """The mean difference over common seeds, with an interval over rows and seeds, or over seeds alone."""
    gap = difference(best, row, by_rows=by_rows)
    if gap is None or gap.seeds < 2:
        return Contender(row)
    return Contender(row, gap, gap.by_rows)


def _label_count(cell: Cell) -> int:
    """Labels of the task, 0 where no stage tells."""
    told = (metrics["details"].get("labels") for metrics in cell.stages.values())
    return max((len(labels) for labels in told if isinstance(labels, list)), default=0)
