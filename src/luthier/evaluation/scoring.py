"""From a model's outputs to the scores of its task, with intervals over what was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.data.rows.identity import rows_digest
from luthier.evaluation.baselines import Baseline, beside, no_better, one_answer, prior_for
from luthier.evaluation.counted import Statistic, guessed_macro_f1, of_all_rows, ratio_of
from luthier.evaluation.metrics import score
from luthier.evaluation.resampling import resampled, statistic_of
from luthier.metric_names import is_mean_of_rows
from luthier.report.intervals import DRAWS, ROW_SEED, bounded_interval
from luthier.tasks.base import Task, task_named, task_of
from luthier.tasks.running.priors import class_scores

if TYPE_CHECKING:
    from luthier.data.task_data import TaskData
    from luthier.tasks.running.judged import Judged
    from luthier.tasks.running.predicting import Predictions


def judge(predictions: Predictions, data: TaskData, split: str, rows: Any) -> Judged | None:
    """Gold labels and the model's answers, in the form that the task's metrics take; see `Task.judge`."""
    return task_named(predictions.schema).judge(predictions, data, data.splits[split], rows)


def judged_scores(task: Task, judged: Judged, names: tuple[str, ...]) -> dict[str, float]:
    """Every named metric, the task's own ones included; see `luthier.evaluation.metrics.score`."""
    own = task.own_metrics()
    known = score(tuple(name for name in names if name not in own), judged.gold, judged.guess, judged.groups)
    return {name: own[name](judged.gold, judged.guess) if name in own else known[name] for name in names}


_UNIGRAM = "every token by its share of the training text"


@dataclass(frozen=True)
class TaskResult:
    """What a model's predictions come to on the rows of a split.

    Attributes:
        scores: the task's metrics, and the mean loss.
        intervals: 95 % intervals of the metrics, over rows, or over questions where they have several: see
            `draws_intervals`.
        baselines: the trivial baseline beside every score that has one.
        marks: what a reader must not miss of a model that learned nothing, in words.
        about: score -> what its name leaves out.
        drawn: the metrics in (D,) draws of rows, or of questions; none for fewer than two.
        questions: how many rows, or questions, were drawn from.
        judged: gold labels and answers; None where the text itself is learned.
    """

    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    baselines: dict[str, Baseline] = field(default_factory=dict)
    marks: list[str] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)
    drawn: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    questions: int = 0
    judged: Judged | None = None

    def told(self, split: str) -> dict[str, Any]:
        """What stands beside the scores, as arguments of `luthier.stages.metrics_record`."""
        baselines = {f"{split}/{name}": one.to_json() for name, one in self.baselines.items()}
        about = {f"{split}/{name}": text for name, text in self.about.items()}
        return {"baselines": baselines, "marks": self.marks, "about": about}


def task_result(
    predictions: Predictions,
    data: TaskData,
    split: str,
    rows: Any,
    *,
    prior: Mapping[str, Any] | None = None,
    unigram: Predictions | None = None,
    draws: int = DRAWS,
) -> TaskResult:
    """Scores, their intervals, and what the trivial baseline scores on the same rows.

    Args:
        predictions: of the model.
        data: with the names of labels and metrics.
        split: that was predicted.
        rows: its encoded rows.
        prior: what the labels of the training rows tell; see `Task.prior`.
        unigram: where the text itself is learned, what a unigram model of the training text gives
            (`luthier.evaluation.unigram`).
        draws: of the bootstrap; every model is given the same draws of the same rows, so that two can be compared.
    """
    judged = judge(predictions, data, split, rows)
    model = _sides(predictions, judged, data)
    others = _constant_sides(predictions, judged, data, split, rows, prior or {})
    if judged is None and unigram is not None:
        others = {name: (_UNIGRAM, side) for name, side in _sides(unigram, None, data).items()}
    metrics = [name for name in model if name != "loss"]
    statistics = {("model", name): model[name].statistic for name in {*metrics, *others}}
    statistics |= {("other", name): side.statistic for name, (_, side) in others.items()}
    questions = len(predictions.nll) if judged is None else judged.questions
    drawn = resampled(statistics, questions, draws=draws, seed=ROW_SEED)
    baselines = {
        name: beside(
            name,
            answer,
            model[name].score,
            side.score,
            drawn.get(("model", name)),
            drawn.get(("other", name)),
            questions,
        )
        for name, (answer, side) in others.items()
    }
    own = {name: drawn["model", name] for name in metrics if ("model", name) in drawn}
    intervals = draws_intervals(own, questions)
    bare = [name for name in own if name not in intervals]
    constant = one_answer(judged, task_named(predictions.schema).label_kind, data.labels)
    return TaskResult(
        scores={name: side.score for name, side in model.items()},
        intervals=intervals,
        baselines=baselines,
        marks=constant + no_better(baselines, metrics) + ([] if constant else _without_interval(judged, bare)),
        questions=questions,
        about={"f1": f"of the label {data.labels[1]!r}"} if "f1" in model and len(data.labels) > 1 else {},
        drawn=own,
        judged=judged,
    )


def plain_scores(predictions: Predictions, data: TaskData, split: str, rows: Any) -> dict[str, float]:
    """The task's metrics and the mean loss alone; see `task_result`."""
    sides = _sides(predictions, judge(predictions, data, split, rows), data)
    return {name: side.score for name, side in sides.items()}


