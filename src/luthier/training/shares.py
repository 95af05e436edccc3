"""What each process of a run has of its own while they train together, and what has to be alike in all of them."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from torch import nn
from torch.utils.data import DataLoader

from luthier.errors import TrainingError
from luthier.storage.ranks import agree, gathered, is_main, rank, world_size


def own_dataloader(trainer: Any) -> Any:
    """Batches of the rows that the trainer's sampler gives this process, on the CPU."""
    loader: Any = DataLoader(
        trainer.train_dataset,
        batch_size=trainer.args.per_device_train_batch_size,
        sampler=trainer._sampler,
        collate_fn=trainer.data_collator,
        pin_memory=trainer.args.dataloader_pin_memory,
    )
    return prepare_data_loader(loader, num_processes=1, process_index=0, put_on_device=False)


def own_file(name: str) -> str:
    """Name of this process's file in a checkpoint, where every process has one."""
    return name if is_main() else f"{rank()}-{name}"


def check_same_weights(model: nn.Module, step: int) -> None:
    """Compare the weights of all processes, which ought to take the very same steps.

    Raises:
        TrainingError: they differ.
    """
    if world_size() == 1:
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
