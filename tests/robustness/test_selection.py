from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import Parameter

from luthier.errors import TrainingError
from luthier.robustness.selection import MaskPolicy, Selection, importance_scores, keep_probability, kept_fraction
from tests.processes import of_each


def parameters(*shapes: tuple[int, ...]) -> list[Parameter]:
    return [Parameter(torch.zeros(*s, dtype=torch.float64)) for s in shapes]


def selection(policy: MaskPolicy, count: int = 20_000, **kwargs: Any) -> Selection:
    made = Selection(parameters((count // 2, 1), (count // 2,)), policy, **kwargs)
    made.observe(gradients(made))
    return made


def gradients(made: Selection) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in made.parameters]


def test_scores_are_ranks_over_all_entries_with_stable_ties() -> None:
    importance = torch.tensor([0.3, 0.0, 0.0, 9.0, 0.3], dtype=torch.float64)
    wanted = np.argsort(np.argsort(importance.numpy(), kind="stable"), kind="stable") / 4
    assert importance_scores(importance).tolist() == wanted.tolist() == [0.5, 0.0, 0.25, 1.0, 0.75]


def test_probabilities_are_the_logistic_of_the_rank() -> None:
    importance = torch.rand(101, dtype=torch.float64)
    s = importance.argsort().argsort().double() / 100
    wanted = 1 / (1 + torch.exp(-2 * 10.0 * (s - 0.9)))
    torch.testing.assert_close(MaskPolicy().probabilities(importance), wanted, atol=1e-15, rtol=1e-12)
    torch.testing.assert_close(keep_probability(s, 0.9, 10.0), wanted, atol=1e-15, rtol=1e-12)


@pytest.mark.parametrize(("alpha", "beta", "share", "largest"), [(0.9, 10.0, 0.106, 6.6e7), (0.6, 1.0, 0.454, 4.3)])
def test_kept_fraction_and_largest_factor_are_those_of_the_page(
    alpha: float, beta: float, share: float, largest: float
) -> None:
    assert kept_fraction(alpha, beta) == pytest.approx(share, abs=5e-4)
    closed = (math.log1p(math.exp(2 * beta * (1 - alpha))) - math.log1p(math.exp(-2 * beta * alpha))) / (2 * beta)
    assert kept_fraction(alpha, beta) == pytest.approx(closed, rel=1e-12)
    p = MaskPolicy(alpha=alpha, beta=beta).probabilities(torch.rand(100_000, dtype=torch.float64))
    assert float(p.mean()) == pytest.approx(share, abs=5e-4)
    assert float(1 / p.min()) == pytest.approx(largest, rel=0.02)


def test_importance_is_the_mean_of_squared_step_gradients() -> None:
    made = Selection(parameters((2, 2), (3,)), MaskPolicy())
    drawn = [[torch.randn(2, 2, dtype=torch.float64), torch.randn(3, dtype=torch.float64)] for _ in range(4)]
    for g in drawn:
        made.observe([2.0 * g[0], 2.0 * g[1]], scale=2.0)
    wanted = sum(torch.cat([g[0].reshape(-1), g[1]]) ** 2 for g in drawn) / 4
    torch.testing.assert_close(made.importance, wanted)


def test_the_release_leaves_out_the_first_batch_but_counts_it() -> None:
    made = Selection(parameters((3,)), MaskPolicy(), skip_first=True)
    for value in (5.0, 1.0, 2.0):
        made.observe([torch.full((3,), value, dtype=torch.float64)])
    assert made.importance.tolist() == [(1 + 4) / 3] * 3
    made.renew()
    made.observe([torch.ones(3, dtype=torch.float64)])
    assert made.importance.tolist() == [0, 0, 0]


def test_a_round_whose_only_batch_is_left_out_keeps_the_ranks_of_before() -> None:
    made = Selection(parameters((3,)), MaskPolicy("topk", alpha=0.5), skip_first=True)
    made.observe([torch.ones(3, dtype=torch.float64)])
    with pytest.raises(TrainingError, match="`skip_first_batch` leaves out"):
        made.renew()
    made.observe([torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)])
    made.renew()
    ranks = made.probability
    made.observe([torch.tensor([9.0, 1.0, 9.0], dtype=torch.float64)])
    made.renew()
    assert torch.equal(made.probability, ranks)


def test_missing_gradients_count_as_zeros() -> None:
    made = Selection(parameters((2,), (2,)), MaskPolicy())
    made.observe([None, torch.ones(2, dtype=torch.float64)])
    assert made.importance.tolist() == [0, 0, 1, 1]


def test_half_precision_gradients_are_squared_in_float32() -> None:
    made = Selection([Parameter(torch.zeros(3, dtype=torch.bfloat16))], MaskPolicy())
    made.observe([torch.full((3,), 1e-20, dtype=torch.bfloat16)])
    assert made.importance.dtype == torch.float32
    assert float(made.importance[0]) == pytest.approx(1e-40, rel=0.02)


def test_masked_gradients_have_the_full_gradient_as_mean() -> None:
    made = selection(MaskPolicy(alpha=0.6, beta=1.0), count=200)
    made.renew()
    total = torch.zeros(200, dtype=torch.float64)
    draws = 4000
    for number in range(draws):
        made.draw(number)
        total += torch.cat([f.reshape(-1) for f in made.factors()])
    deviation = ((1 / made.probability - 1) / draws).sqrt()
    assert float(((total / draws - 1).abs() / deviation).max()) < 5


def test_masking_multiplies_by_mask_over_probability() -> None:
    made = selection(MaskPolicy(alpha=0.6, beta=1.0))
    made.renew()
    for p in made.parameters:
        p.grad = torch.full_like(p, 3.0)
    made.mask_gradients()
    flat = torch.cat([p.grad.reshape(-1) for p in made.parameters])
    torch.testing.assert_close(flat, 3.0 * made.mask / (made.probability + 1e-12), rtol=1e-15, atol=0)
    assert float(made.mask.double().mean()) == pytest.approx(kept_fraction(0.6, 1.0), abs=0.01)


def test_scale_cap_and_no_scale() -> None:
    for policy, largest in (
        (MaskPolicy(alpha=0.6, beta=1.0, scale_cap=2.0), 2.0),
        (MaskPolicy(unbiased_scale=False), 1.0),
    ):
        made = selection(policy)
        made.renew()
        factors = torch.cat([f.reshape(-1) for f in made.factors()])
        assert float(factors.max()) == largest
        assert set((factors == 0).tolist()) == {True, False}


@pytest.mark.parametrize("rule", ["bernoulli", "topk", "random", "reversed"])
def test_all_rules_keep_the_same_share_and_prefer_what_they_say(rule: Any) -> None:
    made = selection(MaskPolicy(rule, alpha=0.6, beta=3.0))
    importance = torch.cat([g.reshape(-1) ** 2 for g in gradients(made)])
    made.renew()
    assert float(made.mask.double().mean()) == pytest.approx(kept_fraction(0.6, 3.0), abs=0.02)
    important = importance > importance.median()
    gap = float(made.mask[important].double().mean() - made.mask[~important].double().mean())
    low, high = {"bernoulli": (0.3, 1), "topk": (0.7, 1), "random": (-0.05, 0.05), "reversed": (-1, -0.3)}[rule]
    assert low < gap < high


def test_topk_keeps_the_very_largest() -> None:
    made = Selection(parameters((10,)), MaskPolicy("topk", keep=0.3, unbiased_scale=False))
    made.observe([torch.arange(10, dtype=torch.float64)])
    made.renew()
    assert made.mask.tolist() == [False] * 7 + [True] * 3


def test_masks_depend_on_seed_round_and_number_only() -> None:
    first, again, other = (selection(MaskPolicy(), seed=s) for s in (1, 1, 2))
    for made in (first, again, other):
        made.renew()
    assert torch.equal(first.mask, again.mask)
    assert not torch.equal(first.mask, other.mask)
    before = first.mask.clone()
    torch.manual_seed(99)
    first.draw(1)
    assert not torch.equal(first.mask, before)
    first.draw(0)
    assert torch.equal(first.mask, before)


def test_state_brings_back_probabilities_mask_and_running_sums() -> None:
    made = selection(MaskPolicy())
    made.renew()
    made.draw(7)
    # Some sums, divided by 7 and multiplied again, would not be what they were.
    for number in range(7):
        made.observe(gradients(made), scale=1 + number)
    new = Selection(parameters((10_000, 1), (10_000,)), MaskPolicy())
    new.load_state_dict(made.state_dict())
    assert torch.equal(new.mask, made.mask)
    for one in (made, new):
        one.observe(gradients(one))
    assert torch.equal(new.importance, made.importance)
    for one in (made, new):
        one.renew()
    assert torch.equal(new.mask, made.mask)
    with pytest.raises(ValueError, match="entries"):
        Selection(parameters((3,)), MaskPolicy()).load_state_dict(made.state_dict())


def test_nothing_to_mask_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to mask"):
        Selection([], MaskPolicy())


def _process(rank: int, folder: str) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    made = Selection([Parameter(torch.zeros(6))], MaskPolicy(), seed=4)
    made.observe([torch.tensor([1.0, 2, 3, 4, 5, 6]) if rank == 0 else torch.tensor([9.0, 0, 0, 0, 0, 0])])
    importance = made.importance
    made.renew()
    torch.save({"importance": importance, "mask": made.mask}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_processes_average_importance_and_share_the_mask(tmp_path: Any) -> None:
    of_each(2, _process, str(tmp_path))
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert one["importance"].tolist() == [41.0, 2.0, 4.5, 8.0, 12.5, 18.0]
    assert torch.equal(one["importance"], two["importance"])
    assert torch.equal(one["mask"], two["mask"])


def test_entries_that_are_hardly_ever_kept_are_kept_no_more_often() -> None:
    # In single precision a draw is 0 once in 2^24 times, sixty times as often as these entries are to be kept.
    made = Selection([Parameter(torch.empty(1 << 24))], MaskPolicy("random", keep=1e-9), seed=0)
    made.renew()
    assert made.mask.sum() == 0
