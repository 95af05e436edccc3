"""A process that has a part of a vocabulary; it imports no more than that takes."""

from __future__ import annotations

import torch
from torch import distributed

from luthier.language_modeling.chunked_loss import vocabulary_parallel_cross_entropy


def numbers(rows: int = 6, width: int = 5, size: int = 40) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    hidden = torch.randn(rows, width, requires_grad=True)
    weight, bias = torch.randn(size, width, requires_grad=True), torch.randn(size, requires_grad=True)
    return hidden, weight, bias, torch.randint(size, (rows,))


def of_a_part(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    hidden, weight, bias, targets = numbers()
    first, last = ((0, 17), (17, 40))[rank]
    own, offset = (x[first:last].detach().requires_grad_() for x in (weight, bias))
    found = vocabulary_parallel_cross_entropy(
        hidden, own, targets, offset, first=first, group=distributed.group.WORLD, chunk_elements=30
    )
    (found * torch.arange(1.0, 7.0)).sum().backward()
    torch.save([found.detach(), hidden.grad, own.grad, offset.grad], f"{folder}/{rank}.pt")
    distributed.destroy_process_group()
