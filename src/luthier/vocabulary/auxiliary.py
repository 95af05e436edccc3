"""Vectors of a new vocabulary's tokens from text alone, to compare tokens by.

Positive pointwise mutual information of neighbouring tokens, factored by a truncated singular value decomposition,
which is what skip-gram vectors approximate (Levy and Goldberg, “Neural Word Embedding as Implicit Matrix
Factorization”, NIPS 2014). FOCUS and WECHSEL use fastText; these need no further package and no downloaded vectors.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

WINDOW, WIDTH = 5, 64


def token_vectors(texts: Iterable[list[int]], vocabulary: int, *, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """(V, D) unit vectors in float32; rows of tokens that never occur are zero.

    Args:
        texts: token ids of each.
        vocabulary: V.
        width: D, less where the text has fewer different tokens.
        seed: of the decomposition's start.
    """
    from scipy.sparse import coo_matrix
    from sklearn.utils.extmath import randomized_svd

    counts = coo_matrix((vocabulary, vocabulary), dtype=np.float64).tocsr()
    for batch in _batches(texts):
        rows, columns, values = _pairs(batch)
        counts += coo_matrix((values, (rows, columns)), shape=counts.shape).tocsr()
    counts = counts + counts.T
    sums = np.asarray(counts.sum(axis=1)).ravel()
    total = sums.sum()
    vectors = np.zeros((vocabulary, width), dtype=np.float32)
    if not total:
        return vectors
    pairs = counts.tocoo()
    values = np.log(pairs.data * total / (sums[pairs.row] * sums[pairs.col]))
    kept = values > 0
    information = coo_matrix((values[kept], (pairs.row[kept], pairs.col[kept])), shape=counts.shape).tocsr()
    components = min(width, int((sums > 0).sum()) - 1)
    if components < 1:
        return vectors
    left, sizes, _ = randomized_svd(information, n_components=components, random_state=seed)
    vectors[:, :components] = left * np.sqrt(sizes)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: np.ndarray = vectors / np.where(norms > 1e-8, norms, 1.0)
    return unit


def _batches(texts: Iterable[list[int]], tokens: int = 1_000_000) -> Iterable[list[list[int]]]:
    held: list[list[int]] = []
    size = 0
    for ids in texts:
        held.append(ids)
        size += len(ids)
        if size >= tokens:
            yield held
            held, size = [], 0
    if held:
        yield held


def _pairs(texts: list[list[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neighbours up to `WINDOW` apart, nearer ones weighing more."""
    rows, columns, values = [], [], []
    for ids in texts:
        line = np.asarray(ids, dtype=np.int64)
        for distance in range(1, min(WINDOW, len(line) - 1) + 1):
            rows.append(line[:-distance])
            columns.append(line[distance:])
            values.append(np.full(len(line) - distance, 1.0 / distance))
    if not rows:
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty, empty.astype(np.float64)
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(values)
