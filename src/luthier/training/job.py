"""One training job, from a model and rows to the best weights; stops and continues exactly."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback

from luthier.data.batches.workers import quiet_forks, telling_of_dead_workers
from luthier.errors import InterruptedRunError, TrainingError
from luthier.evaluation.meters import CostMeter
from luthier.extras import is_installed
from luthier.models.inspect import base_of
from luthier.objectives.part import Part
from luthier.objectives.step import MAIN
from luthier.storage.jsonlines import JsonLog
from luthier.storage.ranks import agree, from_main, gathered, is_main, meeting, world_size
from luthier.tasks.base import Task
from luthier.training.callbacks import (
    CheckpointCallback,
    EvaluateCallback,
    LogCallback,
    ProgressCallback,
    StopRequest,
    TimeLimitCallback,
)
from luthier.training.checkpoints import UNBOUNDED, keep_labels, newest_whole
from luthier.training.graph import ModelGraph
from luthier.training.row_gradient import finish_collecting
from luthier.training.settings import TrainingSettings
from luthier.training.shares import check_same_weights
from luthier.training.split_trainer import SplitTrainer
from luthier.training.stateful import end_workers, is_stateful, workers_of
from luthier.training.trainer import LuthierTrainer
from luthier.training.validation import Evaluation, Validation
from luthier.training.weights import remove_other_best

logger = logging.getLogger(__name__)
# What accelerate calls the precisions.
_MIXED = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


@dataclass
class TrainingRows:
    """What a model is trained on.

    Attributes:
        rows: encoded, or a stream of them that does not end and keeps to `luthier.training.stateful.StatefulRows`.
        sampler: yields their indices, epoch by epoch; None for a stream.
        collator: list of rows -> batch of tensors; a `row` entry names rows in error messages.
    """

    rows: Any
    sampler: Any
    collator: Callable[[list[Any]], dict[str, Any]]

    def __post_init__(self) -> None:
        if self.sampler is None and not is_stateful(self.rows):
            raise TypeError("rows without a sampler need `state_dict` and `load_state_dict`, as StatefulRows has them")


@dataclass
class TrainingJob:
    """Everything a training run needs.

    Attributes:
        model: what to train; parameters that require a gradient are trained.
        task: what is learned; decides on the loss.
        shifted: whether the model predicts the next token.
        data: what to train on.
        settings: how to train.
        groups: optimiser groups, each with its peak learning rate.
        folder: where checkpoints go; the same folder continues a stopped run.
        log: the JSON-lines log; default `log.jsonl` in the folder.
        seed: of dropout.
        validation: how the model is evaluated; None never evaluates.
        labels: names of the model's outputs, in order; a stopped run goes on with the same ones only.
        parts: what a step does beside and in place of the plain task loss, as `luthier.objectives.part` describes it;
            where there are any, one gives the main loss.
        other_models: more models by name, trainable or frozen, for parts to run; `model` is then the main one of all,
            the one that is evaluated and that an objective acts on. All of them read the same batches.
        split_weights: whether each process of the run has a part of the weights, gradients and optimiser states
            (`luthier.training.split`); after training the main process alone has the model.
        description: in front of the progress bar.
    """

    model: nn.Module
    task: Task
    shifted: bool
    data: TrainingRows
    settings: TrainingSettings
    groups: list[dict[str, Any]]
    folder: Path
    log: Path | None = None
    seed: int = 0
    validation: Validation | None = None
    labels: Sequence[str] = ()
    parts: Sequence[Part] = ()
    other_models: Mapping[str, nn.Module] = field(default_factory=dict)
    split_weights: bool = False
    description: str = "training"


@dataclass(frozen=True)
class TrainingResult:
    """What a finished job measured.

    Attributes:
        steps: optimiser steps taken in all, across stops.
        best_step: step of the weights the model now holds.
        scores, details: of the last evaluation of those weights.
        seconds, tokens_per_second: of the whole job, evaluations included, across stops.
        peak_memory_bytes: of this process's share of the job.
    """

    steps: int
    best_step: int
    scores: dict[str, float]
    details: dict[str, Any]
    seconds: float
    peak_memory_bytes: int
    tokens_per_second: float


def train(job: TrainingJob, callbacks: Sequence[TrainerCallback] = ()) -> TrainingResult:
    """Run a job to its end, continuing from the newest whole checkpoint in its folder.

    The model ends with the best evaluation's weights when `keep_best` is set and there was one.

    Args:
        job: what to do.
        callbacks: transformers' callbacks that look on.

    Raises:
        TrainingError: a loss or gradient is not finite, nothing is trainable, this machine does not have the precision,
            or the checkpoint is of another number of processes.
        DataError: the checkpoint there was trained for other labels.
        WorkspaceError: a checkpoint can't be written.
        InterruptedRunError: SIGTERM or Ctrl-C came; the next call continues from the newest checkpoint.
    """
    stop, bar = StopRequest(), ProgressCallback(job.description)
    with meeting():
        refuse_missing_trackers(job.settings.report_to)
        refuse_idle_workers(job)
        refuse_to_split(job)
        refuse_precision(job.settings.precision)
        models = (job.model, *job.other_models.values())
        for model in models:
            refuse_attention_without_gradient(model)
        job.folder.mkdir(parents=True, exist_ok=True)
        cached = [(model, _uses_cache(model)) for model in models]  # the Trainer turns it off
        if job.settings.gradient_checkpointing:
            for model in models:
                enable_gradient_checkpointing(model)
        trainer = _trainer(job, stop, bar, callbacks)
    earlier = from_main(partial(_earlier, job))
    with stop.listening(), CostMeter() as meter, _with_workers(job.settings.workers):
        try:
            trainer.train(resume_from_checkpoint=str(earlier) if earlier else None)
            finish_collecting(trainer.model.parameters())
            if not job.split_weights:
                check_same_weights(trainer.model, trainer.state.global_step)
        finally:
            bar.close()
            end_workers(job.data.rows)
            for model, use_cache in cached:  # what is saved says how the model answers, not how it was trained
                if use_cache is not None:
                    base_of(model).config.use_cache = use_cache
    seconds, tokens = trainer.seconds, sum(gathered(trainer.tokens_seen))
    if stop:
        agree(
            InterruptedRunError(
                f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}; {_newest(job.folder)}",
                fix="run the same command again to continue",
            )
        )
    best_step, kept = trainer.state.global_step, trainer.latest
    if is_main() and job.settings.keep_best and trainer.load_best():
        best_step, kept = trainer.best.step, Evaluation(trainer.best.scores, trainer.best.details)
    trainer.model.eval()
    return TrainingResult(
        steps=trainer.state.global_step,
        best_step=best_step,
        scores=kept.scores,
        details=kept.details,
        seconds=seconds,
        peak_memory_bytes=meter.peak_memory_bytes,
        tokens_per_second=tokens / seconds,
    )


def _earlier(job: TrainingJob) -> Path | None:
    """The checkpoint to go on from. What belongs to none, or to other labels, is out of the way."""
    earlier = newest_whole(job.folder)
    if earlier is None:
        remove_other_best(job.folder, set())
    keep_labels(job.folder, job.labels, fresh=earlier is None)
    return earlier


def _newest(folder: Path) -> str:
    newest = newest_whole(folder)
    return f"the newest checkpoint is {newest.name}" if newest else "there is no checkpoint yet"


def _trainer(
    job: TrainingJob, stop: StopRequest, bar: ProgressCallback, others: Sequence[TrainerCallback]
) -> LuthierTrainer:
    log = JsonLog(job.log or job.folder / "log.jsonl")
    limit = 60 * job.settings.max_minutes if job.settings.max_minutes else None
    evaluate_every = job.settings.evaluate_every if job.validation is not None else "never"
    made = SplitTrainer if job.split_weights else LuthierTrainer
    trainer = made(
        model=ModelGraph({MAIN: job.model, **job.other_models}) if job.other_models else job.model,
        args=training_arguments(job),
        task=job.task,
        shifted=job.shifted,
        sampler=job.data.sampler,
        groups=job.groups,
        validation=job.validation,
        patience=job.settings.patience,
        time_limit=limit,
        correct_bias=job.settings.correct_bias,
        train_dataset=job.data.rows,
        data_collator=job.data.collator,
        callbacks=[
            EvaluateCallback(evaluate_every),
            CheckpointCallback(job.settings.checkpoint_every, stop),
            *([LogCallback(log)] if is_main() else []),
            bar,
            *others,
        ],
        parts=job.parts,
    )
    trainer.remove_callback(PrinterCallback)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = str(log.path.with_name("tensorboard"))  # by default it is among the checkpoints
    if limit is not None:
        trainer.add_callback(TimeLimitCallback(trainer, evaluate_every))
        bar.count_seconds(lambda: trainer.seconds, limit)
    return trainer


def total_steps(settings: TrainingSettings, rows: int) -> int:
    """Optimiser steps of a whole job over that many training rows; a stream has no number, but `max_steps`."""
    if settings.max_steps or settings.max_minutes:
        return settings.max_steps or UNBOUNDED
    batches = math.ceil(rows / (settings.batch_size * world_size()))
    return math.ceil(settings.epochs * math.ceil(batches / settings.accumulation))


def training_arguments(job: TrainingJob) -> TrainingArguments:
    """The Trainer's own settings. When to evaluate and save, and which weights are best, is not up to it."""
    s = job.settings
    steps = total_steps(s, 0 if job.data.sampler is None else len(job.data.rows))
    precision = resolve_precision(s.precision)
    arguments = TrainingArguments(
        output_dir=str(job.folder),
        num_train_epochs=s.epochs,
        max_steps=steps if s.max_steps or s.max_minutes else -1,
        per_device_train_batch_size=s.batch_size,
        gradient_accumulation_steps=s.accumulation,
        learning_rate=job.groups[0]["lr"],
        lr_scheduler_type="constant_with_warmup" if s.schedule == "constant" else s.schedule,
        # The rate of the first warm-up step is 0: a job of one step would train nothing.
        warmup_steps=min(math.ceil(s.warmup_ratio * steps), max(0, steps - 1)),
        adam_beta1=s.adam_betas[0],
        adam_beta2=s.adam_betas[1],
        adam_epsilon=s.adam_epsilon,
        max_grad_norm=s.max_grad_norm,
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        eval_strategy="no",
        save_strategy="no",
        logging_steps=s.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        report_to=list(s.report_to) or "none",
        seed=job.seed,
        disable_tqdm=True,
        ignore_data_skip=is_stateful(job.data.rows),  # they go on by themselves
        dataloader_num_workers=0 if is_stateful(job.data.rows) else s.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available() and not torch.backends.mps.is_available(),
    )
    # Without a word of the recipe's, the environment that `accelerate launch` makes would decide.
    arguments.mixed_precision = _MIXED[precision]
    if arguments.n_gpu > 1:  # a process that took them all would train on as many times the rows in each step
        logger.warning(
            "one of %d accelerators is used: `torchrun --nproc_per_node %d -m luthier.cli run` takes all of them",
            arguments.n_gpu,
            arguments.n_gpu,
        )
        arguments._n_gpu = 1
    return arguments


