"""Scores of many bootstrap draws at once. A draw says how often each question counts; scores are made of sums.

Shapes: D draws, Q questions, N rows (as many as questions where every row is asked by itself).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from luthier.evaluation import counted
from luthier.evaluation.counted import Statistic, mean_of, ratio_of
from luthier.evaluation.metrics import answer_f1, as_bioes, exact_match

if TYPE_CHECKING:
    from luthier.tasks.running.judged import Judged

_Builder = Callable[[Any, Any], Statistic]
_Name = TypeVar("_Name", bound=Hashable)
# Cells of the counts that are held at once, 8 bytes each.
_MOST_CELLS = 4_000_000


def draw_counts(questions: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each question occurs in samples with replacement, as (d, Q) float64 blocks of D draws in all.

    The draws are those of `luthier.evaluation.metrics.bootstrap_interval` with the same seed.
    """
    generator = np.random.default_rng(seed)
    block = max(1, _MOST_CELLS // questions)
    for start in range(0, draws, block):
        size = min(block, draws - start)
        drawn = generator.integers(0, questions, (size, questions))
        drawn += questions * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * questions).reshape(size, questions).astype(float)


def resampled(
    statistics: Mapping[_Name, Statistic], questions: int, *, draws: int, seed: int
) -> dict[_Name, np.ndarray]:
    """Every statistic in the same D draws, (D,) each; nothing for fewer than 2 questions."""
    if questions < 2 or not statistics:
        return {}
    found: dict[_Name, list[np.ndarray]] = {name: [] for name in statistics}
    for counts in draw_counts(questions, draws, seed):
        for name, statistic in statistics.items():
            found[name].append(statistic(counts))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def statistic_of(name: str, judged: Judged) -> Statistic | None:
    """A metric of `luthier.evaluation.metrics` for many draws at once; None for one that is not known here."""
    if name == "question_exact_match" and judged.groups is not None:
        wrong = np.bincount(judged.groups, weights=judged.gold != judged.guess)
        return mean_of(wrong[np.bincount(judged.groups) > 0] == 0)
    builder = _BUILDERS.get(name)
    if builder is None:
        return None
    statistic, groups = builder(judged.gold, judged.guess), judged.groups
    if groups is None:
        return statistic
    return lambda counts: statistic(counts[:, groups])


def _entity_f1(gold: list[list[str]], guess: list[list[str]]) -> Statistic:
    real, said = _entities(gold), _entities(guess)
    right = [len(a & b) for a, b in zip(real, said, strict=True)]
    both = [len(a) + len(b) for a, b in zip(real, said, strict=True)]
    return ratio_of(2 * np.array(right), both)


def _entities(rows: list[list[str]]) -> list[set[Any]]:
    from seqeval.metrics.sequence_labeling import get_entities

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [set(get_entities(row)) for row in as_bioes(rows)]


def _mean_by_row(metric: Callable[[Any, Any], float]) -> _Builder:
    return lambda gold, guess: mean_of([metric([one], [said]) for one, said in zip(gold, guess, strict=True)])


_BUILDERS: dict[str, _Builder] = {
    "accuracy": counted.accuracy,
    "f1": counted.binary_f1,
    "macro_f1": counted.macro_f1,
    "matthews_correlation": counted.matthews_correlation,
    "pearson": counted.pearson,
    "spearman": counted.spearman,
    "mean_squared_error": counted.mean_squared_error,
    "seqeval_f1": _entity_f1,
    "word_accuracy": counted.word_accuracy,
    "exact_match": _mean_by_row(exact_match),
    "squad_f1": _mean_by_row(answer_f1),
}
