"""Whether a model does better than what is known without a look at the rows.

The trivial baseline answers every row alike, by the labels of the training rows: the most frequent class, or the mean.
Beside macro-F1, where a constant answer is beaten by guessing, stand guesses by the shares of the training labels;
beside the F1 of one label always that label; beside the loss those shares as probabilities.

A model is better where the 95 % bootstrap interval of the paired difference of their scores, over the judged rows,
leaves out 0 and what is worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.metric_names import higher_is_better, is_mean_of_rows
from luthier.report.intervals import agreeing_interval, bounded_interval

if TYPE_CHECKING:
    from luthier.tasks.running.judged import Judged

# A model whose numbers vary less than this share of the labels' standard deviation gives nearly the same one always.
NEARLY_CONSTANT = 0.05
NOT_BETTER = "not shown to be better than the trivial baseline"


@dataclass(frozen=True)
class Baseline:
    """The trivial baseline beside one score.

    Attributes:
        answer: what it answers, in words.
        score: of it, on the same rows.
        difference: of the model's score to it.
        interval: 95 % bootstrap interval of that difference, paired by row; None for fewer than 2 rows, and where every
            draw has the same difference of what is no mean over rows.
        better: whether the model is better: the interval leaves out 0 and what is worse.
    """

    answer: str
    score: float
    difference: float
    interval: tuple[float, float] | None
    better: bool

    def to_json(self) -> dict[str, Any]:
        """The fields in JSON's types."""
        return asdict(self) | {"interval": None if self.interval is None else list(self.interval)}


def beside(
    name: str,
    answer: str,
    score: float,
    baseline: float,
    draws: np.ndarray | None,
    others: np.ndarray | None,
    rows: int,
) -> Baseline:
    """The baseline beside the score of that name.

    Args:
        name: of the score, which says whether more of it is better.
        answer: what the baseline answers, in words.
        score, baseline: of the model, and of the baseline.
        draws, others: (D,) their scores in the same bootstrap draws.
        rows: N, how many rows or questions were drawn from.
    """
    sign = 1 if higher_is_better(name) else -1
    if draws is None or others is None:
        return Baseline(answer, baseline, score - baseline, None, False)
    interval = bounded_interval(draws - others, rows if is_mean_of_rows(name) else None, (-1.0, 1.0))
    if interval is None:  # the same difference in every draw: so many rows must agree as tell right from wrong
        better = sign * (score - baseline) > 0 and agreeing_interval(1.0, rows, (-1.0, 1.0))[0] > 0
    else:
        better = (interval[0] if sign > 0 else -interval[1]) > 0
    return Baseline(answer, baseline, score - baseline, interval, better)


def prior_for(metric: str, prior: Mapping[str, Any], labels: Sequence[str]) -> Mapping[str, Any]:
    """The prior whose most frequent class is the constant answer that scores best by a metric: for `f1`, which counts
    one class only, that class, since any other answer has an F1 of 0."""
    if metric != "f1" or len(labels) < 2 or not isinstance(prior.get("shares"), Mapping):
        return prior
    return {**prior, "shares": {label: float(place == 1) for place, label in enumerate(labels)}}


def one_answer(judged: Judged | None, label_kind: str | None, labels: Sequence[str]) -> list[str]:
    """Marks of a model that answers every row alike, or nearly so, where the labels differ."""
    if judged is None or not len(judged.gold):
        return []
    if label_kind == "score":
        return _nearly_constant(np.asarray(judged.gold, float), np.asarray(judged.guess, float))
    if label_kind == "classes":
        gold, guess = ({tag for row in rows for tag in row} for rows in (judged.gold, judged.guess))
        names = {tag: repr(tag) for tag in guess}
    elif label_kind in ("class", "choice") and isinstance(judged.gold, np.ndarray):
        gold, guess = set(judged.gold.tolist()), set(judged.guess.tolist())
        names = {one: _name(one, labels, label_kind) for one in guess}
    else:
        return []
    return [f"predicts one class only: {names[guess.pop()]}"] if len(guess) == 1 < len(gold) else []


def _name(one: int, labels: Sequence[str], label_kind: str) -> str:
    if one < 0:
        return "none of the labels"
    return f"choice {one + 1}" if label_kind == "choice" else repr(labels[one])


def _nearly_constant(gold: np.ndarray, guess: np.ndarray) -> list[str]:
    spread, given = float(gold.std()), float(guess.std())
    if not spread or given >= NEARLY_CONSTANT * spread:
        return []
    return [f"nearly constant predictions: their standard deviation is {given:.3g}, that of the labels {spread:.3g}"]


def no_better(baselines: Mapping[str, Baseline], names: Sequence[str]) -> list[str]:
    """The mark of a model that is not shown to be better than the baseline by one of the named scores, or more."""
    found = [name for name in names if name in baselines and not baselines[name].better]
    return [f"{NOT_BETTER} by {', '.join(found)}"] if found else []
