"""The trainer of a model that is split over the processes of a run."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from luthier.errors import WorkspaceError
from luthier.storage.done import CHECKPOINT
from luthier.storage.files import reporting_failed_writes
from luthier.storage.ranks import agree, from_main, rank
from luthier.training.shares import check_same_weights
from luthier.training.split import (
    give_freed_memory_back,
    layers_of,
    own_part,
    part_of,
    put_together,
    split_over_processes,
)
from luthier.training.trainer import LuthierTrainer


class SplitTrainer(LuthierTrainer):
    """`LuthierTrainer` for a model of which each process holds a part while it trains (`luthier.training.split`).

    A checkpoint has the whole weights, and of the optimiser's states a file for each process. When training ends, the
    main process has the whole model, on the CPU, and the others none.

    Raises:
        ModelError: the model's layers can't be found.
        TrainingError: the processes come with different weights.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.model: nn.Module
        self._layers = layers_of(self.model)
        # The Trainer then leaves placing the model and adding gradients up to the model.
        self.is_distributed_loading_by_transformers = True

    def _defer_fsdp_gradient_reduction(self) -> AbstractContextManager[None]:
        """Of accumulated passes each one's gradient goes to the parts at once: to wait would take it whole."""
        return nullcontext()

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        """The parts are moved, and not the whole."""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        model = self.model
        check_same_weights(model, self.state.global_step)
        if self.args.device.type == "cpu":
            give_freed_memory_back()
        self.model = self.model_wrapped = split_over_processes(model, self._layers, self._groups, self.args.device)
        result = super().train(*args, **kwargs)
        put_together(self.model, model)
        self.model = self.model_wrapped = model
        return result

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        # What is outside layers stays whole over all passes: backward passes, of which there are none, would split it.
        split: Any = self.model
        split.unshard()
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            split.reshard()

    @property
    def _waiting(self) -> Path:
        """Where the processes put their parts of a checkpoint, before the main one takes them into it."""
        return Path(self.args.output_dir) / f".writing-{CHECKPOINT}parts"

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        if not self._is_finished():
            from_main(partial(shutil.rmtree, self._waiting, ignore_errors=True))
            agree(self._write_own_part())
        super()._save_checkpoint(model, trial)

    def _write_own_part(self) -> WorkspaceError | None:
        stored = self.optimizer.state_dict()
        stored["state"] = {i: {k: own_part(v) for k, v in state.items()} for i, state in stored["state"].items()}
        place = self._waiting / str(rank())
        try:
            with reporting_failed_writes(place):
                place.mkdir(parents=True)
                torch.save(stored, place / OPTIMIZER_NAME)
        except WorkspaceError as error:
            return error
        return None

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        self._waiting.rename(Path(output_dir) / "parts")
        torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        place = Path(checkpoint or "") / "parts" / str(rank()) / OPTIMIZER_NAME
        if checkpoint is None or not place.exists():
            return
        stored = torch.load(place, weights_only=True, map_location="cpu")
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for number, state in stored["state"].items():
            stored["state"][number] = {k: part_of(parameters[number], v) for k, v in state.items()}
        self.optimizer.load_state_dict(stored)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))