def refuse_missing_trackers(trackers: Sequence[str]) -> None:
    """Say which extra a tracker needs before any work is done.

    Raises:
        TrainingError: its package is not installed.
    """
    for name in trackers:
        if not is_installed(name):
            raise TrainingError(
                f"report_to names {name}, which is not installed", fix=f"pip install 'luthier[{name}]', or leave it out"
            )


@contextmanager
def _with_workers(number: int) -> Iterator[None]:
    with telling_of_dead_workers(), quiet_forks() if number else nullcontext():
        yield


def refuse_idle_workers(job: TrainingJob) -> None:
    """Say that rows which come one after another are read without workers, where some are asked for.

    Raises:
        TrainingError: the rows have no workers of their own, or not as many.
    """
    wanted = job.settings.workers
    if is_stateful(job.data.rows) and wanted != workers_of(job.data.rows):
        raise TrainingError(
            f"these rows come one after another, from {type(job.data.rows).__name__}, which has no workers",
            fix="set `workers: 0`, or leave it out; or give the rows workers of their own, as StatefulRows says",
        )


def refuse_to_split(job: TrainingJob) -> None:
    """Raises:
    TrainingError: weights are to be split over one process, or those of several models.
    """
    if job.split_weights and (world_size() == 1 or job.other_models):
        raise TrainingError(
            "`split_weights` splits one model over several processes",
            fix="start the run with `torchrun --nproc_per_node N`, or leave it out",
        )


