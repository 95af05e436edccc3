"""What large vocabularies need: gradients added in place, a normaliser from drawn tokens, a vocabulary in parts."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import multiprocessing, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from luthier.language_modeling import causal_lm_loss, chunked_cross_entropy, masked_lm_loss
from luthier.language_modeling.in_place import looked_up, lookup_in_place
from luthier.language_modeling.sampled_loss import log_share, log_uniform, sampled_cross_entropy
from tests.language_modeling.models import CAUSAL, MASKED, VOCABULARY, made
from tests.language_modeling.parted import numbers, of_a_part


def batch_of(masked: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    ids = torch.randint(5, VOCABULARY, (3, 10))
    labels = torch.where(torch.rand(3, 10) < 0.4, ids, -100) if masked else ids.clone()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


@pytest.mark.parametrize("name", [*MASKED, *CAUSAL])
def test_gradients_in_place_are_the_gradients(name: str):
    masked = name in MASKED
    model = made(MASKED[name] if masked else CAUSAL[name])
    loss_of, found = masked_lm_loss if masked else causal_lm_loss, []
    for in_place in (False, True):
        one = copy.deepcopy(model)
        for _ in range(2):  # the second is added to the first
            loss_of(one, batch_of(masked), in_place=in_place).backward()
        found.append({name: p.grad for name, p in one.named_parameters()})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


class Matrices(TorchDispatchMode):
    """Notes where the memory of all tensors of one shape lies."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.places: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        found = out if isinstance(out, tuple | list) else (out,)
        self.places |= {one.data_ptr() for one in found if isinstance(one, torch.Tensor) and one.shape == self.shape}
        return out


@pytest.mark.parametrize("in_place", [False, True])
def test_no_second_matrix_of_the_size_of_the_embeddings(in_place: bool):
    torch.manual_seed(0)
    weight = torch.randn(4096, 8, requires_grad=True)
    weight.grad = torch.zeros_like(weight)
    tokens = torch.randint(4096, (20,))
    with Matrices((4096, 8)) as seen:
        hidden = looked_up(weight, tokens, in_place=in_place)
        losses = chunked_cross_entropy(hidden, weight, tokens, chunk_elements=8192, in_place=in_place)
        losses.sum().backward()
    seen.places -= {weight.data_ptr(), weight.grad.data_ptr()}
    assert bool(seen.places) == (not in_place)


def test_padding_gets_no_gradient_in_place_either():
    table = nn.Embedding(9, 4, padding_idx=2)
    with lookup_in_place(table):
        out = table(torch.tensor([[1, 2, 1], [2, 8, 0]]))
    assert "forward" not in vars(table)
    (out * torch.rand_like(out)).sum().backward()
    assert table.weight.grad is not None
    assert not table.weight.grad[2].any()
    assert bool(table.weight.grad[[0, 1, 8]].any(dim=1).all())


def test_frozen_and_odd_embeddings_are_left_to_autograd():
    scaled = nn.Embedding(9, 4, scale_grad_by_freq=True)
    frozen = nn.Embedding(9, 4).requires_grad_(False)
    for table in (scaled, frozen, None):
        with lookup_in_place(table):
            assert table is None or "forward" not in vars(table)
    hidden, fixed = torch.randn(3, 4, requires_grad=True), torch.randn(9, 4)
    chunked_cross_entropy(hidden, fixed, torch.tensor([1, 2, 3]), in_place=True).sum().backward()
    assert fixed.grad is None
    assert hidden.grad is not None


def test_draws_are_log_uniform():
    torch.manual_seed(0)
    size, count = 50, 200_000
    shares = torch.bincount(log_uniform(count, size, torch.device("cpu")), minlength=size) / count
    wanted = torch.tensor([math.log((k + 2) / (k + 1)) / math.log(size + 1) for k in range(size)])
    assert math.isclose(float(wanted.sum()), 1.0, rel_tol=1e-5)
    torch.testing.assert_close(log_share(torch.arange(size), size).exp(), wanted)
    assert float((shares - wanted).abs().max()) < 0.005


def test_a_sampled_loss_is_its_equation():
    hidden, weight, bias, targets = numbers()
    torch.manual_seed(5)
    found = sampled_cross_entropy(hidden, weight, targets, bias, samples=30)
    torch.manual_seed(5)
    drawn = log_uniform(30, len(weight), hidden.device).tolist()
    logits = (hidden @ weight.T + bias).tolist()
    for row, target in enumerate(targets.tolist()):
        total = math.exp(logits[row][target])
        for one in drawn:
            if one != target:
                share = math.log((one + 2) / (one + 1)) / math.log(len(weight) + 1)
                total += math.exp(logits[row][one]) / share / 30
        assert math.isclose(float(found[row]), math.log(total) - logits[row][target], rel_tol=1e-4)


def test_many_draws_give_the_loss_and_its_gradient():
    hidden, weight, bias, targets = numbers()
    exact = F.cross_entropy(hidden @ weight.T + bias, targets, reduction="none")
    expected = torch.autograd.grad(exact.sum(), (hidden, weight, bias))
    torch.manual_seed(1)
    found = sampled_cross_entropy(hidden, weight, targets, bias, samples=400_000)
    torch.testing.assert_close(found, exact, atol=0.02, rtol=0.0)
    for one, other in zip(torch.autograd.grad(found.sum(), (hidden, weight, bias)), expected, strict=True):
        torch.testing.assert_close(one, other, atol=0.05, rtol=0.0)
    torch.manual_seed(1)
    sampled_cross_entropy(hidden, weight, targets, bias, samples=400_000, in_place=True).sum().backward()
    torch.testing.assert_close(weight.grad, expected[1], atol=0.05, rtol=0.0)


def test_two_processes_with_half_the_vocabulary_each_equal_one(tmp_path: Path):
    multiprocessing.spawn(of_a_part, (str(tmp_path),), nprocs=2)
    hidden, weight, bias, targets = numbers()
    expected = chunked_cross_entropy(hidden, weight, targets, bias)
    (expected * torch.arange(1.0, 7.0)).sum().backward()
    parts: list[Any] = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for losses, of_hidden, _, _ in parts:
        torch.testing.assert_close(losses, expected.detach(), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(of_hidden, hidden.grad, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(torch.cat([p[2] for p in parts]), weight.grad, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(torch.cat([p[3] for p in parts]), bias.grad, atol=1e-6, rtol=1e-6)
