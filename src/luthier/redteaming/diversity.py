"""How varied prompts are, so that an adversary that fell for one trick is seen.

Sources: distinct-n, Li et al. 2016; self-BLEU is replaced by the mean similarity of pairs, which needs no reference.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from luthier.models.settings import ModelSettings
from luthier.redteaming.duplicates import pieces, similarity

_MOST_PAIRS = 2000


@dataclass(frozen=True)
class Diversity:
    """What tells how varied N prompts are.

    Attributes:
        prompts: N.
        distinct_1, distinct_2: distinct words, and pairs of words, as shares of all.
        spread: 1 less the mean Jaccard similarity of pairs of prompts, in runs of four letters.
        categories: entropy over categories in bits; 0 where all prompts are of one.
        opening: share of the prompts that begin with the commonest three words.
        meaning: 1 less the mean cosine of pairs of their vectors; None where no encoder is named.
    """

    prompts: int
    distinct_1: float
    distinct_2: float
    spread: float
    categories: float
    opening: float
    meaning: float | None = None

    def to_json(self) -> dict[str, float | None]:
        return asdict(self)


def diversity(
    texts: Sequence[str], categories: Sequence[str] = (), seed: int = 0, encoder: ModelSettings | None = None
) -> Diversity:
    """Measures N prompts; pairs of similarity in letters are all, or 2,000 drawn ones.

    Args:
        texts, categories: of the prompts.
        seed: of the draw.
        encoder: a sentence encoder for `meaning`.
    """
    words = [text.lower().split() for text in texts]
    openings = Counter(tuple(one[:3]) for one in words)
    common, meaning = openings.most_common(1)[0][1] / len(texts) if texts else 0.0, None
    if encoder is not None:
        from luthier.redteaming.embedding import embedding_spread

        meaning = embedding_spread(texts, encoder)
    return Diversity(
        len(texts), distinct(words, 1), distinct(words, 2), _spread(texts, seed), entropy(categories), common, meaning
    )


def distinct(words: Sequence[Sequence[str]], n: int) -> float:
    """Distinct n-grams as a share of all; 0 where there are none."""
    grams = [tuple(one[i : i + n]) for one in words for i in range(len(one) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def entropy(names: Sequence[str]) -> float:
    """-sum p log2 p over names."""
    counts = Counter(names)
    total = sum(counts.values())
    return sum(-count / total * math.log2(count / total) for count in counts.values()) + 0.0


def _spread(texts: Sequence[str], seed: int) -> float:
    if len(texts) < 2:
        return 0.0
    found = [pieces(text) for text in texts]
    every = len(found) * (len(found) - 1) // 2
    if every <= _MOST_PAIRS:
        pairs = [(i, j) for i in range(len(found)) for j in range(i)]
    else:
        draw = random.Random(seed)
        pairs = [tuple(draw.sample(range(len(found)), 2)) for _ in range(_MOST_PAIRS)]  # type: ignore[misc]
    return 1 - sum(similarity(found[i], found[j]) for i, j in pairs) / len(pairs)
