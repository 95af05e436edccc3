"""Cross-entropy with a normaliser that is estimated from drawn tokens, for vocabularies whose sum costs too much.

Shapes: N rows (predicted positions), H hidden width, V vocabulary, S drawn tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from luthier.language_modeling.chunked_loss import projected
from luthier.language_modeling.in_place import looked_up


def sampled_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    samples: int,
    dtype: torch.dtype | None = None,
    in_place: bool = False,
) -> Tensor:
    """-z_y + log(exp z_y + 1/S sum over drawn s != y of exp(z_s) / q(s)) of every row, with z the logits.

    The sum is an unbiased estimate of that over the vocabulary (Bengio and Senécal, “Adaptive importance sampling to
    accelerate training of a neural probabilistic language model”, 2008; Jean et al., ACL 2015), the loss a consistent
    one from below. q is log-uniform, q(k) = log((k + 2) / (k + 1)) / log(V + 1): that of a vocabulary in the order of
    falling frequency. All rows share the draws.

    Args:
        hidden: (N, H).
        weight: (V, H), the output embeddings.
        targets: (N,) token ids.
        bias: (V,).
        samples: S; drawn with replacement.
        dtype: of the product; default that of `hidden`.
        in_place: whether gradients are added to `weight.grad` directly; see `luthier.language_modeling.in_place`.

    Returns:
        (N,) in float32, in nats.
    """
    drawn = log_uniform(samples, len(weight), hidden.device)
    used = dtype or hidden.dtype
    known = looked_up(weight, targets, in_place=in_place).to(used)
    others = looked_up(weight, drawn, in_place=in_place)
    own = (hidden.to(used) * known).float().sum(dim=1)
    logits = projected(hidden, others, None if bias is None else bias[drawn], used)
    if bias is not None:
        own = own + bias[targets].float()
    logits = logits - (log_share(drawn, len(weight)) + math.log(samples))
    logits = logits.masked_fill(drawn[None, :] == targets[:, None], -torch.inf)
    return torch.logsumexp(torch.cat([own[:, None], logits], dim=1), dim=1) - own


def log_uniform(count: int, size: int, device: torch.device) -> Tensor:
    """Tokens drawn log-uniformly, (count,)."""
    drawn = torch.rand(count, dtype=torch.float64, device=device).mul_(math.log(size + 1)).exp_()
    return drawn.long().sub_(1).clamp_(0, size - 1)


def log_share(tokens: Tensor, size: int) -> Tensor:
    """log q of tokens under `log_uniform`, in float32."""
    ranks = tokens.double()
    return (((ranks + 2) / (ranks + 1)).log() / math.log(size + 1)).log().float()
