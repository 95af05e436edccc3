"""Nodes of a graph of models, and the text that they may learn. Nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, create_model, model_validator

from luthier.distillation.schedules import Schedule, Scheduled
from luthier.language_modeling.settings import LanguageTrainingSettings
from luthier.methods.base import TuningMethod
from luthier.models.settings import ModelSettings, RemapSettings
from luthier.settings import Settings
from luthier.stages.artifacts import MODEL_FIELD, Reference
from luthier.training.settings import TrainingSettings

Update = Literal["simultaneous", "alternating"]
RESERVED = ("model", "checkpoints", "replaced")


def _node_name(name: str) -> str:
    if not name.isidentifier() or not name.isascii() or name in RESERVED:
        raise ValueError(
            f"{name!r} can't be the name of a node, which becomes a folder: letters, digits and underscores, and none "
            f"of {', '.join(RESERVED)}"
        )
    return name


NodeName = Annotated[str, AfterValidator(_node_name)]


class StoredOutputs(Settings):
    """A frozen teacher's outputs on the training rows are computed once and kept on disk, where later runs find them;
    then the teacher is not loaded at all."""

    without_effect_on_results: ClassVar[frozenset[str]] = frozenset({"gigabytes"})
    top_k: int = Field(
        64,
        gt=0,
        description="Likeliest classes or tokens that are kept at every position; what is left of the probability "
        "counts as one more. As many as there are keep all.",
    )
    gigabytes: float = Field(
        10.0, gt=0, description="What stored outputs may take, of all runs together; the least recently used go first."
    )


class Node(Settings):
    """A model of the graph."""

    model: Reference = Field(None, description=MODEL_FIELD)
    like: str | None = Field(
        None, description="Another node, in whose architecture and for whose tokens this one is built anew."
    )
    sizes: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields of the configuration that are other than in `model` or `like`, such as num_hidden_layers.",
    )
    init: Literal["weights", "random", "remap"] | None = Field(
        None,
        description="What it starts from: the weights of `model`, random ones, or those of `model` or `like` as "
        "`remap` fits them into its sizes; null is `random` beside `like` or `sizes`, else `weights`.",
    )
    remap: RemapSettings | None = Field(None, description="How weights are fitted into other sizes.")
    frozen: bool = Field(
        False, description="Whether it only teaches: it is not trained, not saved, and stays as it is."
    )
    store: StoredOutputs | None = Field(
        None, description="Compute what a frozen node gives once and keep it on disk; null runs it in every step."
    )
    learning_rate: float | None = Field(None, gt=0, description="Peak learning rate; null is the stage's.")
    hard_weight: Scheduled | None = Field(
        None, description="Weight of its own task loss: a number, or a schedule; null is 1, less inherited edges."
    )
    max_grad_norm: float | None = Field(
        None, ge=0, description="What its gradient is scaled down to; null is the stage's, 0 never clips."
    )
    method: Any = None

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        new = self.like is not None or bool(self.sizes)
        if self.like is not None and self.model is not None:
            raise ValueError("`like` and `model` both say what it is built from: keep one of them")
        if self.like is not None and self.init == "weights":
            raise ValueError("`init: weights` takes those of a `model`; beside `like`, use `remap` or `random`")
        if self.sizes and self.init == "weights":
            raise ValueError("weights don't fit other `sizes`: use `init: remap`, or `random`")
        if self.init == "remap" and not new:
            raise ValueError("`init: remap` fits weights into other `sizes`, and there are none: use `init: weights`")
        if self.remap is not None and self.start != "remap":
            raise ValueError("`remap` has no effect without `init: remap`")
        if self.hard_weight is not None and self.hard_weight.kind == "inherit":
            raise ValueError("`inherit` is a schedule of edges: the hard loss follows it by itself")
        self._check_frozen()
        return self

    def _check_frozen(self) -> None:
        if not self.frozen:
            if self.store is not None:
                raise ValueError("`store` keeps the outputs of a `frozen` node; those of a trained one change")
            return
        idle = [name for name in ("learning_rate", "hard_weight", "max_grad_norm") if getattr(self, name) is not None]
        idle += ["method"] if self.method is not None and self.method.name != "full" else []
        if idle:
            raise ValueError(f"`{idle[0]}` has no effect on a frozen node")
        if self.start != "weights":
            raise ValueError("a frozen node can't be new: it would teach what it was never taught")

    @property
    def start(self) -> str:
        """What it starts from: weights, random or remap."""
        return self.init or ("random" if self.like is not None or self.sizes else "weights")

    def rate(self, stage: TrainingSettings, otherwise: float | None = None) -> float:
        """Its peak learning rate: its own, the stage's, or the method's default."""
        method: TuningMethod = self.method
        fallback = method.default_learning_rate if otherwise is None else otherwise
        return next(r for r in (self.learning_rate, stage.learning_rate, fallback) if r is not None)


_OF_TEXT: dict[str, Any] = {
    name: (field.rebuild_annotation(), field)
    for name, field in LanguageTrainingSettings.model_fields.items()
    if name not in TrainingSettings.model_fields
}
TextSettings: Any = create_model(
    "TextSettings",
    __base__=Settings,
    __module__=__name__,
    __doc__="Plain text that all nodes learn as language models, packed into blocks of one length.",
    **_OF_TEXT,
)

__all__ = ["ModelSettings", "Node", "Schedule", "StoredOutputs", "TextSettings", "Update"]
