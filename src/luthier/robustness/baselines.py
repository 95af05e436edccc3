"""Settings of the methods RoAST is compared with (section 6), built from the same parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.data.schemas import SCHEMAS
from luthier.errors import DataError, RecipeError
from luthier.objectives.base import Objective
from luthier.registry import OBJECTIVES
from luthier.robustness.settings import KlReduction, PerturbAfter, endless_pass, refuse_without_effect
from luthier.settings import Paper

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from luthier.objectives.part import Part

_PERTURB_AFTER: Any = Field(
    "auto", description="Where the perturbation is added: `auto`, `embedding_block` or `word_embedding`."
)


@OBJECTIVES.register
class VanillaSettings(Objective):
    """The task loss and nothing else."""

    name: Literal["vanilla"] = "vanilla"
    summary: ClassVar[str] = "the task loss alone"

    def parts(self) -> list[Part]:
        from luthier.objectives.part import CleanLoss

        return [CleanLoss()]


@OBJECTIVES.register
class LabelSmoothingSettings(Objective):
    """Targets are mixed with the uniform distribution over classes."""

    name: Literal["label_smoothing"] = "label_smoothing"
    summary: ClassVar[str] = "targets mixed with the uniform distribution"
    paper: ClassVar[Paper | None] = Paper(
        title="Rethinking the Inception Architecture for Computer Vision",
        authors="Szegedy, Vanhoucke, Ioffe, Shlens, Wojna",
        venue="CVPR 2016",
        url="https://arxiv.org/abs/1512.00567",
    )

    smoothing: float = Field(0.1, gt=0, lt=1, description="Share of the target that is spread over all classes.")

    def parts(self) -> list[Part]:
        from luthier.objectives.part import CleanLoss
        from luthier.robustness.parts.penalties import Smoothing

        return [CleanLoss(), Smoothing(self.smoothing)]

    def check(self, *, schema: str, classes: int, validation: bool, streamed: bool) -> None:
        if SCHEMAS[schema].label_kind in ("score", "own"):
            raise RecipeError(
                f"{self.name} smooths the targets of classes, which this task does not have",
                fix="use another objective for this task",
            )


@OBJECTIVES.register
class WeightConsistencySettings(Objective):
    """The task loss plus half `strength` times the squared distance to the starting weights."""

    name: Literal["wcons"] = "wcons"
    summary: ClassVar[str] = "weights are held near their pretrained values"
    paper: ClassVar[Paper | None] = Paper(
        title="Recall and Learn: Fine-tuning Deep Pretrained Language Models with Less Forgetting",
        authors="Chen, Hou, Cui, Che, Liu, Yu",
        venue="EMNLP 2020",
        url="https://arxiv.org/abs/2004.12651",
    )

    strength: float = Field(
        0.01, gt=0, description="mu in mu/2 ||theta - theta_start||², over all trainable weights but the head's."
    )

    def parts(self) -> list[Part]:
        from luthier.objectives.part import CleanLoss
        from luthier.robustness.parts.penalties import WeightConsistency

        return [CleanLoss(), WeightConsistency(self.strength)]


@OBJECTIVES.register
class AdvWeightSettings(Objective):
    """The gradient is taken where the loss is worst near the present weights."""

    name: Literal["adv_weight"] = "adv_weight"
    summary: ClassVar[str] = "sharpness-aware minimisation: the gradient at adversarially moved weights"
    paper: ClassVar[Paper | None] = Paper(
        title="Sharpness-Aware Minimization for Efficiently Improving Generalization",
        authors="Foret, Kleiner, Mobahi, Neyshabur",
        venue="ICLR 2021",
        url="https://arxiv.org/abs/2010.01412",
    )

    rho: float = Field(0.05, gt=0, description="Length of the move of all trainable weights together.")

    def relative_cost(self) -> float:
        return 2.0

    def parts(self) -> list[Part]:
        from luthier.robustness.parts.ascent import WeightAscent

        return [WeightAscent(self.rho)]


@OBJECTIVES.register
class R3fSettings(Objective):
    """Outputs are kept alike under small random noise on the embeddings."""

    name: Literal["r3f"] = "r3f"
    summary: ClassVar[str] = "symmetric KL under random embedding noise"
    paper: ClassVar[Paper | None] = Paper(
        title="Better Fine-Tuning by Reducing Representational Collapse",
        authors="Aghajanyan, Shrivastava, Gupta, Goyal, Zettlemoyer, Gupta",
        venue="ICLR 2021",
        url="https://arxiv.org/abs/2008.03156",
    )

    noise: float = Field(1e-5, gt=0, description="Half width of the uniform noise, or deviation of the normal one.")
    distribution: Literal["uniform", "normal"] = Field("uniform", description="What the noise is drawn from.")
    weight: float = Field(1.0, gt=0, description="Weight of the symmetric KL divergence.")
    kl_reduction: KlReduction = Field(
        "batchmean",
        description="The divergence is averaged over the examples of an optimiser step, as its authors do, or summed.",
    )
    perturb_after: PerturbAfter = _PERTURB_AFTER

    def relative_cost(self) -> float:
        return 2.0

    def parts(self) -> list[Part]:
        from luthier.objectives.perturbation import Perturbation
        from luthier.robustness.parts.branches import TwoBranches

        kind: Any = "symmetric" if self.distribution == "uniform" else "normal"
        return [
            TwoBranches(
                Perturbation(n_steps=0, noise=self.noise, noise_kind=kind, trains_embeddings=True),
                clean_weight=1.0,
                divergence_weight=self.weight,
                reduction=self.kl_reduction,
                perturb_after=self.perturb_after,
            )
        ]


@OBJECTIVES.register
class RDropSettings(Objective):
    """Two passes that differ by dropout only are kept alike."""

    name: Literal["r_drop"] = "r_drop"
    summary: ClassVar[str] = "symmetric KL between two dropout passes"
    paper: ClassVar[Paper | None] = Paper(
        title="R-Drop: Regularized Dropout for Neural Networks",
        authors="Liang, Wu, Li, Wang, Meng, Qin, Chen, Zhang, Liu",
        venue="NeurIPS 2021",
        url="https://arxiv.org/abs/2106.14448",
    )

    weight: float = Field(1.0, gt=0, description="Weight of half the symmetric KL divergence, averaged over examples.")

    def relative_cost(self) -> float:
        return 2.0

    def parts(self) -> list[Part]:
        from luthier.robustness.parts.branches import TwoBranches

        return [
            TwoBranches(
                None, clean_weight=0.5, perturbed_weight=0.5, divergence_weight=self.weight / 2, reduction="batchmean"
            )
        ]


@OBJECTIVES.register
class FreeLbSettings(Objective):
    """Several ascent steps on the embeddings; the parameter gradients of all steps are averaged."""

    name: Literal["free_lb"] = "free_lb"
    summary: ClassVar[str] = "parameter gradients averaged along an adversarial path of the embeddings"
    paper: ClassVar[Paper | None] = Paper(
        title="FreeLB: Enhanced Adversarial Training for Natural Language Understanding",
        authors="Zhu, Cheng, Gan, Sun, Goldstein, Liu",
        venue="ICLR 2020",
        url="https://arxiv.org/abs/1909.11764",
    )

    steps: int = Field(3, ge=1, description="Passes along the path.")
    step_size: float = Field(0.1, gt=0, description="Length of one ascent step of a whole example.")
    init_noise: float = Field(
        0.05, ge=0, description="Radius of the random start, spread over the example's real tokens."
    )
    max_norm: float = Field(0.5, gt=0, description="Largest length of an example's perturbation.")
    perturb_after: PerturbAfter = _PERTURB_AFTER

    def relative_cost(self) -> float:
        return float(self.steps)

    def parts(self) -> list[Part]:
        from luthier.robustness.parts.free_lb import FreeLb

        return [FreeLb(self.steps, self.step_size, self.init_noise, self.max_norm, self.perturb_after)]


@OBJECTIVES.register
class SmartSettings(Objective):
    """Smoothness under the worst small change of the embeddings, and small steps away from an averaged model."""

    name: Literal["smart"] = "smart"
    summary: ClassVar[str] = "smoothness-inducing regularisation with a proximal term to an averaged model"
    paper: ClassVar[Paper | None] = Paper(
        title="SMART: Robust and Efficient Fine-Tuning for Pre-trained Natural Language Models through Principled "
        "Regularized Optimization",
        authors="Jiang, He, Chen, Liu, Gao, Zhao",
        venue="ACL 2020",
        url="https://arxiv.org/abs/1911.03437",
    )

    weight: float = Field(
        1.0, gt=0, description="Weight of the smoothness term, a symmetric KL averaged over examples."
    )
    steps: int = Field(1, ge=1, description="Ascent steps on the divergence.")
    eps: float = Field(
        1e-3, gt=0, description="How far the embeddings move in all steps, in each token's largest entry."
    )
    noise: float = Field(
        1e-5, gt=0, description="Deviation of the normal random start; without it the divergence has no gradient."
    )
    proximal_weight: float = Field(
        1.0, ge=0, description="Weight of the divergence from the averaged model; 0 leaves it out."
    )
    average_decay: float = Field(
        0.99, gt=0, lt=1, description="Decay of the average of the weights over optimiser steps."
    )
    perturb_after: PerturbAfter = _PERTURB_AFTER

    @model_validator(mode="after")
    def _options_have_effect(self) -> Self:
        if not self.proximal_weight:
            refuse_without_effect(self, ("average_decay",), "`proximal_weight: 0`")
        return self

    def relative_cost(self) -> float:
        return (6 + 2 * self.steps + bool(self.proximal_weight)) / 3

    def parts(self) -> list[Part]:
        from luthier.objectives.perturbation import Perturbation
        from luthier.robustness.parts.branches import TwoBranches
        from luthier.robustness.parts.penalties import Proximal

        move = Perturbation(
            eps=self.eps,
            n_steps=self.steps,
            noise=self.noise,
            noise_kind="normal",
            trains_embeddings=True,
            ascends="divergence",
        )
        smooth: Part = TwoBranches(
            move,
            clean_weight=1.0,
            divergence_weight=self.weight,
            reduction="batchmean",
            perturb_after=self.perturb_after,
        )
        return [smooth, Proximal(self.proximal_weight, self.average_decay)] if self.proximal_weight else [smooth]


_CHILD_TUNING = Paper(
    title="Raise a Child in Large Language Model: Towards Effective and Generalizable Fine-tuning",
    authors="Xu, Luo, Zhang, Tan, Chang, Huang, Huang",
    venue="EMNLP 2021",
    url="https://arxiv.org/abs/2109.05687",
)


@OBJECTIVES.register
class ChildTuningDSettings(Objective):
    """Only the entries with the largest gradients before training ever move."""

    name: Literal["child_tuning_d"] = "child_tuning_d"
    summary: ClassVar[str] = "a fixed mask of the most important entries, chosen before training"
    paper: ClassVar[Paper | None] = _CHILD_TUNING

    keep: float = Field(0.3, gt=0, le=1, description="Share of the entries in the transformer blocks that may move.")
    importance_batches: int | None = Field(
        None, gt=0, description="Batches of the pass that measures importance; null takes the whole training set."
    )

    def parts(self) -> list[Part]:
        from luthier.objectives.part import CleanLoss
        from luthier.robustness.parts.selective import SelectiveTraining
        from luthier.robustness.selection import MaskPolicy

        policy = MaskPolicy("topk", keep=self.keep, unbiased_scale=False)
        return [CleanLoss(), SelectiveTraining(policy, batches=self.importance_batches, renew_ranks=False)]

    def check(self, *, schema: str, classes: int, validation: bool, streamed: bool) -> None:
        if streamed and self.importance_batches is None:
            raise endless_pass(self.name)


@OBJECTIVES.register
class ChildTuningFSettings(Objective):
    """A new random share of the entries moves at every step."""

    name: Literal["child_tuning_f"] = "child_tuning_f"
    summary: ClassVar[str] = "a random mask of the gradient at every step, rescaled"
    paper: ClassVar[Paper | None] = _CHILD_TUNING

    keep: float = Field(
        0.3, gt=0, le=1, description="Probability that an entry in the transformer blocks moves at a step."
    )

    def parts(self) -> list[Part]:
        from luthier.objectives.part import CleanLoss
        from luthier.robustness.parts.selective import SelectiveTraining
        from luthier.robustness.selection import MaskPolicy

        return [CleanLoss(), SelectiveTraining(MaskPolicy("random", keep=self.keep), resample=1, renew_ranks=False)]


@OBJECTIVES.register
class HeadFirstSettings(Objective):
    """The head alone is trained first, then everything."""

    name: Literal["lp_ft"] = "lp_ft"
    summary: ClassVar[str] = "train the head first, then all"
    paper: ClassVar[Paper | None] = Paper(
        title="Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution",
        authors="Kumar, Raghunathan, Jones, Ma, Liang",
        venue="ICLR 2022",
        url="https://arxiv.org/abs/2202.10054",
    )

    head_fraction: float = Field(
        0.5, gt=0, lt=1, description="Share of all optimiser steps in which only the head moves."
    )

    def parts(self) -> list[Part]:
        from luthier.objectives.part import CleanLoss
        from luthier.robustness.parts.head_first import HeadFirst

        return [CleanLoss(), HeadFirst(self.head_fraction)]


@OBJECTIVES.register
class TemperatureScalingSettings(VanillaSettings):
    """The task loss; afterwards one temperature is fitted on the validation split and folded into the head."""

    name: Literal["temperature_scaling"] = "temperature_scaling"  # type: ignore[assignment]
    summary: ClassVar[str] = "confidence corrected after training by one temperature"
    needs_validation_logits: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = Paper(
        title="On Calibration of Modern Neural Networks",
        authors="Guo, Pleiss, Sun, Weinberger",
        venue="ICML 2017",
        url="https://arxiv.org/abs/1706.04599",
    )

    def check(self, *, schema: str, classes: int, validation: bool, streamed: bool) -> None:
        if SCHEMAS[schema].label_kind != "class" or classes < 2:
            raise RecipeError(
                f"{self.name} corrects the confidence of a classifier, which this task does not train",
                fix="use another objective for this task",
            )
        if not validation:
            raise DataError(f"{self.name} needs a validation split", fix="give data.validation")

    def finish(self, model: nn.Module, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        from luthier.robustness.temperature import fit_temperature, fold_temperature

        temperature = fit_temperature(logits, labels)
        fold_temperature(model, temperature)
        return {"temperature": temperature}
