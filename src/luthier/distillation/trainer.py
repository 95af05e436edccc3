"""Distillation as a transformers Trainer, for use from Python."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainingArguments

from luthier.data.batches.sampling import LengthBucketSampler
from luthier.data.batches.sharing import SharedRows, collating_fillers
from luthier.distillation.edge import Edge, never_begun
from luthier.distillation.graph import Graph, LanguageTerms
from luthier.distillation.schedules import Schedule
from luthier.distillation.settings import Update
from luthier.distillation.twins import refuse_twins
from luthier.errors import TrainingError
from luthier.objectives.part import Part
from luthier.storage.ranks import rank, world_size
from luthier.tasks.base import task_named
from luthier.training.graph import ModelGraph
from luthier.training.job import enable_gradient_checkpointing
from luthier.training.trainer import LuthierTrainer

_OF_EVALUATION = ("eval_dataset", "compute_metrics", "preprocess_logits_for_metrics")


class DistillationTrainer(LuthierTrainer):
    """Trains models that learn from labels and from one another (Lee et al., Findings of ACL and of EMNLP 2023).

    DWT, one-way distillation, co-training with co-distillation and its community are edges:

        DistillationTrainer({"small": small, "large": large}, [Edge(teacher="small", student="large")], args=args,
                            train_dataset=rows)                            # a frozen `small` teaches `large`
        DistillationTrainer({"l": l, "s": s}, [Edge(teacher="l", student="s"), Edge(teacher="s", student="l")], …)

    All models read the same batches. Each one's gradient is clipped to `args.max_grad_norm` by itself. Checkpoints hold
    every trained model and continue exactly with `train(resume_from_checkpoint=…)`; the newest is kept. Nothing is
    evaluated meanwhile: a callback can.

    Args:
        models: by name. One without a parameter that requires a gradient is frozen: it runs in evaluation mode, without
            gradients, and stays bit for bit what it is.
        edges: who learns from whom.
        args: transformers' arguments; the optimiser is AdamW.
        train_dataset: rows with `input_ids` and `labels`, or a stream of them.
        data_collator: rows -> batch with `input_ids`, `attention_mask` and `labels`. Of masked text the batch may have
            a copy of a model's own with other masks, as `input_ids@NAME` and `labels@NAME`.
        main: the model that `main_parts` act on; default the first one that learns.
        task: of the rows, by its name in recipes: `single_sentence`, `pair`, `token_labels`, …; `masked_lm` and
            `causal_lm` are language models, whose losses never hold the logits of all positions.
        hard_weights: name -> weight of that model's own task loss; default 1, less its inherited edges.
        learning_rates: name -> peak learning rate; default `args.learning_rate`.
        main_parts: of an objective, such as `RoastSettings().parts()`, in place of the main model's own loss.
        update: `simultaneous`, or `alternating`: one model after another, in the order of `models`, each on what those
            before it have just become.
        others: further arguments of transformers' Trainer.

    Raises:
        TrainingError: an edge names no model, or one that can't learn, or the models can't take turns, or an argument
            would have no effect.
        ModelError: two models are the same and would stay so, and learn nothing from each other.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        edges: Sequence[Edge],
        *,
        args: TrainingArguments,
        train_dataset: Any,
        data_collator: Any,
        main: str | None = None,
        task: str = "single_sentence",
        hard_weights: Mapping[str, Schedule | float] | None = None,
        learning_rates: Mapping[str, float] | None = None,
        main_parts: Sequence[Part] = (),
        update: Update = "simultaneous",
        **others: Any,
    ) -> None:
        _refuse_idle(args, others)
        learning = [n for n, model in models.items() if any(p.requires_grad for p in model.parameters())]
        weights = {name: Schedule.model_validate(value) for name, value in (hard_weights or {}).items()}
        chosen = main or next(iter(learning), next(iter(models)))
        self.nodes = Graph(models, edges, chosen, weights, main_parts, args.max_grad_norm, update=update)
        if self.nodes.alternates and args.fp16:
            raise TrainingError("models can't take turns under float16", fix="use bf16, or float32")
        checkpointing = args.gradient_checkpointing or getattr(args, "activation_checkpointing", False)
        args = copy.copy(args)
        args.max_grad_norm = 0.0  # what clips is a part, a model at a time
        args.remove_unused_columns = args.logging_nan_inf_filter = False
        args.gradient_checkpointing = args.activation_checkpointing = False  # it is for each model by itself
        sampler = None
        if hasattr(train_dataset, "__len__"):
            sampler = LengthBucketSampler(
                [0] * len(train_dataset),
                batch_size=args.per_device_train_batch_size,
                accumulation=args.gradient_accumulation_steps,
                seed=args.seed,
                processes=world_size(),
                process=rank(),
            )
            if world_size() > 1:
                train_dataset, data_collator = SharedRows(train_dataset), collating_fillers(data_collator)
        language = {"masked_lm": LanguageTerms(shifted=False), "causal_lm": LanguageTerms(shifted=True)}.get(task)
        schema = "plain_text" if language else task
        shifted = task_named(schema).predicts_next_token(getattr(models[chosen], "config", None))
        if args.max_steps > 0 and (late := never_begun(edges, args.max_steps)):
            raise TrainingError(late, fix="lower its `start_step`")
        idle = {"learning_rates": learning_rates or {}, "hard_weights": weights}
        for argument, given in idle.items():
            if wrong := sorted(set(given) - set(learning)):
                raise TrainingError(
                    f"`{argument}` names {wrong[0]!r}, which is no model that learns",
                    fix=f"the models that learn are {', '.join(learning)}",
                )
        rates = {name: (learning_rates or {}).get(name, args.learning_rate) for name in learning}
        refuse_twins(self.nodes, rates)
        if checkpointing:
            for model in models.values():
                enable_gradient_checkpointing(model)
        super().__init__(
            model=ModelGraph({place: models[name] for name, place in self.nodes.places.items()}),
            args=args,
            task=task_named(schema),
            shifted=language.shifted if language else shifted,
            sampler=sampler,
            groups=[group for name in learning for group in _groups(models[name], rates[name], args.weight_decay)],
            parts=self.nodes.parts(language),
            train_dataset=train_dataset,
            data_collator=data_collator,
            **others,
        )

    def save_models(self, folder: str | Path) -> dict[str, Path]:
        """Save every model that learned into a folder of its name, as its `save_pretrained` does."""
        places = {name: Path(folder) / name for name in self.nodes.trained}
        for name, place in places.items():
            self.nodes.models[name].save_pretrained(place)  # type: ignore[operator]
        return places


def _refuse_idle(args: TrainingArguments, others: Mapping[str, Any]) -> None:
    """Raises:
    TrainingError: an argument of transformers is given that nothing here reads.
    """
    idle = [name for name in _OF_EVALUATION if others.get(name) is not None]
    idle += ["eval_strategy"] if args.eval_strategy != "no" else []
    if idle:
        raise TrainingError(
            f"`{idle[0]}` would have no effect: this trainer evaluates nothing", fix="leave it out, and use a callback"
        )
    if others.get("compute_loss_func") is not None:
        raise TrainingError("`compute_loss_func` would have no effect beside `task`", fix="name the `task` of the rows")
    if (args.save_total_limit or 1) > 1:
        raise TrainingError(
            "`save_total_limit` would have no effect: the newest checkpoint is kept", fix="leave it out"
        )


def _groups(model: nn.Module, rate: float, decay: float) -> list[dict[str, Any]]:
    """Optimiser groups: weights of matrices decay, vectors such as biases and norms don't."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "lr": rate, "weight_decay": decay},
        {"params": [p for p in trained if p.ndim <= 1], "lr": rate, "weight_decay": 0.0},
    ]
