"""The divergence against a loop over rows and columns, its gradients against autograd, and its chunks against none."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.distillation.divergences import divergence

DIRECTIONS = ["forward", "reverse", "jsd"]


def logits(rows: int = 7, columns: int = 11, seed: int = 0, dtype: Any = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    both = 3 * torch.randn(2, rows, columns, generator=generator, dtype=torch.float64)
    return both[0].to(dtype).requires_grad_(), both[1].to(dtype).requires_grad_()


def by_hand(learner: Tensor, teacher: Tensor, temperature: float, direction: str) -> float:
    """In Python's numbers, one probability at a time."""

    def distribution(row: list[float]) -> list[float]:
        largest = max(row)
        shares = [math.exp((x - largest) / temperature) for x in row]
        return [share / sum(shares) for share in shares]

    def kl(p: list[float], q: list[float]) -> float:
        return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))

    total = 0.0
    for one, other in zip(learner.tolist(), teacher.tolist(), strict=True):
        q, p = distribution(one), distribution(other)
        middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        total += {"forward": kl(p, q), "reverse": kl(q, p), "jsd": (kl(p, middle) + kl(q, middle)) / 2}[direction]
    return total


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_values_are_those_of_the_equations(direction: Any, temperature: float) -> None:
    learner, teacher = logits()
    found = divergence(learner, teacher, temperature=temperature, direction=direction)
    assert float(found) == pytest.approx(by_hand(learner, teacher, temperature, direction), rel=1e-12)


def plain(learner: Tensor, teacher: Tensor, temperature: float, direction: str) -> Tensor:
    """By plain operations on all rows at once."""
    q, p = (learner / temperature).softmax(-1), (teacher / temperature).softmax(-1)
    middle = (p + q) / 2
    sums = {
        "forward": (p * (p / q).log()).sum(),
        "reverse": (q * (q / p).log()).sum(),
        "jsd": ((p * (p / middle).log()).sum() + (q * (q / middle).log()).sum()) / 2,
    }
    return sums[direction]


def test_autocast_changes_nothing() -> None:
    learner, teacher = logits(dtype=torch.float32)
    teacher = learner.detach() + 0.01 * teacher
    found = [divergence(learner, teacher)]
    with torch.autocast("cpu", torch.bfloat16):
        found.append(divergence(learner, teacher))
    gradients = [torch.autograd.grad(value, learner)[0] for value in found]
    assert torch.equal(*found)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradients_are_those_of_plain_operations(direction: Any, stop: bool) -> None:
    learner, teacher = logits()
    wanted = plain(learner, teacher.detach() if stop else teacher, 2.0, direction)
    expected = torch.autograd.grad(3 * wanted, [learner] if stop else [learner, teacher])
    found = divergence(learner, teacher, temperature=2.0, direction=direction, stop_gradient=stop)
    (3 * found).backward()
    torch.testing.assert_close(learner.grad, expected[0], rtol=1e-12, atol=1e-14)
    if stop:
        assert teacher.grad is None
    else:
        torch.testing.assert_close(teacher.grad, expected[1], rtol=1e-12, atol=1e-14)


def test_forward_gradient_is_the_difference_of_the_distributions() -> None:
    learner, teacher = logits()
    divergence(learner, teacher, temperature=2.0).backward()
    expected = ((learner / 2).softmax(-1) - (teacher / 2).softmax(-1)) / 2
    torch.testing.assert_close(learner.grad, expected.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_chunks_change_nothing(direction: Any) -> None:
    whole, one_row = [], []
    for chunk, kept in ((10**6, whole), (1, one_row)):
        learner, teacher = logits(rows=9)
        value = divergence(learner, teacher, direction=direction, chunk_elements=chunk, stop_gradient=False)
        value.backward()
        kept += [value.detach(), learner.grad, teacher.grad]
    for a, b in zip(whole, one_row, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


def test_the_largest_thing_that_is_made_is_a_chunk_and_a_gradient() -> None:
    """Of 64 rows over 4,096 tokens, worked on two rows at a time, nothing but the gradient has all rows."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Sizes(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.whole = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.numel() == 64 * 4096 and out._base is None:
                self.whole += func not in (torch.ops.aten.detach.default, torch.ops.aten.alias.default)
            return out

    learner, teacher = torch.randn(64, 4096, requires_grad=True), torch.randn(64, 4096)
    with Sizes() as sizes:
        value = divergence(learner, teacher, chunk_elements=2 * 4096)
    assert sizes.whole == 1
    value.backward()


def test_low_precision_logits_are_compared_in_float32() -> None:
    learner, teacher = logits(4, 30_000, dtype=torch.bfloat16)
    exact = divergence(learner.detach().double(), teacher.detach().double())
    found = divergence(learner, teacher)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(exact), rel=1e-5)
    found.backward()
    assert learner.grad is not None
    assert learner.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_sum_is_not_divided_by_the_vocabulary(direction: Any) -> None:
    """Doubling every column halves each probability and leaves the divergence as it is."""
    learner, teacher = logits()
    twice = divergence(learner.repeat(1, 2), teacher.repeat(1, 2), direction=direction)
    torch.testing.assert_close(twice, divergence(learner, teacher, direction=direction))


def test_no_rows_give_zero_with_a_gradient() -> None:
    learner, teacher = logits(rows=0)
    value = divergence(learner, teacher)
    value.backward()
    assert float(value) == 0.0
    assert learner.grad is not None
    assert learner.grad.shape == (0, 11)


def test_one_output_is_a_number_and_the_divergence_its_squared_error() -> None:
    learner, teacher = logits(columns=1)
    assert float(divergence(learner, teacher)) == pytest.approx(float((learner - teacher).square().sum()))


def test_rows_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the learner's rows \(7, 11\) and the teacher's \(7, 12\)"):
        divergence(logits()[0], logits(columns=12)[0])
