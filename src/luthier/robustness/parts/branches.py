"""A clean and a perturbed pass, and the divergence between them."""

from __future__ import annotations

import logging
from typing import Any, Literal

from torch import Tensor, nn

from luthier.objectives.divergence import symmetric_divergence
from luthier.objectives.part import Part
from luthier.objectives.perturbation import Perturbation, embedding_sites
from luthier.objectives.step import RandomState, Step

logger = logging.getLogger(__name__)


class TwoBranches(Part):
    """loss = clean_weight CE(clean) + perturbed_weight CE(perturbed) + divergence_weight KLsum(perturbed, clean).

    Args:
        perturbation: what happens to the embeddings of the second pass; None leaves them, so that only dropout differs.
        clean_weight, perturbed_weight, divergence_weight: of the three terms.
        reduction: the divergence is the sum over an optimiser step's rows, or their mean.
        stop_gradient: whether the clean pass is a constant in the divergence.
        perturb_after: where the embeddings are changed.
        attends_to_padding, shares_dropout: as in `Part`.
    """

    gives_main_loss = True

    def __init__(
        self,
        perturbation: Perturbation | None,
        *,
        clean_weight: float,
        perturbed_weight: float = 0.0,
        divergence_weight: float,
        reduction: Literal["sum", "batchmean"] = "sum",
        stop_gradient: bool = False,
        perturb_after: str = "auto",
        attends_to_padding: bool = False,
        shares_dropout: bool = False,
    ) -> None:
        self.perturbation = perturbation
        self.clean_weight, self.perturbed_weight, self.divergence_weight = (
            clean_weight,
            perturbed_weight,
            divergence_weight,
        )
        self.reduction: Literal["sum", "mean"] = "sum" if reduction == "sum" else "mean"
        self.stop_gradient, self.perturb_after = stop_gradient, perturb_after
        self.attends_to_padding, self.shares_dropout = attends_to_padding, shares_dropout
        self._sites: list[nn.Module] = []
        self._may_repeat = False

    def begin(self, trainer: Any) -> None:
        self._may_repeat = self.perturbation is None and trainer.args.device.type in ("cpu", "cuda")
        if self.perturbation is not None:
            self._sites = embedding_sites(trainer.main_model, self.perturb_after)

    def loss(self, step: Step) -> Tensor:
        # The probing pass is over, its activations freed, before the two passes that are kept.
        change = self.perturbation.change(step, self._sites) if self.perturbation else None
        clean = step.clean
        before = RandomState() if self._may_repeat else None
        perturbed = step.run(self._sites, change, companion=True)
        if before is not None:
            self._may_repeat = False  # looked at in the first step alone
            if not before.moved():
                logger.warning(
                    "no dropout is active in this model, so that both passes of a step are the same: "
                    "`objective: vanilla` does the same with one"
                )
        reference = clean.rows.detach() if self.stop_gradient else clean.rows
        divergence = symmetric_divergence(perturbed.rows, reference)
        return (
            self.clean_weight * clean.loss
            + self.perturbed_weight * perturbed.loss
            + self.divergence_weight * step.over_examples(divergence, len(reference), self.reduction)
        )
