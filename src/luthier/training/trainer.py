"""transformers' Trainer, with whole checkpoints, exact resume, guards, and a loss that accumulation can't change."""

from __future__ import annotations

import itertools
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainingArguments

from luthier.data.batches.sharing import FILLER
from luthier.errors import LuthierError, TrainingError
from luthier.evaluation.prediction import model_inputs
from luthier.objectives.part import Part
from luthier.objectives.part_list import PartList
from luthier.objectives.step import MAIN, Step
from luthier.storage.done import CHECKPOINT
from luthier.storage.files import json_value, sha256_of
from luthier.storage.helping import helped
from luthier.storage.ranks import agree, from_main, gathered, is_main, world_size
from luthier.tasks.base import Task
from luthier.training.checkpoints import TRAINER_STATE, remove_older, writing
from luthier.training.finite import check_finite
from luthier.training.graph import ModelGraph
from luthier.training.optimizer import adamw
from luthier.training.row_gradient import bring_up_to_date, collects_by_rows, holders_of_gradients
from luthier.training.schedule import share_of_rate
from luthier.training.shares import (
    average_gradients,
    check_same_processes,
    check_same_weights,
    own_dataloader,
    own_file,
    own_files,
    stored_parts,
)
from luthier.training.split import is_split
from luthier.training.stateful import ShareOfSteps, is_stateful, load_position, save_position, stateful_dataloader
from luthier.training.validation import Evaluation, Validation
from luthier.training.watch import tell_watcher
from luthier.training.weights import (
    BestScore,
    best_file,
    load_trainable,
    remove_other_best,
    save_trainable,
    trainable_state,
)

TRAINABLE, PROGRESS, PARTS, POSITION = "trainable.safetensors", "progress.json", "objective.pt", "position.pt"

# Steps that a loss scaler may skip one after another. It begins with 2^16 and halves that each time, so that behind so
# many it is not the scale that makes gradients infinite.
MOST_SKIPPED = 50