@dataclass(frozen=True)
class _Side:
    """A score, and the same for many draws at once."""

    score: float
    statistic: Statistic


def _sides(predictions: Predictions, judged: Judged | None, data: TaskData) -> dict[str, _Side]:
    loss = float(predictions.nll.sum() / max(1, predictions.items.sum()))
    mean_loss = ratio_of(predictions.nll, predictions.items)
    if judged is None:
        perplexity = _Side(float(np.exp(loss)), lambda counts: np.exp(mean_loss(counts)))
        return {"loss": _Side(loss, mean_loss), "perplexity": perplexity}
    task, names = task_named(predictions.schema), tuple(data.metrics)
    statistics = statistics_of(task, judged, names)
    sides = {name: _Side(score, statistics[name]) for name, score in judged_scores(task, judged, names).items()}
    return sides | {"loss": _Side(loss, _of_questions(mean_loss, judged))}


def _of_questions(statistic: Statistic, judged: Judged) -> Statistic:
    """A statistic of rows as one of questions."""
    groups = judged.groups
    return statistic if groups is None else lambda counts: statistic(counts[:, groups])


def _constant_sides(
    predictions: Predictions, judged: Judged | None, data: TaskData, split: str, rows: Any, prior: Mapping[str, Any]
) -> dict[str, tuple[str, _Side]]:
    """For every score what the trivial baseline answers, and its side."""
    found: dict[str, tuple[str, _Side]] = {}
    if not prior or judged is None:
        return found
    task = task_of(data)
    guessed = "macro_f1" in data.metrics and "macro_f1" not in task.own_metrics()
    if guessed and (scores := class_scores(prior, data.labels)) is not None:
        statistic = _of_questions(guessed_macro_f1(judged.gold, np.exp(scores)), judged)
        score = of_all_rows(statistic, judged.questions)
        found["macro_f1"] = ("guesses by the shares of the training labels", _Side(score, statistic))
    for names in (
        [name for name in data.metrics if name not in ("f1", *found)],
        [name for name in data.metrics if name == "f1"],
    ):
        own = prior_for("f1" if names == ["f1"] else "", prior, data.labels)
        given = task.by_prior(own, predictions, data)
        if given is None:
            return {}
        sides = _sides(given, judge(given, data, split, rows), replace(data, metrics=tuple(names)))
        found |= {name: (task.told_prior(own), sides[name]) for name in names}
        if own is prior and data.form is None and len(given.nll) == len(judged.gold):
            told = "the shares of the training labels" if "shares" in prior else task.told_prior(own)
            found["loss"] = (told, sides["loss"])
    return found


def task_scores(predictions: Predictions, data: TaskData, split: str, rows: Any) -> dict[str, float]:
    """The task's metrics, and the mean loss."""
    return {name: side.score for name, side in _sides(predictions, judge(predictions, data, split, rows), data).items()}


def task_draws(
    predictions: Predictions, data: TaskData, split: str, rows: Any, *, draws: int = DRAWS
) -> dict[str, np.ndarray]:
    """The task's metrics in draws of rows, or of questions where they have several; none for fewer than two."""
    return task_result(predictions, data, split, rows, draws=draws).drawn


def scored_details(data: TaskData, split: str, result: TaskResult) -> dict[str, Any]:
    """What a page needs to compare a model with others: which rows were scored, and how many, and the scores in draws
    of them."""
    return {
        "scored_rows": {split: rows_digest(data.splits[split], data.labels)},
        "rows_drawn": {split: result.questions},
        "drawn_scores": {f"{split}/{name}": [float(f"{x:.6g}") for x in found] for name, found in result.drawn.items()},
    }


def draws_intervals(drawn: Mapping[str, np.ndarray], rows: int) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of what `task_draws` gave, of N rows or questions.

    Where all draws agree, a mean over rows has the exact interval of N rows that all came out alike
    (`luthier.report.intervals.agreeing_interval`), and any other score none.
    """
    found = {name: bounded_interval(one, rows if is_mean_of_rows(name) else None) for name, one in drawn.items()}
    return {name: interval for name, interval in found.items() if interval is not None}


def _without_interval(judged: Judged | None, names: Sequence[str]) -> list[str]:
    """The mark of scores that have no interval, since no draw of the rows changes them."""
    if not names:
        return []
    right = judged is not None and all(map(np.array_equal, judged.gold, judged.guess))
    why = "every row is right" if right else "it is the same in every draw of the rows"
    return [f"no interval of {', '.join(names)}: {why}"]


def statistics_of(task: Task, judged: Judged, names: tuple[str, ...]) -> dict[str, Statistic]:
    """Every named metric for many draws of questions at once; those of the task's own that it gives no statistic for
    are computed draw by draw."""
    own, given = task.own_metrics(), task.own_statistics(judged)
    known = {name: given.get(name) if name in own else statistic_of(name, judged) for name in names}
    return {name: one or _one_by_one(task, judged, name) for name, one in known.items()}


def _one_by_one(task: Task, judged: Judged, name: str) -> Statistic:
    def statistic(counts: np.ndarray) -> np.ndarray:
        draws = (judged.drawn(np.repeat(np.arange(len(one)), one.astype(int))) for one in counts)
        return np.array([judged_scores(task, drawn, (name,))[name] for drawn in draws])

    return statistic
