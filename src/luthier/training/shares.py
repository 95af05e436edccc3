"""What each process of a run has of its own while they train together, and what has to be alike in all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from accelerate.data_loader import prepare_data_loader
from torch import nn
from torch.utils.data import DataLoader

from luthier.data.batches.workers import worker_options
from luthier.errors import TrainingError
from luthier.storage.ranks import agree, gathered, is_main, rank, world_size
from luthier.training.split import is_split


def own_dataloader(trainer: Any) -> Any:
    """Batches of the rows that the trainer's sampler gives this process, on the CPU, made by workers if asked."""
    loader: Any = DataLoader(
        trainer.train_dataset,
        batch_size=trainer.args.per_device_train_batch_size,
        sampler=trainer._sampler,
        collate_fn=trainer.data_collator,
        pin_memory=trainer.args.dataloader_pin_memory,
        **worker_options(trainer.args.dataloader_num_workers),
    )
    return prepare_data_loader(loader, num_processes=1, process_index=0, put_on_device=False)


def average_gradients(model: nn.Module) -> None:
    """Give every process the mean of all processes' gradients, as the wrapper of distributed runs does for one model
    with one pass. A parameter that none of them has a gradient of keeps none."""
    trained = [p for p in model.parameters() if p.requires_grad]
    found = torch.tensor([p.grad is not None for p in trained], dtype=torch.uint8, device=trained[0].device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    moved = [p for p, there in zip(trained, found.tolist(), strict=True) if there]
    groups: dict[Any, list[nn.Parameter]] = {}
    for p in moved:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        groups.setdefault((p.grad.device, p.grad.dtype), []).append(p)
    for parameters in groups.values():
        flat = torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None])
        dist.all_reduce(flat)
        flat /= world_size()
        for p, mean in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = mean.view_as(p)


def own_file(name: str) -> str:
    """Name of this process's file in a checkpoint, where every process has one."""
    return name if is_main() else f"{rank()}-{name}"


def own_files(write: Callable[[Path], None]) -> dict[str, bytes]:
    """What `write` puts into a folder: name of a file -> its content."""
    with TemporaryDirectory() as name:
        write(Path(name))
        return {path.name: path.read_bytes() for path in Path(name).iterdir()}


def stored_parts(file: Path) -> dict[str, Any]:
    """What a checkpoint says of the parts of an objective; one without any has no file."""
    if not file.exists():
        return {"parts": [], "state": {}}
    stored: dict[str, Any] = torch.load(file, weights_only=True, map_location="cpu")
    return stored


def check_same_processes(processes: int, place: Path) -> None:
    """Compare the number of processes that wrote a checkpoint with that of the run that goes on from it: each has a
    state of its own in there, and rows of its own in every step.

    Raises:
        TrainingError: they are not as many, in every process.
    """
    if processes == world_size():
        return
    start = f"`torchrun --nproc_per_node {processes} -m luthier.cli run`" if processes > 1 else "`luthier run` alone"
    agree(
        TrainingError(
            f"the checkpoint is of a run of {processes} processes, and this one has {world_size()}",
            where=str(place),
            fix=f"go on with as many: start it with {start}; or start afresh in another directory",
        )
    )


def check_same_weights(model: nn.Module, step: int) -> None:
    """Compare the weights of all processes, which ought to take the very same steps; of a model that is split over
    them no process has what another one has.

    Raises:
        TrainingError: they differ.
    """
    if world_size() == 1 or is_split(model):
        return
    sums = torch.stack([p.detach().double().sum() for p in model.parameters() if p.requires_grad]).tolist()
    if any(other != sums for other in gathered(sums)):
        agree(
            TrainingError(
                f"the processes have different weights at step {step}",
                fix="start the run with `luthier run`, without torchrun: what is drawn at random in its method or "
                "objective is not drawn alike by every process",
            )
        )