class LuthierTrainer(Trainer):
    """Trains the parameters that require a gradient.

    Args:
        model: any model whose forward returns logits, or a graph of such models.
        args: the Trainer's arguments; saving and evaluation by the Trainer itself are off.
        task: what is learned; decides on the loss.
        shifted: whether the model predicts the next token.
        sampler: yields row indices of the training set; has `set_epoch`. None for rows that are `StatefulRows`, whose
            state is part of the checkpoints.
        groups: optimiser groups, each with its own learning rate.
        parts: what is added to the loss and done around it; none train by the task loss of the (main) model alone.
        validation: how the (main) model is evaluated; None never evaluates.
        patience: evaluations without a better score after which training stops.
        time_limit: seconds over which the learning rate falls, where it does not fall over the steps alone.
        correct_bias: of AdamW.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        model: nn.Module,
        args: TrainingArguments,
        task: Task,
        shifted: bool,
        sampler: Any,
        groups: list[dict[str, Any]],
        parts: Sequence[Part] = (),
        validation: Validation | None = None,
        patience: int | None = None,
        time_limit: float | None = None,
        correct_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, args=args, **kwargs)
        self.task, self.shifted = task, shifted
        self.validation, self.patience = validation, patience
        self.latest, self.best = Evaluation(), BestScore()
        self.tokens_seen, self.time_limit = 0, time_limit
        self._seconds_before, self._started = 0.0, time.perf_counter()
        self._sampler, self._groups, self._correct_bias = sampler, groups, correct_bias
        self.parts = PartList(parts)
        self.add_callback(self.parts.callback(self))
        self.stateful = is_stateful(self.train_dataset)
        if self.stateful:
            self.callback_handler.callbacks.insert(0, ShareOfSteps())
        self.batches: list[dict[str, Any]] = []
        self.items = 1.0
        self._rows: list[list[int]] = []
        self._losses: list[Tensor] = []
        self.fillers: list[bool] = []
        self._skipped = 0
        self._best_of_checkpoint: set[str] = set()
        self._resumed_progress: dict[str, Any] | None = None

    @property
    def models(self) -> dict[str, nn.Module]:
        """All models of the job by name."""
        return dict(self.model.items()) if isinstance(self.model, ModelGraph) else {MAIN: self.model}

    @property
    def main_model(self) -> nn.Module:
        """The model that is evaluated, and that an objective acts on."""
        return self.models[MAIN]

    # -- data, optimiser -----------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self._sampler

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over the given groups; a parameter that needs no gradient is in none of them."""
        if self.optimizer is None:  # type: ignore[has-type]
            scaled = self.accelerator.scaler is not None
            self.optimizer = adamw(self._groups, self.args, scaled=scaled, correct_bias=self._correct_bias)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """The Trainer's own schedule; under a time limit, the same shape over the time or the steps used."""
        if self.time_limit is None:
            return super().create_scheduler(num_training_steps, optimizer)
        warmup = self.args.get_warmup_steps(num_training_steps) / num_training_steps
        kind = self.args.lr_scheduler_type.value

        def factor(step: int) -> float:
            return share_of_rate(kind, warmup, max(self.time_used, step / num_training_steps))

        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler

    def get_train_dataloader(self) -> Any:
        """Batches that stay on the CPU, where counting what they hold makes no accelerator wait.

        In a run of several processes the sampler gives each its own rows already. Of stateful rows their own workers
        make the next ones ready, so that the state is that behind the last batch that was trained on.
        """
        if self.stateful:
            return stateful_dataloader(self)
        if world_size() > 1 or self.args.dataloader_num_workers:
            return own_dataloader(self)
        placing, self.accelerator.device_placement = self.accelerator.device_placement, False
        try:
            return super().get_train_dataloader()
        finally:
            self.accelerator.device_placement = placing

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> float:
        count = sum(self.task.items(batch, shifted=self.shifted) for batch in batch_samples if FILLER not in batch)
        return max(1, sum(gathered(count)))

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The batches of one optimiser step on the device, and how many labelled items they hold."""
        batches: list[dict[str, Any]] = []
        error = None
        try:
            batches += itertools.islice(epoch_iterator, num_batches)
        except LuthierError as met:  # every process has to hear of it, at the same point
            error = met
        agree(error)
        items = self._get_num_items_in_batch(batches, device)
        self.fillers = [batch.pop(FILLER, False) for batch in batches]
        rows = [batch.pop("row", None) for batch in batches]
        self._rows, self._losses = [[] if r is None else r.tolist() for r in rows], []
        counted = [b for b, filler in zip(batches, self.fillers, strict=True) if not filler]
        self.tokens_seen += sum(map(_tokens, counted))
        self.batches, self.items = [send_to_device(batch, device, non_blocking=True) for batch in batches], items
        return self.batches, items

    # -- loss ----------------------------------------------------------------------------------------------

    def loss_of(self, logits: Any, batch: dict[str, Any], items: Tensor | float | None) -> Tensor:
        """Sum of the task loss over the batch divided by `items` (default: the batch's own)."""
        count = float(items if items is not None else max(1, self.task.items(batch, shifted=self.shifted)))
        scale = self.args.world_size if self.model.training else 1
        return scale * self.task.loss(logits, batch, items=count, shifted=self.shifted)

    def logits_of(self, model: nn.Module, batch: dict[str, Any], name: str = MAIN) -> Any:
        """What the loss takes of the outputs of the job's model with that name: logits, or a pair of them for
        extractive answers.

        Args:
            model: all of the job's models, as the Trainer passes them: wrapped for distributed runs.
        """
        inputs = model_inputs(self.models[name], batch, self.task)
        return self.task.logits(model(of=name, **inputs) if isinstance(self.model, ModelGraph) else model(**inputs))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        if self.parts:
            step = self.step_on(model, inputs, num_items_in_batch)
            loss = self._counted(self.parts.loss(step))
            return (loss, step.latest.outputs if step.latest else None) if return_outputs else loss
        logits = self.logits_of(model, inputs)
        loss = self._counted(self.loss_of(logits, inputs, num_items_in_batch))
        return (loss, logits) if return_outputs else loss

    def _counted(self, loss: Tensor) -> Tensor:
        return loss if (weight := self._weight()) == 1 else weight * loss

    def _weight(self) -> float:
        """Of the loss of the batch at hand: 0 for a row which only fills a pass in which this process has none."""
        number = len(self._losses)
        return 0.0 if number < len(self.fillers) and self.fillers[number] else 1.0

    def step_on(self, model: nn.Module, inputs: dict[str, Any], items: Tensor | float | None) -> Step:
        """A batch as the parts see it."""

        def task_pass(model: nn.Module, inputs: dict[str, Any], of: str) -> tuple[Tensor, Any]:
            logits = self.logits_of(model, inputs, of)
            return self.loss_of(logits, inputs, items), logits

        return Step(self, model, inputs, items, task_pass, self.parts, self._weight())

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        several = isinstance(self.model, ModelGraph) and self.args.world_size > 1
        # The wrapper of distributed runs knows one forward pass for each backward pass, not one for each model.
        with self.parts.around_batch(self), self.accelerator.no_sync(model) if several else nullcontext():
            loss = super().training_step(model, inputs, num_items_in_batch)
        self._losses.append(loss.detach())
        if self.accelerator.sync_gradients:
            if several:
                average_gradients(self.model)
            self.parts.after_backward(self)
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        if not collects_by_rows(model.parameters()):
            return super()._clip_grad_norm(model)
        return self.accelerator.clip_grad_norm_(holders_of_gradients(model.parameters()), self.args.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> float:
        """The gradient's norm; it and the losses have to be finite before the optimiser may use the gradient."""
        # Where nothing is clipped the Trainer would clip to infinity, which turns all into NaN where one is infinite.
        norm = None if grad_norm is None else super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is None:
            held = holders_of_gradients(self.model.parameters())
            norm = torch.nn.utils.get_total_norm([p.grad for p in held if p.grad is not None])
            norm = norm if self.accelerator.scaler is None else norm / self.accelerator.scaler.get_scale()
        precision = "bfloat16" if self.args.bf16 else "float16" if self.args.fp16 else "float32"
        scaler, step = self.accelerator.scaler, self.state.global_step + 1
        scaled = scaler is not None and scaler.is_enabled() and self._skipped < MOST_SKIPPED
        found = check_finite(self._losses, norm, self._rows, self.model, step, scaled=scaled, precision=precision)
        self._skipped = 0 if math.isfinite(found) else self._skipped + 1
        return found

    # -- evaluation ----------------------------------------------------------------------------------------

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        if self.validation is None:
            return {}
        bring_up_to_date(self.model.parameters())
        # Autocasting belongs to what the Trainer was given, which of several models is all of them together.
        with self.accelerator.autocast() if isinstance(self.model, ModelGraph) else nullcontext():
            work, split = partial(self.validation.evaluate, self.main_model), is_split(self.model)
            found = helped(work, self.main_model, in_step=split)
        self.latest = Evaluation({name: json_value(score) for name, score in found.scores.items()}, found.details)
        scores = {f"eval_{k}": v for k, v in self.latest.scores.items()}
        self.log(dict(scores))
        control = self.control  # type: ignore[has-type]
        self.control = self.callback_handler.on_evaluate(self.args, self.state, control, scores)
        if (main := self.latest.scores.get(self.validation.primary)) is not None:
            from_main(partial(tell_watcher, self.state.global_step, self.validation.primary, main))
        return scores

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        if self.validation is None:
            return False
        score, higher = self.latest.scores.get(self.validation.primary), self.validation.higher_is_better
        if score is None or not math.isfinite(score):
            better = False
        elif self.best.score is None or score == self.best.score:
            better = self.best.score is None or self._lower_loss(self.validation.primary)
        else:
            better = score > self.best.score if higher else score < self.best.score
        if better:
            step, folder = self.state.global_step, Path(self.args.output_dir)
            weights = trainable_state(self.model)
            digest = from_main(partial(save_trainable, weights, folder / best_file(step)))
            self.best = BestScore(score, step, 0, self.latest.scores, self.latest.details, digest)
            if is_main():
                remove_other_best(folder, {self.best.file, *self._best_of_checkpoint})
        else:
            self.best.since += 1
            if self._out_of_patience():
                self.control.should_training_stop = True
        return better

    def _lower_loss(self, primary: str) -> bool:
        """Whether the newest evaluation has a lower loss than the best one, which decides between equal scores."""
        name = f"{primary.rpartition('/')[0]}/loss"
        return self.latest.scores.get(name, math.inf) < self.best.scores.get(name, -math.inf)

    # -- checkpoints ---------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        if self._is_finished():  # what the optimiser knows of late rows is not kept
            bring_up_to_date(self.model.parameters())
        check_same_weights(self.model, self.state.global_step)
        weights = None if self._holds_best() else trainable_state(self.model)  # the file beside it has the best ones
        parts = self.parts.state_dict(self) if self.parts else None  # its processes may have to speak to each other
        own = {} if is_main() else own_files(partial(self._save_own, parts=parts))
        files = [file for files in gathered(own) for file in files.items()]
        from_main(partial(self._write_checkpoint, weights, parts, dict(files), self._progress()))
        self._best_of_checkpoint = set(self.best.files)

    def _write_checkpoint(
        self, weights: dict[str, Tensor] | None, parts: Any, others: dict[str, bytes], progress: dict[str, Any]
    ) -> None:
        folder = Path(self.args.output_dir)
        place = folder / f"{CHECKPOINT}{self.state.global_step}"
        with writing(place, beside=self.best.files) as scratch:
            if weights is not None:
                save_file(weights, scratch / TRAINABLE)
            if not progress["finished"]:
                self._save_optimizer_and_scheduler(str(scratch))
                self._save_scaler(str(scratch))
            self.state.save_to_json(str(scratch / TRAINER_STATE))
            (scratch / PROGRESS).write_text(json.dumps(progress, default=json_value), encoding="utf8")
            self._save_own(scratch, parts)
            for name, content in others.items():
                (scratch / name).write_bytes(content)
        remove_older(folder, place)
        remove_other_best(folder, set(self.best.files))

    def _save_own(self, folder: Path, parts: Any) -> None:
        """Write what each process has of its own: what it draws and reads next, and the state of the parts."""
        self._save_rng_state(str(folder))
        if self.stateful:
            save_position(self.train_dataset, folder / own_file(POSITION))
        if parts is not None:
            torch.save(parts, folder / own_file(PARTS))

    @property
    def seconds(self) -> float:
        """Seconds since training began, without the time between a stop and the start that continued it."""
        return self._seconds_before + time.perf_counter() - self._started

    @property
    def time_used(self) -> float:
        """Share of the time limit that is used, 0 where there is none. All processes of a run go by the main one's
        clock, and have to ask for it together."""
        limit = self.time_limit
        return from_main(lambda: self.seconds / limit) if limit else 0.0

    def _progress(self) -> dict[str, Any]:
        return {
            "running_loss": statistics.fmean(gathered(self._tr_loss.item())),
            "total_loss": self._total_loss_scalar,
            "last_logged": self._globalstep_last_logged,
            "tokens_seen": sum(gathered(self.tokens_seen)),
            "seconds": self.seconds,
            "processes": world_size(),
            "finished": self._is_finished(),
            "best": vars(self.best),
            "latest": vars(self.latest),
        }

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        place = Path(resume_from_checkpoint)
        progress = json.loads((place / PROGRESS).read_text(encoding="utf8"))
        check_same_processes(progress["processes"], place)
        self.tokens_seen, self.best = progress["tokens_seen"] if is_main() else 0, BestScore(**progress["best"])
        own = place / TRAINABLE
        load_trainable(self.model, own if own.is_file() else place.parent / self.best.file)
        self.latest = Evaluation(**progress.get("latest", {}))
        self._best_of_checkpoint = set(self.best.files)
        self._seconds_before = progress["seconds"]
        self._resumed_progress = progress
        self.parts.load_state_dict(stored_parts(place / own_file(PARTS)))
        if self.stateful:
            load_position(self.train_dataset, place / own_file(POSITION))

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self._resumed_progress is not None:
            saved, self._resumed_progress = self._resumed_progress, None
            self._tr_loss.fill_(saved["running_loss"])
            self._total_loss_scalar = saved["total_loss"]
            self._globalstep_last_logged = saved["last_logged"]
            if saved["finished"] and not self._is_finished():
                raise TrainingError(
                    f"training ended at step {self.state.global_step} already, and its optimiser is not kept",
                    where=self.args.output_dir,
                    fix="give a longer training a directory of its own",
                )
        if self._out_of_patience() or self._is_finished() or self.time_used >= 1:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def load_best(self) -> bool:
        """Put the weights of the best evaluation into the model; False where there was none.

        Raises:
            TrainingError: their file changed after it was written.
        """
        if not self.best.sha256:
            return False
        if self._holds_best():
            return True
        place = Path(self.args.output_dir) / self.best.file
        if not place.is_file() or sha256_of(place) != self.best.sha256:
            raise TrainingError(
                "the best weights changed after they were written",
                where=str(place),
                fix="run the same command again: it goes on from what is whole",
            )
        load_trainable(self.model, place)
        return True

    def _out_of_patience(self) -> bool:
        return self.patience is not None and self.best.since >= self.patience

    def _is_finished(self) -> bool:
        """Whether the last step is taken, after which nobody needs the state of the optimiser."""
        return self.state.global_step >= self.state.max_steps

    def _holds_best(self) -> bool:
        """Whether the model has the weights of the best evaluation."""
        return bool(self.best.sha256) and self.best.step == self.state.global_step


def _tokens(batch: dict[str, Any]) -> int:
    """Tokens of a batch. A mask of the same shape tells which tokens are padding, of every choice where a row has
    several; a batch without one, whose packed documents are told apart by their positions, has none."""
    mask, ids = batch.get("attention_mask"), batch.get("input_ids")
    if mask is not None and mask.ndim == (2 if ids is None else ids.ndim):
        return int(mask.sum())
    return ids.numel() if ids is not None and "position_ids" in batch else 0
