"""Average log probability: what a vocabulary is worth to a language.

Source: Zheng et al., “Allocating Large Vocabulary Capacity for Cross-lingual Language Model Pre-training” (EMNLP 2021),
section 3.1: ALP(D, V) = (1/|D|) sum over sentences s, over tokens k, of log p_uni(s_k), where p_uni is the empirical
distribution of the tokens that come of cutting D with V. So ALP = -(tokens a sentence) H(p_uni).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any


def average_log_probability(
    tokens: Iterable[Sequence[Hashable]] | Mapping[Any, float], sentences: float | None = None
) -> float:
    """ALP in nats a sentence; the nearer to 0, the better.

    Args:
        tokens: the tokens of every sentence, or how often each token occurs in all of them.
        sentences: how many they are, beside counts.

    Raises:
        ValueError: there is no sentence, or counts come without their number.
    """
    if isinstance(tokens, Mapping):
        counts: Mapping[Any, float] = tokens
        if sentences is None:
            raise ValueError("counts of tokens need the number of sentences that they are from")
    else:
        gathered: Counter[Hashable] = Counter()
        sentences = 0
        for sentence in tokens:
            gathered.update(sentence)
            sentences += 1
        counts = gathered
    if not sentences:
        raise ValueError("there is no sentence")
    used = [count for count in counts.values() if count > 0]
    total = math.fsum(used)
    return math.fsum(count * math.log(count / total) for count in used) / sentences
