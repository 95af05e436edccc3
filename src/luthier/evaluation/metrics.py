"""Scores of a task by name, with bootstrap intervals over rows."""

from __future__ import annotations

import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from luthier.errors import RecipeError, nearest
from luthier.evaluation import counted


def _of_rows(statistic: Callable[[Any, Any], counted.Statistic]) -> Callable[[Any, Any], float]:
    """A score of (N,) labels or numbers, or of N rows of words, as that of draws where every row counts once."""

    def score(gold: Any, guess: Any) -> float:
        return counted.of_all_rows(statistic(gold, guess), len(gold))

    return score


def _entity_f1(gold: list[list[str]], guess: list[list[str]]) -> float:
    from seqeval.metrics import f1_score

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(f1_score(as_bioes(gold), as_bioes(guess), zero_division=0))


def as_bioes(rows: list[list[str]]) -> list[list[str]]:
    """Tags as seqeval reads them: L and U of BILOU are E and S of BIOES."""
    other = {"L-": "E-", "U-": "S-"}
    return [[other.get(tag[:2], tag[:2]) + tag[2:] for tag in row] for row in rows]


def normalise_answer(text: str) -> str:
    """Lower case, no punctuation, no articles, single blanks (SQuAD v1.1's rule)."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(gold: list[list[str]], guess: list[str]) -> float:
    """Share of answers that equal one of their references after `normalise_answer`."""
    hits = [
        any(normalise_answer(g) == normalise_answer(a) for g in golds) for golds, a in zip(gold, guess, strict=True)
    ]
    return float(np.mean(hits))


def answer_f1(gold: list[list[str]], guess: list[str]) -> float:
    """Mean over answers of the best token-multiset F1 against their references (SQuAD v1.1), 0 without any."""
    best = [max((_overlap(g, a) for g in golds), default=0.0) for golds, a in zip(gold, guess, strict=True)]
    return float(np.mean(best))


def _overlap(gold: str, guess: str) -> float:
    wanted, given = normalise_answer(gold).split(), normalise_answer(guess).split()
    if not wanted or not given:
        return float(wanted == given)
    common = sum((Counter(wanted) & Counter(given)).values())
    return 2 * common / (len(wanted) + len(given))


def question_exact_match(gold: np.ndarray, guess: np.ndarray, groups: np.ndarray) -> float:
    """Share of questions all of whose answers are judged right (Khashabi et al., NAACL 2018).

    Args:
        gold, guess: (N,) labels of the answers.
        groups: (N,) number of the question each answer belongs to, from 0.
    """
    wrong = np.bincount(groups, weights=gold != guess)
    asked = np.bincount(groups) > 0
    return float(np.mean(wrong[asked] == 0))


METRICS: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": _of_rows(counted.accuracy),
    "f1": _of_rows(counted.binary_f1),
    "macro_f1": _of_rows(counted.macro_f1),
    "matthews_correlation": _of_rows(counted.matthews_correlation),
    "pearson": _of_rows(counted.pearson),
    "spearman": _of_rows(counted.spearman),
    "mean_squared_error": _of_rows(counted.mean_squared_error),
    "seqeval_f1": _entity_f1,
    "word_accuracy": _of_rows(counted.word_accuracy),
    "exact_match": exact_match,
    "squad_f1": answer_f1,
}
GROUPED_METRICS: dict[str, Callable[[Any, Any, np.ndarray], float]] = {"question_exact_match": question_exact_match}


def check_metrics(names: Sequence[str], own: Collection[str] = ()) -> None:
    """Find a name that is no metric.

    Args:
        names: of metrics.
        own: those that a task has beside the ones here.

    Raises:
        RecipeError: there is one; names the nearest metric.
    """
    known = [*METRICS, *GROUPED_METRICS, *own]
    for name in names:
        if name not in known:
            guess = nearest(name, known)
            meant = f"did you mean {guess!r}? " if guess else ""
            raise RecipeError(f"there is no metric called {name!r}", fix=f"{meant}known: {', '.join(known)}")


def score(names: tuple[str, ...], gold: Any, guess: Any, groups: np.ndarray | None = None) -> dict[str, float]:
    """Every named score of guesses against gold labels.

    Args:
        names: of metrics.
        gold, guess: in the form that the metrics take; class guesses may be -1, none of the labels.
        groups: (N,) number of the question that each row belongs to, for metrics of whole questions.

    Raises:
        RecipeError: an unknown name, or a metric of whole questions without them.
    """
    check_metrics(names)
    if groups is None and (grouped := [name for name in names if name in GROUPED_METRICS]):
        raise RecipeError(f"the metric {grouped[0]!r} needs a column `group` that joins the rows of a question")
    found = {name: METRICS[name](gold, guess) for name in names if name in METRICS}
    if groups is not None:
        found |= {name: GROUPED_METRICS[name](gold, guess, groups) for name in names if name in GROUPED_METRICS}
    return {name: found[name] for name in names}


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float],
    rows: int,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    centre: float | None = None,
) -> tuple[float, float] | None:
    """Percentile interval of a score over rows drawn with replacement.

    Args:
        statistic: row indices -> score.
        rows: how many rows there are; fewer than 2 have no interval.
        centre: see `percentiles`.
    """
    if rows < 2:
        return None
    generator = np.random.default_rng(seed)
    return percentiles([statistic(generator.integers(0, rows, rows)) for _ in range(draws)], level, centre)


def percentiles(
    drawn: Sequence[float] | np.ndarray, level: float = 0.95, centre: float | None = None
) -> tuple[float, float]:
    """The middle part of bootstrap draws.

    Args:
        drawn: the score in every draw.
        level: the share between the two ends.
        centre: the score itself, where redrawing rows adds a bias of its own, as it does to a calibration error, which
            is never negative: the draws are moved until their mean is the score, and cut off at 0.
    """
    tail = (1 - level) / 2
    low, high = (float(end) for end in np.quantile(drawn, [tail, 1 - tail]))
    if centre is None:
        return low, high
    shift = centre - float(np.mean(drawn))
    return max(0.0, low + shift), max(0.0, high + shift)
