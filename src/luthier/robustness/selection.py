"""Selective training: importance of gradient entries, ranks, probabilities, and masks (RoAST, section 3).

P counts the maskable entries of all parameters together; vectors of length P hold them one parameter behind the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Parameter

from luthier.errors import TrainingError

MaskRule = Literal["bernoulli", "topk", "random", "reversed"]
TINY = 1e-12
_CHUNK = 1 << 22


def keep_probability(score: Tensor, alpha: float, beta: float) -> Tensor:
    """p = 1 / (1 + exp(-2 beta (s - alpha))) for scores s in [0, 1], of any shape."""
    return torch.sigmoid(2 * beta * (score - alpha))


def kept_fraction(alpha: float, beta: float) -> float:
    """Expected share of entries that are kept: the mean of `keep_probability` over uniform scores."""
    upper, lower = 2 * beta * (1 - alpha), -2 * beta * alpha
    return (_softplus(upper) - _softplus(lower)) / (2 * beta)


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def importance_scores(importance: Tensor) -> Tensor:
    """s = rank / (P - 1), ascending, ties in the order of the entries. (P,) -> (P,) float64."""
    order = torch.argsort(importance, stable=True)
    scores = torch.empty(len(importance), dtype=torch.float64, device=importance.device)
    scores[order] = torch.arange(len(order), dtype=torch.float64, device=importance.device) / max(1, len(order) - 1)
    return scores


@dataclass(frozen=True)
class MaskPolicy:
    """From importance to kept entries.

    Attributes:
        rule: `bernoulli` draws with `keep_probability` of the rank, `reversed` of the rank turned round, `random` with
            the same share for all; `topk` keeps the most important share.
        alpha, beta: of `keep_probability`; they also give the share of `random` and `topk`.
        unbiased_scale: whether kept entries are divided by their probability.
        scale_cap: largest factor of that division, or None.
        keep: share to keep under `random` and `topk`, instead of the one that alpha and beta give.
    """

    rule: MaskRule = "bernoulli"
    alpha: float = 0.9
    beta: float = 10.0
    unbiased_scale: bool = True
    scale_cap: float | None = None
    keep: float | None = None

    @property
    def share(self) -> float:
        """Expected share of kept entries."""
        return kept_fraction(self.alpha, self.beta) if self.keep is None else self.keep

    @property
    def needs_importance(self) -> bool:
        return self.rule != "random"

    def probabilities(self, importance: Tensor) -> Tensor:
        """(P,) importance -> (P,) probability of being kept, in the dtype of `importance`."""
        if self.rule == "random":
            return torch.full_like(importance, self.share)
        order = torch.argsort(importance, stable=True)
        count, found = len(order), torch.empty_like(importance)
        first_kept = count - round(self.share * count)
        for start in range(0, count, _CHUNK):
            part = order[start : start + _CHUNK]
            rank = torch.arange(start, start + len(part), dtype=torch.float64, device=importance.device)
            if self.rule == "topk":
                p = (rank >= first_kept).double()
            else:
                score = rank / max(1, count - 1)
                p = keep_probability(1 - score if self.rule == "reversed" else score, self.alpha, self.beta)
            found[part] = p.to(found.dtype)
        return found

    def factors(self, mask: Tensor, probability: Tensor) -> Tensor:
        """What a gradient is multiplied by: 0 where masked, else 1 or min(1 / (p + 1e-12), scale_cap)."""
        if not self.unbiased_scale:
            return mask.to(probability.dtype)
        factor = mask / (probability + TINY)
        return factor if self.scale_cap is None else factor.clamp(max=self.scale_cap)


class Selection:
    """Importance and mask over a set of parameters.

    Args:
        parameters: the maskable ones, in an order that is the same on every process.
        policy: see `MaskPolicy`.
        seed: of the masks; with the same seed every process draws the same ones.
        skip_first: count the first gradient of every round in N, but not in the sum.
    """

    def __init__(
        self, parameters: Sequence[Parameter], policy: MaskPolicy, *, seed: int = 0, skip_first: bool = False
    ) -> None:
        if not parameters:
            raise ValueError("there is nothing to mask")
        self.parameters, self.policy, self.seed, self.skip_first = list(parameters), policy, seed, skip_first
        self._sizes = [p.numel() for p in self.parameters]
        double = any(p.dtype == torch.float64 for p in self.parameters)
        self._dtype, self._device = torch.float64 if double else torch.float32, self.parameters[0].device
        self._squares = self._zeros() if policy.needs_importance else None
        self.observed, self.rounds = 0, 0
        self.draw_key: tuple[int, int] = (0, 0)
        self.probability: Tensor | None = None
        self.mask: Tensor | None = None

    def _zeros(self) -> Tensor:
        return torch.zeros(sum(self._sizes), dtype=self._dtype, device=self._device)

    @property
    def importance(self) -> Tensor:
        """(P,) I = (1 / N) sum of squared gradients over the N observed so far, averaged over processes.

        Every process has to ask for it at the same time.
        """
        return self._sum() / max(1, self.observed)

    def _sum(self) -> Tensor:
        """(P,) sum of squared gradients, averaged over processes; zeros under a rule that needs none."""
        if self._squares is None:
            return self._zeros()
        total = self._squares.clone()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(total)
            total /= torch.distributed.get_world_size()
        return total

    def observe(self, gradients: Sequence[Tensor | None], scale: float = 1.0) -> None:
        """Add (gradient / scale)² of one optimiser step; None counts as zeros."""
        self.observed += 1
        if self._squares is None or (self.skip_first and self.observed == 1):
            return
        for slot, gradient in zip(self._squares.split(self._sizes), gradients, strict=True):
            if gradient is not None:
                flat = gradient.detach().reshape(-1).to(slot.dtype)
                slot.addcmul_(flat, flat, value=1 / scale**2)

    def renew(self) -> None:
        """Turn the observed importance into probabilities, start a new round, and draw a mask. Where the only step was
        left out, the probabilities of before stay.

        Raises:
            TrainingError: there are none of before.
        """
        left_out = self._squares is not None and self.skip_first and self.observed == 1
        if not left_out:
            self.probability = self.policy.probabilities(self.importance)
        elif self.probability is None:
            raise TrainingError(
                "the importance was measured on one batch alone, which `skip_first_batch` leaves out",
                fix="give more rows or a smaller batch_size, or set `skip_first_batch: false`",
            )
        if self._squares is not None:
            self._squares.zero_()
        self.observed = 0
        self.rounds += 1
        self.draw(0)

    def draw(self, number: int) -> None:
        """Draw the mask with that number of this round; the same number gives the same mask."""
        assert self.probability is not None
        self.draw_key = (self.rounds, number)
        if self.policy.rule == "topk":
            self.mask = self.probability > 0
            return
        generator = torch.Generator(device=self.probability.device)
        generator.manual_seed(((self.seed * 1_000_003 + self.rounds) * 1_000_003 + number) % (1 << 63))
        # Doubles, a part at a time: the smallest probabilities lie below the steps of single precision.
        self.mask = torch.cat(
            [
                torch.rand(len(p), generator=generator, dtype=torch.float64, device=self._device) < p
                for p in self.probability.split(_CHUNK)
            ]
        )

    def masks(self) -> list[Tensor]:
        """The mask of every parameter, in its shape; True is kept."""
        assert self.mask is not None
        return [m.view_as(p) for m, p in zip(self.mask.split(self._sizes), self.parameters, strict=True)]

    def factors(self) -> list[Tensor]:
        """What every parameter's gradient or update is multiplied by, in its shape."""
        assert self.mask is not None
        assert self.probability is not None
        pairs = zip(self.mask.split(self._sizes), self.probability.split(self._sizes), self.parameters, strict=True)
        return [self.policy.factors(m, q).view_as(p) for m, q, p in pairs]

    def mask_gradients(self) -> None:
        """Mask and rescale the gradients in place."""
        for factor, p in zip(self.factors(), self.parameters, strict=True):
            if p.grad is not None:
                p.grad.mul_(factor)

    def state_dict(self) -> dict[str, Any]:
        """Enough to go on exactly. Every process has to ask for it at the same time."""
        state: dict[str, Any] = {"observed": self.observed, "rounds": self.rounds, "draw": self.draw_key[1]}
        if self._squares is not None:
            state["squares"] = self._sum()
        if self.probability is not None:
            state["probability"] = self.probability
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave, and draw the mask it was using.

        Raises:
            ValueError: it was made for other parameters.
        """
        sizes = {len(state[k]) for k in ("squares", "probability") if k in state}
        if sizes - {sum(self._sizes)}:
            raise ValueError(
                f"the saved selection has {sizes.pop()} entries, the model {sum(self._sizes)} that can be masked"
            )
        self.observed, self.rounds = state["observed"], state["rounds"]
        if self._squares is not None:
            self._squares = state["squares"].to(self._device, self._dtype)
        if "probability" in state:
            self.probability = state["probability"].to(self._device, self._dtype)
            self.draw(state["draw"])
