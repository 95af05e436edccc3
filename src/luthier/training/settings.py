"""How a model is trained: the settings every training stage shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.errors import RecipeError
from luthier.settings import Settings

_OFTEN = 200
Beta = Annotated[float, Field(ge=0, lt=1)]
Tracker = Literal["tensorboard", "mlflow", "trackio", "wandb"]


class TrainingSettings(Settings):
    """Optimisation, evaluation and checkpoints."""

    without_effect_on_results: ClassVar[frozenset[str]] = frozenset({"workers", "checkpoint_every", "report_to"})
    epochs: float = Field(3.0, gt=0, description="Passes over the training split.")
    max_steps: int | None = Field(
        None, gt=0, description="Optimiser steps to take, instead of `epochs`; null trains for `epochs`."
    )
    max_minutes: float | None = Field(
        None,
        gt=0,
        description="Minutes to train, evaluations included, instead of `epochs`; the learning rate falls with the "
        "time used. With `max_steps` too, what comes first ends it. Such a run can't be repeated bit for bit.",
    )
    batch_size: int = Field(16, gt=0, description="Examples in one forward pass.")
    accumulation: int = Field(
        1,
        gt=0,
        description="Forward passes per optimiser step. 8 with batch_size 1 trains as 1 with batch_size 8 does.",
    )
    evaluation_batch_size: int = Field(64, gt=0, description="Examples in one forward pass of an evaluation.")
    learning_rate: float | None = Field(
        None, gt=0, description="Peak learning rate; null takes the method's own default, found by a sweep."
    )
    weight_decay: float = Field(0.01, ge=0, description="Decoupled weight decay, on matrices only.")
    adam_betas: list[Beta] = Field(
        default_factory=lambda: [0.9, 0.999],
        min_length=2,
        max_length=2,
        description="How much AdamW keeps, at every step, of its averages of gradients and of their squares.",
    )
    adam_epsilon: float = Field(1e-8, gt=0, description="Added to the root of the squares that AdamW divides by.")
    correct_bias: bool = Field(
        True,
        description="Divide AdamW's averages by what they lack in the first steps, as Adam was published; false leaves "
        "that out, as BERT's own training and SpERT's did, which makes the first steps about three times as large.",
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="How the learning rate falls after warm-up."
    )
    warmup_ratio: float = Field(0.06, ge=0, lt=1, description="Share of all steps over which the rate rises from 0.")
    max_grad_norm: float = Field(1.0, ge=0, description="Gradients are scaled down to this norm; 0 never clips.")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Arithmetic of the forward pass: auto is bfloat16 on an accelerator that has it, else float32.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, about a third more time."
    )
    workers: int = Field(
        0,
        ge=0,
        description="Processes that make the next rows ready while the model trains; 0 does it in between. Rows, their "
        "order and all numbers are the same, and a stopped run may go on with another number of them.",
    )
    group_by_length: bool = Field(True, description="Draw batches of similar length, so that little is padded.")
    evaluate_every: int | Literal["epoch", "never"] = Field(
        "epoch",
        description="Optimiser steps between evaluations on the validation split, or `epoch`, or `never`. Left out, "
        "200 for streamed rows and for plain text to distil on, whose epoch may be the whole training.",
    )
    checkpoint_every: int | Literal["epoch"] = Field(
        "epoch",
        description="Optimiser steps between checkpoints that a stopped run continues from, or `epoch`. Left out, as "
        "for `evaluate_every`.",
    )
    keep_best: bool = Field(
        True,
        description="End with the weights of the best evaluation, of equal scores that with the lower loss; false ends "
        "with the last step's.",
    )
    patience: int | None = Field(
        None,
        gt=0,
        description="Stop after this many evaluations without a better score; null never stops early.",
    )
    log_every: int = Field(10, gt=0, description="Optimiser steps between lines of the training log.")
    report_to: list[Tracker] = Field(
        default_factory=list,
        description="Experiment trackers to report to; each is an extra of its own. tensorboard writes into the folder "
        "`tensorboard` of the stage, unless TENSORBOARD_LOGGING_DIR names another.",
    )

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if isinstance(self.evaluate_every, int) and self.evaluate_every < 1:
            raise ValueError("evaluate_every counts optimiser steps: give at least 1, or `epoch`, or `never`")
        if isinstance(self.checkpoint_every, int) and self.checkpoint_every < 1:
            raise ValueError("checkpoint_every counts optimiser steps: give at least 1, or `epoch`")
        if self.patience is not None and self.evaluate_every == "never":
            raise ValueError("patience needs evaluations, but evaluate_every is `never`")
        return self

    def extras(self) -> Mapping[str, str]:
        """Each tracker is an extra of its own."""
        return dict.fromkeys(self.report_to, "report_to")


def by_steps_where_left_out(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, with evaluations and checkpoints every 200 steps where they name none: for training whose one epoch may
    be all of it."""
    return {"evaluate_every": _OFTEN, "checkpoint_every": _OFTEN, **given}


class SplitSettings(Settings):
    """Beside `TrainingSettings`: a model that the processes of a run have together."""

    split_weights: bool = Field(
        False,
        description="Split weights, gradients and the optimiser's states over the processes of a run (FSDP2): each "
        "holds a part of them, and a layer is whole only while it runs; false lets each process hold all. Needs "
        "several processes, as torchrun starts them.",
    )

    @model_validator(mode="after")
    def _can_be_split(self) -> Self:
        if self.split_weights and getattr(self, "precision", None) == "float16":
            raise ValueError(
                "`split_weights` does not go with `precision: float16`, which scales gradients: take bfloat16"
            )
        return self

    def check_processes(self, processes: int) -> None:
        """Raises:
        RecipeError: there is nothing to split a model over.
        """
        if self.split_weights and processes == 1:
            raise RecipeError(
                "`split_weights` splits a model over the processes of a run, and this run is of one",
                fix="start it with `torchrun --nproc_per_node N -m luthier.cli run recipe.yaml`, or leave it out",
            )
