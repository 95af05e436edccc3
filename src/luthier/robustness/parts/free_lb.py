"""FreeLB: gradients averaged along an adversarial path of the embeddings.

Shapes: B examples, L tokens, H width of the embeddings.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from luthier.objectives.part import Part
from luthier.objectives.perturbation import direction, embedding_sites
from luthier.objectives.step import Step


class FreeLb(Part):
    """K passes with a growing perturbation; each contributes 1/K of the parameter gradient and moves the perturbation.

    Args:
        steps: K.
        step_size: length of a move, over the whole example.
        init_noise: radius of the uniform start, divided by the root of the number of an example's real entries.
        max_norm: the perturbation of an example is pulled back to this length.
        perturb_after: where the embeddings are changed.
    """

    gives_main_loss = True

    def __init__(
        self, steps: int, step_size: float, init_noise: float, max_norm: float, perturb_after: str = "auto"
    ) -> None:
        self.steps, self.step_size, self.init_noise, self.max_norm = steps, step_size, init_noise, max_norm
        self.perturb_after = perturb_after

    def begin(self, trainer: Any) -> None:
        self._sites = embedding_sites(trainer.main_model, self.perturb_after)

    def loss(self, step: Step) -> Tensor:
        delta: Tensor | None = None

        def change(e: Tensor) -> Tensor:
            nonlocal delta
            if delta is None:
                delta = self._start(e, step.inputs.get("attention_mask"))
            return e + delta.requires_grad_()

        earlier: list[Tensor] = []
        for _ in range(self.steps - 1):
            share = step.run(self._sites, change).loss / self.steps
            assert delta is not None
            step.backward(share)
            assert delta.grad is not None
            moved = delta.detach() + self.step_size * direction(delta.grad, "l2_example").to(delta.dtype)
            length = moved.flatten(1).norm(dim=1)[:, None, None]
            delta = moved * (self.max_norm / length.clamp(min=self.max_norm))
            earlier.append(share.detach())
        last = step.run(self._sites, change).loss / self.steps
        return last + torch.stack(earlier).sum() if earlier else last

    def _start(self, e: Tensor, mask: Tensor | None) -> Tensor:
        real = torch.ones(e.shape[:2], device=e.device, dtype=e.dtype)
        if mask is not None and mask.shape == e.shape[:2]:
            real = mask.to(e.device, e.dtype)
        entries = real.sum(dim=1).clamp(min=1)[:, None, None] * e.shape[-1]
        return (2 * torch.rand_like(e) - 1) * real[..., None] * self.init_noise / entries.sqrt()
