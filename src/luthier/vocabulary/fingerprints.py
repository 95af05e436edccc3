"""S3: lexical fingerprints of languages, and their distances without a dense matrix.

Source: Liang et al., “XLM-V” (EMNLP 2023), section 3.1; binary fingerprints after Chung et al., “Improving Multilingual
Models with Language-Clustered Vocabularies” (EMNLP 2020). Shapes: L languages, U pieces of all of them.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from luthier.vocabulary.settings import FingerprintKind

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fingerprints:
    """The matrix F of languages by pieces, as a sparse part and what is the same everywhere.

    F[l, u] = scale[l] * (sparse[l, u] + absent).

    Attributes:
        languages: of the rows.
        pieces: of the columns, sorted.
        sparse: (L, U) CSR matrix of values less `absent`.
        absent: value of a piece that a language does not have.
        scale: (L,), one over the norm of each row, or ones.
    """

    languages: list[str]
    pieces: list[str]
    sparse: Any
    absent: float
    scale: np.ndarray

    def dense(self) -> np.ndarray:
        """F as (L, U); for few languages."""
        full: np.ndarray = self.scale[:, None] * (self.sparse.toarray() + self.absent)
        return full

    def gram(self) -> np.ndarray:
        """F F^T, (L, L), without making F dense."""
        raw = _raw_gram(self.sparse, self.absent)
        scaled: np.ndarray = self.scale[:, None] * raw * self.scale[None, :]
        return scaled

    def factor(self) -> np.ndarray:
        """(L, L) X with X X^T = F F^T, so that rows of X are as far from each other as rows of F."""
        values, vectors = np.linalg.eigh(self.gram())
        points: np.ndarray = vectors * np.sqrt(np.maximum(values, 0.0))
        return points

    def places(self) -> dict[str, tuple[float, float]]:
        """The two principal coordinates of each language."""
        points = self.factor()
        centred = points - points.mean(axis=0)
        left, size, _ = np.linalg.svd(centred, full_matrices=False)
        flat = np.zeros((len(points), 2))
        flat[:, : min(2, left.shape[1])] = (left * size)[:, :2]
        flat *= np.where(flat[np.abs(flat).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
        return {name: (float(x), float(y)) for name, (x, y) in zip(self.languages, flat, strict=True)}


def lexical_fingerprints(
    vocabularies: Mapping[str, Mapping[str, float]],
    *,
    kind: FingerprintKind = "neg_logprob",
    absent: float = 0.0,
    normalise: str = "l2",
) -> Fingerprints:
    """Fingerprints of languages by their unigram models.

    Args:
        vocabularies: language -> piece -> log probability in nats.
        kind: `neg_logprob` is -log p as published; `prob` is p; `binary` is 1; `tfidf` is p log(L / languages with it).
        absent: value of pieces that a language does not have.
        normalise: `l2` gives every row length 1, `none` leaves it.

    Raises:
        ValueError: there is no language.
    """
    from scipy.sparse import csr_matrix

    if not vocabularies:
        raise ValueError("there is no language")
    if kind == "neg_logprob" and absent == 0.0:
        log.info(
            "fingerprints of -log p with 0 for absent pieces make rare pieces the largest coordinates; `prob`, "
            "`tfidf`, `binary` or a larger `absent` weigh frequent ones more"
        )
    pieces = sorted(set().union(*vocabularies.values()))
    column = {piece: number for number, piece in enumerate(pieces)}
    having = Counter(piece for vocabulary in vocabularies.values() for piece in vocabulary)
    data: list[float] = []
    indices: list[int] = []
    ends = [0]
    for vocabulary in vocabularies.values():
        for piece, score in vocabulary.items():
            indices.append(column[piece])
            data.append(_value(kind, score, len(vocabularies) / having[piece]) - absent)
        ends.append(len(indices))
    sparse = csr_matrix((data, indices, ends), shape=(len(vocabularies), len(pieces)))
    scale = np.ones(len(vocabularies))
    if normalise == "l2":
        norms = np.sqrt(np.maximum(np.diag(_raw_gram(sparse, absent)), 0.0))
        scale = 1.0 / np.where(norms > 0, norms, 1.0)
    return Fingerprints(list(vocabularies), pieces, sparse, absent, scale)


def _value(kind: FingerprintKind, score: float, rarity: float) -> float:
    if kind == "neg_logprob":
        return -score
    if kind == "binary":
        return 1.0
    return math.exp(score) * (math.log(rarity) if kind == "tfidf" else 1.0)


def _raw_gram(sparse: Any, absent: float) -> np.ndarray:
    gram = np.asarray((sparse @ sparse.T).toarray(), dtype=np.float64)
    if absent:
        sums = np.asarray(sparse.sum(axis=1)).ravel()
        gram += absent * (sums[:, None] + sums[None, :]) + absent * absent * sparse.shape[1]
    return gram
