"""Nucleus sampling in which every row has random numbers of its own (Holtzman et al. 2020).

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from luthier.generation.writing import Request

# Likeliest tokens among which the nucleus is looked for before the whole vocabulary is sorted.
_LIKELY = 256


class RowSampler:
    """Draws the next token of each row by the row's own temperature, top_p and seed.

    A row's samples depend on its logits and its seed, and not on the rows beside it.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = list(requests)
        self._draws = [random.Random(one.seed) for one in requests]

    def draw(self, logits_BV: Tensor, rows: Sequence[int]) -> Tensor:
        """Next tokens, (B,).

        Args:
            logits_BV: of the rows, in float32.
            rows: which requests they are.
        """
        picked = logits_BV.argmax(-1)
        sampled = [place for place, row in enumerate(rows) if self.requests[row].temperature > 0]
        if not sampled:
            return picked
        heat = [self.requests[rows[place]].temperature for place in sampled]
        share = [self.requests[rows[place]].top_p for place in sampled]
        uniform = [self._draws[rows[place]].random() for place in sampled]
        device = logits_BV.device
        probabilities = (logits_BV[sampled] / torch.tensor(heat, device=device)[:, None]).softmax(-1)
        picked[sampled] = nucleus(
            probabilities, torch.tensor(share, device=device), torch.tensor(uniform, device=device)
        )
        return picked


def nucleus(probabilities_BV: Tensor, top_p_B: Tensor, uniform_B: Tensor) -> Tensor:
    """One token a row from the smallest set of likeliest tokens whose mass reaches top_p, by inverting its
    distribution at a uniform number in [0, 1).

    Returns:
        Token ids, (B,).
    """
    count = min(_LIKELY, probabilities_BV.shape[-1])
    values, tokens = probabilities_BV.topk(count, dim=-1)
    if count < probabilities_BV.shape[-1] and bool((values.sum(-1) < top_p_B).any()):
        values, tokens = probabilities_BV.sort(-1, descending=True)
    before = values.cumsum(-1) - values
    kept = values * (before < top_p_B[:, None])
    mass = kept.cumsum(-1)
    place = torch.searchsorted(mass, (uniform_B * mass[:, -1])[:, None], right=True)
    last = (kept > 0).sum(-1, keepdim=True) - 1
    return tokens.gather(-1, torch.minimum(place, last)).squeeze(-1)
