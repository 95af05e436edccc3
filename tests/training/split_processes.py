"""What each of two processes does for `test_split`; it imports no more than that takes."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, distributed, nn

from luthier.language_modeling.rows import prediction_rows
from luthier.training.split import layers_of, own_part, put_together, split_over_processes, whole
from tests.language_modeling.models import CAUSAL, MASKED, VOCABULARY, made

MODELS = {name: (MASKED | CAUSAL)[name] for name in ("bert", "distilbert", "modernbert", "gpt2", "granite")}
RATE, CLIP, STEPS = 0.1, 0.5, 2


def batches() -> Tensor:
    """(steps, processes, passes of each, texts, tokens)"""
    return torch.randint(5, VOCABULARY, (STEPS, 2, 2, 2, 9), generator=torch.Generator().manual_seed(3))


def loss_of(model: nn.Module, ids: Tensor) -> Tensor:
    """The mean over the predicted tokens of a step's four passes, of one of them."""
    labels = torch.where(ids % 3 == 0, ids, -100)
    rows = prediction_rows(model, labels, shifted=False, inputs={"input_ids": ids})
    return rows.losses().sum() / (batches()[0] % 3 == 0).sum()


def evaluated(model: Any) -> float:
    """The loss of a pass without gradients, the same in both processes."""
    model.unshard()
    with torch.no_grad():
        loss = float(loss_of(model, batches()[0, 0, 0]))
    model.reshard()
    return loss


def trained(model: nn.Module, passes: Any, scale: float) -> tuple[list[float], list[float]]:
    """Norms of the gradients, and losses, of two steps of clipped SGD."""
    optimizer, norms, losses = torch.optim.SGD(model.parameters(), RATE), [], []
    for ids in passes:
        for one in ids:
            loss = scale * loss_of(model, one)
            loss.backward()
            losses.append(float(loss.detach()) / scale)
        norms.append(float(whole(nn.utils.clip_grad_norm_(model.parameters(), CLIP))))
        optimizer.step()
        optimizer.zero_grad()
    return norms, losses


def of_a_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found = {}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    for name in MODELS:
        model = made(MODELS[name])
        groups: list[dict[str, Any]] = [{"params": list(model.parameters())}]
        split = split_over_processes(model, layers_of(model), groups, torch.device("cpu"))
        held = sum(own_part(p).numel() for p in groups[0]["params"])
        scored = evaluated(split.eval())
        told = trained(split, batches()[:, rank], 2.0)
        put_together(split, model)
        weights = {n: p.detach() for n, p in model.named_parameters()} if rank == 0 else {}
        found[name] = (scored, *told, held, weights)
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()