def refuse_precision(precision: str) -> None:
    """Say that a precision is none of this machine's, where it would be left out in silence.

    Raises:
        TrainingError: it is float16, which is done on accelerators alone.
    """
    if precision == "float16" and not torch.accelerator.is_available():
        raise TrainingError(
            "`precision: float16` is for accelerators, and this machine has none",
            fix="leave it out, or set `precision: bfloat16`",
        )


def refuse_attention_without_gradient(model: nn.Module) -> None:
    """Say that a model's attention can be run on this machine, and not trained.

    Raises:
        TrainingError: it is flex_attention, whose backward pass torch has for accelerators alone.
    """
    name = getattr(getattr(model, "config", None), "_attn_implementation", None)
    trained = any(p.requires_grad for p in model.parameters())
    if trained and name == "flex_attention" and not torch.accelerator.is_available():
        raise TrainingError(
            "`attention: flex_attention` has no backward pass on a CPU",
            fix="leave it out, or set `attention: sdpa`; to keep packed documents apart without a mask, `lengthen` has "
            "`document_attention: varlen`",
        )


def resolve_precision(wanted: str) -> str:
    """What `auto` means on this machine."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"


def _uses_cache(model: nn.Module) -> bool | None:
    """Whether the model keeps keys and values when it writes, by its configuration; None where that says nothing."""
    found: bool | None = getattr(getattr(base_of(model), "config", None), "use_cache", None)
    return found


def enable_gradient_checkpointing(model: nn.Module) -> None:
    """Recompute activations in the backward pass of a model that learns."""
    if not any(p.requires_grad for p in model.parameters()):
        return
    base = base_of(model)
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if hasattr(base, "config"):
        base.config.use_cache = False
