"""Near-duplicates of prompts, found by MinHash and checked exactly (Broder 1997)."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

_PIECE, _BANDS, _ROWS = 4, 32, 2
# Below this similarity the bands would miss too many pairs.
_BANDED = 0.6
_PRIME = (1 << 31) - 1


def pieces(text: str) -> frozenset[str]:
    """All runs of four letters of a text in lower case with single blanks."""
    plain = " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
    return frozenset(plain[i : i + _PIECE] for i in range(max(1, len(plain) - _PIECE + 1)))


def similarity(first: frozenset[str], second: frozenset[str]) -> float:
    """Jaccard similarity."""
    either = len(first | second)
    return len(first & second) / either if either else 1.0


class NearDuplicates:
    """Texts, and which of them a new one is like.

    Candidates share one of 32 bands of two MinHash values, which misses a pair of similarity 0.6 once in a million;
    candidates are then compared exactly. Where less similar texts are looked for, all are.

    Args:
        similar: the Jaccard similarity from which on two texts are near-duplicates.
    """

    def __init__(self, similar: float) -> None:
        self.similar = similar
        self._pieces: dict[str, frozenset[str]] = {}
        self._bands: dict[tuple[int, int, int], list[str]] = defaultdict(list)
        generator = np.random.default_rng(20_240_601)
        self._slopes = generator.integers(1, _PRIME, _BANDS * _ROWS, dtype=np.int64)
        self._offsets = generator.integers(0, _PRIME, _BANDS * _ROWS, dtype=np.int64)

    def add(self, name: str, text: str) -> None:
        """Take in a text under a name."""
        found = pieces(text)
        self._pieces[name] = found
        for band in self._bands_of(found):
            self._bands[band].append(name)

    def like(self, text: str) -> str | None:
        """Name of the first text that was taken in and is this similar; None where there is none."""
        found = pieces(text)
        names = dict.fromkeys(self._candidates(found))
        close = [name for name in names if similarity(found, self._pieces[name]) >= self.similar]
        return close[0] if close else None

    def _candidates(self, found: frozenset[str]) -> Iterable[str]:
        if self.similar < _BANDED:
            return self._pieces
        return (name for band in self._bands_of(found) for name in self._bands.get(band, ()))

    def _bands_of(self, found: frozenset[str]) -> list[tuple[int, int, int]]:
        hashes = np.array([zlib.crc32(piece.encode()) % _PRIME for piece in found], np.int64)
        signature = ((self._slopes[:, None] * hashes[None] + self._offsets[:, None]) % _PRIME).min(axis=1)
        pairs = signature.reshape(_BANDS, _ROWS)
        return [(band, int(first), int(second)) for band, (first, second) in enumerate(pairs)]
