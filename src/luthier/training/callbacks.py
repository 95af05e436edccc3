"""What happens around the optimiser's steps: when to checkpoint, how to stop, what is logged and shown."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import has_length

from luthier.progress import Track, tell
from luthier.storage.jsonlines import JsonLog
from luthier.storage.ranks import gathered, world_size


class StopRequest:
    """Set by SIGTERM or Ctrl-C; a second Ctrl-C stops at once, without a checkpoint."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._agreed = False

    def __bool__(self) -> bool:
        return self._agreed if world_size() > 1 else self.signal is not None

    def agree(self) -> None:
        """Stop every process of the run where one was asked to; between two calls no process changes its mind."""
        if world_size() > 1:
            self._agreed = any(gathered(self.signal is not None))

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Take SIGTERM and SIGINT over for this block. Outside the main thread signals stay as they are."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        earlier = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def _receive(self, number: int, _frame: Any) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


class EvaluateCallback(TrainerCallback):
    """Asks for an evaluation every so many steps and at the last one, or at every epoch's end, or never."""

    def __init__(self, every: int | str) -> None:
        self.every = every

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if isinstance(self.every, int) and (
            state.global_step % self.every == 0 or state.global_step >= state.max_steps
        ):
            control.should_evaluate = True
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        control.should_evaluate = control.should_evaluate or self.every == "epoch"
        return control


class CheckpointCallback(TrainerCallback):
    """Asks for a checkpoint every so many steps, at every epoch's end, and when the run is asked to stop.

    A checkpoint due at the last step of an epoch, or of all, waits for the evaluation there: a run that continues from
    it starts with the next epoch, or has nothing left to do, and would otherwise miss that evaluation.
    """

    def __init__(self, every: int | str, stop: StopRequest) -> None:
        self.every, self.stop, self._due, self._steps_per_epoch = every, stop, False, 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.max_steps > 0 and not has_length(kwargs["train_dataloader"]):
            self._steps_per_epoch = args.max_steps
            return
        batches = len(kwargs["train_dataloader"])
        self._steps_per_epoch = max(1, math.ceil(batches / args.gradient_accumulation_steps))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        self.stop.agree()
        due = bool(self.stop) or (isinstance(self.every, int) and state.global_step % self.every == 0)
        if self._ends_epoch(state):
            self._due = due
        elif due:
            control.should_save = True
        if self.stop:
            control.should_training_stop = True
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if self._ends_epoch(state):
            control.should_save = self._due or self.every == "epoch"
        elif self.stop:
            control.should_evaluate = control.should_save = control.should_log = False
        self._due = False
        return control

    def _ends_epoch(self, state: TrainerState) -> bool:
        return state.global_step % self._steps_per_epoch == 0 or state.global_step >= state.max_steps

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if self.stop and state.global_step >= state.max_steps:
            control.should_save = True
        return control


class TimeLimitCallback(TrainerCallback):
    """Ends training when its time is up, after one more evaluation.

    Args:
        trainer: a `LuthierTrainer`, which knows how much of its time is used.
        evaluate_every: as in the settings; with `epoch`, the end of training is an epoch's end.
    """

    def __init__(self, trainer: Any, evaluate_every: int | str) -> None:
        self.trainer, self.by_steps = trainer, isinstance(evaluate_every, int)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if self.trainer.time_used >= 1:
            control.should_training_stop = True
            control.should_evaluate = control.should_evaluate or self.by_steps
        return control


class LogCallback(TrainerCallback):
    """Appends what the Trainer reports to the run's log."""

    def __init__(self, log: JsonLog) -> None:
        self.log = log

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        event = "resume" if state.global_step else "start"
        self.log.write(event, step=state.global_step, epoch=state.epoch or 0.0, max_steps=state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "train_runtime" in logs:
            return
        kept = {k.removeprefix("eval_"): v for k, v in logs.items() if isinstance(v, int | float) and k != "epoch"}
        event = "evaluate" if any(k.startswith("eval_") for k in logs) else "log"
        self.log.write(event, step=state.global_step, epoch=state.epoch, **kept)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.log.write("checkpoint", step=state.global_step, epoch=state.epoch)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.log.write("end", step=state.global_step, epoch=state.epoch)


class ProgressCallback(TrainerCallback):
    """Moves a progress bar, shows the last training loss and validation score behind it, and says from where a stopped
    training goes on."""

    def __init__(self, description: str) -> None:
        self.description = description
        self._track: Track | None = None
        self._notes: dict[str, str] = {}
        self._seconds: tuple[Callable[[], float], float] | None = None

    def count_seconds(self, clock: Callable[[], float], limit: float) -> None:
        """Show the seconds that a clock tells, of so many, in place of steps."""
        self._seconds = clock, limit

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step:
            of = "" if self._seconds else f" of {state.max_steps:,}"
            tell(f"{self.description}: continues at step {state.global_step:,}{of}, from its newest whole checkpoint")
        self._track = Track(self.description, round(self._seconds[1]) if self._seconds else state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._show(state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        for name, value in (logs or {}).items():
            if name == "loss":
                self._notes["training loss"] = f"{value:.3f}"
            elif name.startswith("eval_validation/") and not name.endswith("loss"):
                self._notes[f"validation {name.rpartition('/')[2]}"] = f"{value:.3f}"
        self._show(state)

    def close(self) -> None:
        if self._track is not None:
            self._track.close()

    def _show(self, state: TrainerState) -> None:
        if self._track is not None:
            done = min(self._seconds[0](), self._seconds[1]) if self._seconds else state.global_step
            self._track.update(done, ", ".join(f"{k} {v}" for k, v in self._notes.items()))
