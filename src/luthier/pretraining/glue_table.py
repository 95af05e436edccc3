"""The scores of a `glue` stage: one line a model, in the usual order of tasks, and what means are over."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from luthier.pretraining.glue import AT_HAND, GLUE
from luthier.report.sections import Section, SectionTable, Value
from luthier.report.statistics import half_interval

# Left out of the mean of eight, as its development rows contradict its training rows.
_ODD = "wnli"
# Task -> rate -> the metrics that it is judged by, of every seed.
Found = dict[str, dict[float, list[dict[str, float]]]]


def score(metrics: dict[str, float]) -> float:
    """A fine-tuning's score: the metric of the task, or the mean of its two."""
    return statistics.fmean(metrics.values())


@dataclass(frozen=True)
class Line:
    """A model in the table.

    Attributes:
        name: of the line.
        layers: of its configuration, where it tells.
        parameters: of the body.
        operations: floating-point operations of a text of the stage's length, in billions.
        found: metrics of all fine-tunings.
    """

    name: str
    layers: int | None
    parameters: int
    operations: float
    found: Found

    def rate(self, task: str) -> float:
        """The learning rate whose median is the best."""
        own = self.found[task]
        return max(own, key=lambda rate: statistics.median(score(one) for one in own[rate]))

    def by_seed(self, task: str) -> list[float]:
        """Scores of a task at its best rate."""
        return [score(one) for one in self.found[task][self.rate(task)]]

    def score(self, task: str) -> float:
        """The median over seeds."""
        return statistics.median(self.by_seed(task))

    def metric(self, task: str, name: str) -> float:
        """The median of one metric."""
        return statistics.median(one[name] for one in self.found[task][self.rate(task)])

    def mean(self, tasks: Sequence[str]) -> float:
        """Over tasks, each with the same weight."""
        return statistics.fmean(self.score(task) for task in tasks)

    def means_by_seed(self, tasks: Sequence[str]) -> list[float]:
        """The mean over tasks, one for every seed."""
        return [statistics.fmean(some) for some in zip(*(self.by_seed(task) for task in tasks), strict=True)]


def averages(tasks: Sequence[str]) -> dict[str, list[str]]:
    """Column -> tasks that its mean is over: eight and nine where all of GLUE is there, else those that are; and, where
    there are other tasks, all of them."""
    glue = [task for task in tasks if task in GLUE]
    others = [task for task in glue if task != _ODD]
    without = {f"mean of {len(others)}, without WNLI": others} if others and _ODD in glue else {}
    return without | {f"mean of {len(own)}": list(own) for own in (glue, tasks) if own}


def sections(
    lines: Sequence[Line], tasks: Sequence[str], baseline: str | None, seeds: int, source: str
) -> list[Section]:
    """The table of means, that of every metric, and what was not at hand."""
    columns = ["model", "layers", "parameters", "GFLOPs a text", *titles(tasks).values(), *averages(tasks)]
    beside = next((line for line in lines if line.name == baseline), None)
    rows = [_row(line, tasks) for line in lines]
    if beside is not None:
        columns.append(f"{next(iter(averages(tasks)))}, less {beside.name} [95 %]")
        for line, row in zip(lines, rows, strict=True):
            row.append("" if line is beside else difference(line, beside, next(iter(averages(tasks).values()))))
    every: list[list[Value]] = [
        [line.name, title, f"{line.rate(task):g}", name, 100 * line.metric(task, name), _spread(line, task, name)]
        for line in lines
        for task, title in titles(tasks).items()
        if task in tasks
        for name in line.found[task][line.rate(task)][0]
    ]
    return [
        Section("GLUE", text=about(tasks, seeds, source), table=SectionTable(columns, rows)),
        Section(
            "Every metric",
            table=SectionTable(["model", "task", "rate", "metric", "median", "least to most"], every),
        ),
    ]


def titles(tasks: Sequence[str]) -> dict[str, str]:
    """Task -> heading: all of GLUE where any of it is there, and other tasks by their names."""
    glue = GLUE if any(task in GLUE for task in tasks) else {}
    return {**glue, **{task: task for task in tasks if task not in GLUE}}


def about(tasks: Sequence[str], seeds: int, source: str) -> str:
    """What the table's numbers are."""
    told = [
        f"Medians of {seeds} fine-tunings, times 100, on development rows: Matthews correlation of CoLA, the mean of "
        "accuracy and F1 of MRPC and QQP, that of Pearson's and Spearman's correlations of STS-B, accuracy of other "
        "tasks of GLUE, and the first metric of any further one.",
    ]
    if absent := [name for task, name in titles(tasks).items() if task not in tasks]:
        told.append(f"Not among them: {', '.join(absent)}, so that no mean is that of GLUE.")
    if source == "data" and "qnli" in tasks:
        told.append("QNLI is trained on and scored on parts of its development rows, which alone are at hand.")
    if source == "data" and AT_HAND["mrpc"][1] == "test" and "mrpc" in tasks:
        told.append("MRPC is scored on its test rows.")
    return " ".join(told)


def difference(line: Line, baseline: Line, tasks: Sequence[str]) -> str:
    """Of the means over tasks, paired by seed: a t interval over seeds, and so for these rows."""
    pairs = zip(line.means_by_seed(tasks), baseline.means_by_seed(tasks), strict=True)
    found = [100 * (one - other) for one, other in pairs]
    mean = statistics.fmean(found)
    if len(found) < 2:
        return f"{mean:+.2f}"
    half = half_interval(found)
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def _row(line: Line, tasks: Sequence[str]) -> list[Value]:
    scores: list[Any] = [100 * line.score(task) if task in tasks else "" for task in titles(tasks)]
    means = [100 * line.mean(own) for own in averages(tasks).values()]
    return [line.name, line.layers, line.parameters, line.operations, *scores, *means]


def _spread(line: Line, task: str, name: str) -> str:
    values = [100 * one[name] for one in line.found[task][line.rate(task)]]
    return f"{min(values):.1f} to {max(values):.1f}"
