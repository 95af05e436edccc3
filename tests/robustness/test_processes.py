"""Training on two processes, with gloo on one machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from luthier.registry import OBJECTIVES
from luthier.robustness.settings import AdvEmbedSettings
from tests.processes import of_each
from tests.robustness.tiny import MODELS, bert, trainer, weights

NAMES = ["adv_embed", "roast", "r3f", "smart", "free_lb", "r_drop", "adv_weight", "child_tuning_d", "wcons"]
# Adam would blow the rounding of tiny gradients up to whole steps.
SGD = {"optim": "sgd", "learning_rate": 0.1}


def trained(kind: str, objective: Any, folder: str, rows: int, **changes: Any) -> dict[str, torch.Tensor]:
    model: nn.Module = bert(0.1) if kind == "bert with dropout" else MODELS[kind]()
    made = trainer(model, objective, folder, per_device_train_batch_size=rows, **changes)
    made.train()
    return weights(made.model)


def without_noise() -> AdvEmbedSettings:
    """What two processes have to do exactly as one: nothing in it is drawn."""
    return AdvEmbedSettings(init_noise=0.0)


def _process(rank: int, folder: str) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    # Asked for where a run on several processes begins; the file below is what they meet at.
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found = {f"exact {kind}": trained(kind, without_noise(), folder, 2, **SGD) for kind in MODELS}
    found |= {name: trained("bert with dropout", OBJECTIVES.get(name)(), folder, 2) for name in NAMES}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    folder: Path = tmp_path_factory.mktemp("processes")
    of_each(2, _process, str(folder))
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("kind", MODELS)
def test_two_processes_do_as_one_with_the_whole_batch(kind: str, of_two: Any, tmp_path: Path) -> None:
    expected = trained(kind, without_noise(), str(tmp_path), 4, **SGD)
    start = weights(MODELS[kind]())
    assert max(float((expected[n] - start[n]).abs().max()) for n in start) > 1e-3
    for name, value in of_two[0][f"exact {kind}"].items():
        torch.testing.assert_close(value, expected[name], atol=2e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", NAMES)
def test_every_process_ends_with_the_same_weights(name: str, of_two: Any) -> None:
    start = weights(bert(0.1))
    one, two = (found[name] for found in of_two)
    assert all(torch.equal(one[n], two[n]) for n in one)
    assert any(not torch.equal(one[n], start[n]) for n in one)
