"""RoAST's settings: embedding perturbation and selective training, alone and together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.errors import RecipeError
from luthier.objectives.base import Objective
from luthier.registry import OBJECTIVES
from luthier.settings import Paper

if TYPE_CHECKING:
    from luthier.objectives.part import Part

ROAST_PAPER = Paper(
    title="RoAST: Robustifying Language Models via Adversarial Perturbation with Selective Training",
    authors="Kim, Mao, Hou, Yu, Liang, Fung, Wang, Feng, Huang, Khabsa",
    venue="Findings of EMNLP 2023",
    url="https://arxiv.org/abs/2312.04032",
)

Mode = Literal["paper", "released"]
KlReduction = Literal["sum", "batchmean"]
PerturbAfter = Literal["auto", "embedding_block", "word_embedding"]

_RELEASED = {"adv_ce_weight": 0.0, "skip_first_batch": True, "pad_mask": False}


def endless_pass(name: str) -> RecipeError:
    """The error of a pass over all of a stream."""
    return RecipeError(
        f"{name} measures importance by a pass over the training data, and a stream does not end",
        fix="give importance_batches: how many batches to look at",
    )


def refuse_without_effect(settings: Objective, names: Sequence[str], beside: str) -> None:
    """Refuse settings that another one leaves without effect.

    Args:
        settings: of an objective.
        names: of those that have no effect, unless they have their defaults.
        beside: the other one, as in a recipe.

    Raises:
        ValueError: one differs from its default.
    """
    if given := settings.changed(*names):
        raise ValueError(f"{given[0]} has no effect with {beside}: leave it out")


class ModalObjective(Objective):
    """An objective whose defaults follow `mode`; a key that is given wins over the mode."""

    mode: Mode = Field(
        "paper",
        description="Defaults of the other keys: `paper` is the published method with its errors corrected; `released` "
        "does what the authors' code does (no cross-entropy on the perturbed pass, the first batch of every "
        "epoch left out of the importance, padding attended to).",
    )

    @model_validator(mode="before")
    @classmethod
    def _mode_fills_what_is_not_given(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("mode") == "released":
            measured = data.get("importance") != "per_example" and data.get("mask_rule") != "random"
            without = set() if measured else {"skip_first_batch"}
            return {k: v for k, v in _RELEASED.items() if k in cls.model_fields and k not in without} | data
        return data


class PerturbationSettings(ModalObjective):
    """One adversarial step on the embeddings, and what the perturbed pass adds to the loss (section 2)."""

    eps: float = Field(0.1, gt=0, description="How far the embeddings move in all steps, in the chosen norm; absolute.")
    norm: Literal["linf_token", "l2_token", "sign"] = Field(
        "linf_token",
        description="What a step is scaled to: each token's largest entry, each token's length, or every entry to ±1.",
    )
    n_steps: int = Field(1, ge=1, description="Gradient steps on the embeddings; each moves by eps / n_steps.")
    init_noise: float = Field(1e-5, ge=0, description="Size of the random start of the perturbation.")
    init_noise_sign: Literal["one_sided", "symmetric"] = Field(
        "one_sided", description="The random start is drawn from [0, init_noise) or from [-init_noise, init_noise)."
    )
    perturb_after: PerturbAfter = Field(
        "auto",
        description="Where the perturbation is added: behind the embedding block's normalisation and "
        "dropout, or to the word "
        "vectors. `auto` takes the block where the model has one (BERT-like encoders), else the word vectors.",
    )
    perturbed_gradient: bool = Field(
        False, description="Whether the perturbed pass also trains the embeddings; the paper detaches them."
    )
    clean_ce_weight: float = Field(0.5, ge=0, description="Weight of the task loss on the clean pass.")
    adv_ce_weight: float = Field(
        0.5, ge=0, description="Weight of the task loss on the perturbed pass; the release has 0."
    )
    lambda_kl: float = Field(
        0.01, ge=0, description="Weight of half the symmetric KL divergence between the clean and the perturbed pass."
    )
    kl_reduction: KlReduction = Field(
        "sum",
        description="The divergence is summed over the examples of an optimiser step, as published for 16 "
        "of them, or averaged. "
        "0.01 with sum at 16 examples is 0.16 with batchmean.",
    )
    probe: Literal["own_pass", "clean_pass"] = Field(
        "own_pass",
        description="Where the gradient on the embeddings comes from: a pass of its own, as published, or the clean "
        "pass, which saves one of three forward passes and leaves the random start out of that gradient.",
    )
    kl_stop_grad: bool = Field(False, description="Whether the clean pass is a constant in the divergence.")
    shared_dropout: bool = Field(
        False,
        description="All passes of a step drop the same units; otherwise part of the divergence comes from dropout.",
    )
    pad_mask: bool = Field(
        True, description="Pass attention masks to the model. false attends to padding, as the released code does."
    )

    @model_validator(mode="after")
    def _something_is_trained(self) -> Self:
        if self.clean_ce_weight + self.adv_ce_weight == 0:
            raise ValueError("clean_ce_weight and adv_ce_weight are both 0, so nothing would fit the labels")
        if self.adv_ce_weight + self.lambda_kl == 0:
            raise ValueError("adv_ce_weight and lambda_kl are both 0, so the perturbed pass would have no effect")
        if self.probe == "clean_pass" and self.n_steps > 1:
            raise ValueError("the clean pass gives one gradient only: n_steps above 1 needs `probe: own_pass`")
        if not self.lambda_kl:
            refuse_without_effect(self, ("kl_reduction", "kl_stop_grad"), "`lambda_kl: 0`")
        if not self.init_noise:
            refuse_without_effect(self, ("init_noise_sign",), "`init_noise: 0`")
        return self

    def relative_cost(self) -> float:
        return (6 + (1 if self.probe == "clean_pass" else 2 * self.n_steps)) / 3

    def _branches(self) -> Part:
        from luthier.objectives.perturbation import Perturbation
        from luthier.robustness.parts.branches import TwoBranches

        return TwoBranches(
            Perturbation(
                eps=self.eps,
                norm=self.norm,
                n_steps=self.n_steps,
                noise=self.init_noise,
                noise_kind="one_sided" if self.init_noise_sign == "one_sided" else "symmetric",
                trains_embeddings=self.perturbed_gradient,
                reuses_clean=self.probe == "clean_pass",
            ),
            clean_weight=self.clean_ce_weight,
            perturbed_weight=self.adv_ce_weight,
            divergence_weight=self.lambda_kl / 2,
            reduction=self.kl_reduction,
            stop_gradient=self.kl_stop_grad,
            perturb_after=self.perturb_after,
            attends_to_padding=not self.pad_mask,
            shares_dropout=self.shared_dropout,
        )


class SelectionSettings(ModalObjective):
    """Which gradient entries may move, by importance (section 3)."""

    alpha: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Rank at which an entry is kept with probability 1/2. The paper: 0.9 for sentiment, 0.6 for NLI.",
    )
    beta: float = Field(
        10.0, gt=0, description="How sharply the probability rises with rank. The paper: 10 for sentiment, 1 for NLI."
    )
    mask_rule: Literal["bernoulli", "topk", "random", "reversed"] = Field(
        "bernoulli",
        description="Draw entries by importance, keep the most important ones, draw regardless of "
        "importance, or favour "
        "the least important; all four keep the same share.",
    )
    unbiased_scale: bool = Field(
        True, description="Divide a kept entry by its probability, so that the expected gradient is the full one."
    )
    scale_cap: float | None = Field(
        None, gt=1, description="Largest factor of that division; null is the paper, which has no cap."
    )
    importance: Literal["batch_gradient", "per_example"] = Field(
        "batch_gradient",
        description="Squares of a gradient: that of every batch in a pass over the data before training, and of every "
        "optimiser step while training from then on; or every example's own, in a pass before each epoch.",
    )
    importance_scope: Literal["blocks", "trainable"] = Field(
        "blocks",
        description="Entries that can be masked: trainable ones inside the transformer blocks, or all trainable ones.",
    )
    importance_batches: int | None = Field(
        None,
        gt=0,
        description="Batches of the pass that measures importance before training; null takes the whole training set.",
    )
    skip_first_batch: bool = Field(
        False, description="Leave the first batch of every epoch out of the importance, as the release does."
    )
    resample: Literal["epoch", "step", "interval"] = Field(
        "epoch", description="When a new mask is drawn; ranks are renewed once an epoch in every case."
    )
    resample_every: int | None = Field(
        None, gt=0, description="Optimiser steps between draws under `resample: interval`."
    )
    mask_stage: Literal["gradient", "update"] = Field(
        "gradient",
        description="Mask the gradient before the optimiser sees it, or the optimiser's update. Only "
        "`update` keeps masked "
        "entries where they are: behind a masked gradient they still move by momentum.",
    )
    decay_masked: bool = Field(True, description="Whether weight decay also acts on masked entries.")

    @model_validator(mode="after")
    def _selection_agrees(self) -> Self:
        if (self.resample == "interval") != (self.resample_every is not None):
            raise ValueError("resample_every belongs to `resample: interval`: give both or neither")
        if self.mask_rule == "topk":  # keeps with probability 1 or 0
            refuse_without_effect(self, ("scale_cap", "resample"), "`mask_rule: topk`")
        elif self.mask_stage == "update" and self.unbiased_scale and self.scale_cap is None:
            raise ValueError(
                "an update divided by a tiny probability would wreck the model: give scale_cap, or "
                "unbiased_scale: false"
            )
        if self.scale_cap is not None and not self.unbiased_scale:
            raise ValueError("scale_cap has no effect without unbiased_scale")
        if self.importance == "per_example":
            refuse_without_effect(self, ("skip_first_batch",), "`importance: per_example`")
        if self.mask_rule == "random":
            of_importance = ("importance", "importance_batches", "skip_first_batch")
            refuse_without_effect(self, of_importance, "`mask_rule: random`")
        if self.skip_first_batch and self.importance_batches == 1:
            raise ValueError("`skip_first_batch` leaves out the one batch of `importance_batches: 1`: give more")
        return self

    def check(self, *, schema: str, classes: int, validation: bool, streamed: bool) -> None:
        if streamed and self.importance == "per_example":
            raise RecipeError(
                "a stream has no epochs, before each of which `importance: per_example` would look at every example",
                fix="use importance: batch_gradient",
            )
        if streamed and self.importance_batches is None and self.mask_rule != "random":
            raise endless_pass(self.name)

    def _selective(self) -> Part:
        from luthier.robustness.parts.selective import SelectiveTraining
        from luthier.robustness.selection import MaskPolicy

        return SelectiveTraining(
            MaskPolicy(self.mask_rule, self.alpha, self.beta, self.unbiased_scale, self.scale_cap),
            importance=self.importance,
            scope=self.importance_scope,
            batches=self.importance_batches,
            skip_first=self.skip_first_batch,
            resample={"epoch": None, "step": 1, "interval": self.resample_every}[self.resample],
            stage=self.mask_stage,
            decay_masked=self.decay_masked,
        )


@OBJECTIVES.register
class RoastSettings(PerturbationSettings, SelectionSettings):
    """Adversarial embedding perturbation, and only sampled important parameters move."""

    name: Literal["roast"] = "roast"
    summary: ClassVar[str] = "adversarial embedding perturbation with selective training"
    paper: ClassVar[Paper | None] = ROAST_PAPER

    def parts(self) -> list[Part]:
        return [self._branches(), self._selective()]


@OBJECTIVES.register
class AdvEmbedSettings(PerturbationSettings):
    """RoAST's perturbation with nothing masked."""

    name: Literal["adv_embed"] = "adv_embed"
    summary: ClassVar[str] = "RoAST's embedding perturbation alone"
    paper: ClassVar[Paper | None] = ROAST_PAPER

    def parts(self) -> list[Part]:
        return [self._branches()]


@OBJECTIVES.register
class SelectiveSettings(SelectionSettings):
    """RoAST's selective training with nothing perturbed."""

    name: Literal["selective"] = "selective"
    summary: ClassVar[str] = "RoAST's selective training alone"
    paper: ClassVar[Paper | None] = ROAST_PAPER

    def parts(self) -> list[Part]:
        from luthier.objectives.part import CleanLoss

        return [CleanLoss(), self._selective()]


def convert_lambda(value: float, examples: int, *, to: KlReduction) -> float:
    """`lambda_kl` of the same strength under the other `kl_reduction`.

    Args:
        value: weight under the present reduction.
        examples: of an optimiser step.
        to: the reduction wanted.
    """
    return value * examples if to == "batchmean" else value / examples
