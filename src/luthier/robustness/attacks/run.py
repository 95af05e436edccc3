"""Attacks by name on a list of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from luthier.robustness.attacks.candidates import EmbeddingNeighbours
from luthier.robustness.attacks.noise import corrupt
from luthier.robustness.attacks.rewrites import rewrite
from luthier.robustness.attacks.substitution import Order, WordSubstitution
from luthier.robustness.scoring import Scorer, Text

MISTYPED, SUBSTITUTED = 0.1, 0.4


def attacked_texts(
    texts: Sequence[Text],
    labels: np.ndarray,
    scorer: Scorer,
    *,
    kind: Literal["characters", "rewrites", "substitution"],
    rate: float | None = None,
    order: Order = "delete",
    seed: int = 0,
) -> list[Text]:
    """The texts after an attack; of a pair, the second one is changed.

    Args:
        texts: strings, or pairs.
        labels: (N,) right classes.
        scorer: the model under attack; its own input embeddings give the substitutes.
        kind: typing errors, rewrites by rule, or word substitutions.
        rate: share of words with a typing error, or largest share of words substituted; None takes 0.1 and 0.4.
        order: how substitution ranks words.
        seed: of errors and rewrites.
    """
    if kind == "substitution":
        unknown = scorer.tokenizer.mask_token or scorer.tokenizer.unk_token or "_"
        attack = WordSubstitution(
            scorer.probabilities,
            EmbeddingNeighbours(scorer.model, scorer.tokenizer),
            order=order,
            max_changed=rate or SUBSTITUTED,
            unknown=unknown,
        )
        return [result.attacked for result in attack.attack_all(texts, labels.tolist())]
    changed: list[Text] = []
    for text in texts:
        last = text if isinstance(text, str) else text[-1]
        new = corrupt(last, rate=rate or MISTYPED, seed=seed) if kind == "characters" else rewrite(last, seed=seed)
        changed.append(new if isinstance(text, str) else (text[0], new))
    return changed
