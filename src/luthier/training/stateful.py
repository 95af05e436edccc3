"""Training rows that know where they are, so that a stopped run goes on without reading again what it has seen.

Any iterable data set with `state_dict` and `load_state_dict` as `StatefulRows` describes them can be trained on: give
it to `TrainingRows` without a sampler. Its state is part of every checkpoint, one for each process of the run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch.utils.data import DataLoader, IterableDataset
from transformers import TrainerCallback

from luthier.errors import TrainingError


@runtime_checkable
class StatefulRows(Protocol):
    """A `torch.utils.data.IterableDataset` of encoded rows that gives its position and takes it back.

    Iterating gives the rows of this process, one after another, and does not end: a source that ends is begun again,
    in another order if wanted. Under several processes (`luthier.storage.ranks`: `rank`, `world_size`) each gets its
    own data set, which gives the rows of that process alone, `batch_size` of them for every pass; a run of P
    processes equals one process with P times the batch where process p gives rows p * batch_size up to
    (p + 1) * batch_size of every P * batch_size rows. What is drawn at random comes from generators of the data set's
    own, never from torch's, numpy's or Python's global ones.

    A data set that makes its rows ready in other processes says in `workers` in how many, and ends them in `close`; the
    setting `workers` above 0 is refused for one that does not. `luthier.data.batches.workers.InOrder` does it with the
    order, and the state, of the process that trains.
    """

    def state_dict(self) -> dict[str, Any]:
        """All that decides on the rows that come after the one that was given out last: the place in the source, the
        contents of buffers, the states of generators, the number of the pass over the source.

        It is asked for between two rows, at every checkpoint, in each process, and holds dicts, lists, tuples, strings,
        bytes, numbers, None and tensors, so that `torch.load(weights_only=True)` reads it. It is a copy, or stays as
        it is while the rows go on.
        """
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a state of the same process of an equal run, while nothing iterates: the next `iter` gives the very
        rows that would have come, bit for bit, and reads nothing again, or no more than a number of rows that does not
        grow with the position. What was taken before any row was given leads back to the first one."""
        ...


def is_stateful(rows: Any) -> TypeGuard[StatefulRows]:
    """Whether training rows come one after another, give their position and take it back."""
    return isinstance(rows, IterableDataset) and isinstance(rows, StatefulRows)


def workers_of(rows: StatefulRows) -> int:
    """How many processes make the rows ready, beside the one that trains."""
    return int(getattr(rows, "workers", 0))


def end_workers(rows: Any) -> None:
    """End the processes that make stateful rows ready; those of other rows end with each pass."""
    if is_stateful(rows) and workers_of(rows):
        rows.close()  # type: ignore[attr-defined]


def stateful_dataloader(trainer: Any) -> DataLoader[Any]:
    """Batches of stateful rows, on the CPU. None is made before it is asked for, so that the state of the rows is the
    one after the last batch that was trained on; and none of torch's random numbers is drawn for it."""
    return DataLoader(
        trainer.train_dataset,
        batch_size=trainer.args.per_device_train_batch_size,
        collate_fn=trainer.data_collator,
        pin_memory=trainer.args.dataloader_pin_memory,
        generator=torch.Generator(),
    )


def save_position(rows: StatefulRows, file: Path) -> None:
    """Write the state of the rows."""
    torch.save(rows.state_dict(), file)


def load_position(rows: StatefulRows, file: Path) -> None:
    """Let the rows go on where a checkpoint was written.

    Raises:
        TrainingError: the checkpoint does not say where.
    """
    if not file.exists():
        raise TrainingError(
            "the checkpoint does not say where its training rows go on",
            where=str(file),
            fix="start the run afresh in another directory",
        )
    rows.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))


class ShareOfSteps(TrainerCallback):
    """Counts the epochs of rows without an end as the share of all steps, in a run that was continued as well: the
    Trainer counts from where it began to iterate."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.epoch = state.global_step / state.max_steps
