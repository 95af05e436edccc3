"""AdamW that updates rows late, against AdamW that updates all of them at every step."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from luthier.training.optimizer import adamw
from luthier.training.row_adamw import RowAdamW
from luthier.training.row_gradient import (
    bring_up_to_date,
    collect_by_rows,
    finish_collecting,
    holders_of_gradients,
    row_gradient_of,
)

ROWS, WIDTH = 40, 4


def pair(betas: tuple[float, float], dtype: torch.dtype, eps: float = 1e-8) -> tuple[Any, Any]:
    """A matrix under AdamW, and its copy under AdamW by rows; each beside a vector without decay."""
    args: Any = SimpleNamespace(learning_rate=1e-2, adam_beta1=betas[0], adam_beta2=betas[1], adam_epsilon=eps)
    torch.manual_seed(0)
    start, made = torch.randn(ROWS, WIDTH, dtype=dtype), []
    for by_rows in (False, True):
        matrix, vector = nn.Parameter(start.clone()), nn.Parameter(torch.ones(3, dtype=dtype))
        if by_rows:
            collect_by_rows(matrix)
        groups = [
            {"params": [matrix], "lr": 1e-2, "weight_decay": 0.1},
            {"params": [vector], "lr": 1e-2, "weight_decay": 0.0},
        ]
        made.append(SimpleNamespace(matrix=matrix, vector=vector, optimizer=adamw(groups, args, scaled=False)))
    assert type(made[1].optimizer) is RowAdamW
    return made[0], made[1]


def gradients(step: int, dtype: torch.dtype, scale: float) -> tuple[Tensor, Tensor]:
    """Some rows, low ones often, some of them twice, and a gradient of each."""
    draw = torch.Generator().manual_seed(step)
    ids = (torch.rand(6, generator=draw) ** 3 * ROWS).long()
    return ids, scale * torch.randn(6, WIDTH, generator=draw, dtype=torch.float64).to(dtype)


def rate(step: int, steps: int) -> float:
    """Warm-up from 0, then a linear fall."""
    return 1e-2 * min(step / 10, (steps - step) / (steps - 10))


def take_steps(one: Any, first: int, last: int, *, steps: int, scale: float = 1.0) -> None:
    for step in range(first, last):
        ids, gradient = gradients(step, one.matrix.dtype, scale)
        for group in one.optimizer.param_groups:
            group["lr"] = rate(step, steps)
        one.vector.grad = torch.full_like(one.vector, scale * step)
        if (rows := row_gradient_of(one.matrix)) is None:
            one.matrix.grad = torch.zeros_like(one.matrix).index_add_(0, ids, gradient)
        else:
            rows.reading(ids)
            rows.add(ids, gradient)
        one.optimizer.step()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 5e-6)], ids=["double", "single"]
)
@pytest.mark.parametrize("scale", [1.0, 1e-8], ids=["large", "like epsilon"])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.95), (0.0, 0.9)], ids=str)
def test_rows_end_where_a_step_through_all_of_them_takes_them(
    betas: tuple[float, float], scale: float, dtype: torch.dtype, tolerance: float
):
    dense, late = pair(betas, dtype)
    for one in (dense, late):
        take_steps(one, 0, 60, steps=60, scale=scale)
    untouched = late.optimizer.state[late.matrix]["reached"] < 50
    assert 5 < int(untouched.sum()) < ROWS
    assert not torch.equal(late.matrix[untouched], dense.matrix[untouched])
    bring_up_to_date([late.matrix])
    torch.testing.assert_close(late.matrix, dense.matrix, atol=tolerance, rtol=0.0)
    torch.testing.assert_close(late.vector, dense.vector, atol=0.0, rtol=0.0)
    for name in ("exp_avg", "exp_avg_sq"):
        found, expected = late.optimizer.state[late.matrix][name], dense.optimizer.state[dense.matrix][name]
        torch.testing.assert_close(found, expected, atol=tolerance * scale, rtol=1e-5)


def test_what_is_read_has_the_value_of_the_step_whatever_was_brought_up_before():
    dense, late = pair((0.9, 0.999), torch.float64)
    rows = row_gradient_of(late.matrix)
    assert rows is not None
    for step in range(1, 30):
        for one in (dense, late):
            take_steps(one, step, step + 1, steps=400)
        ids = torch.tensor([[step, 3], [39, step]])
        rows.reading(ids)
        torch.testing.assert_close(late.matrix[ids], dense.matrix[ids], atol=1e-14, rtol=0.0)
        if step == 20:
            bring_up_to_date([late.matrix])


def test_what_a_gradient_still_moves_is_left_out_once_it_is_below_the_resolution():
    dense, late = pair((0.9, 0.999), torch.float32)
    for one in (dense, late):
        take_steps(one, 0, 10, steps=5000)
        for step in range(10, 400):
            one.optimizer.param_groups[0]["lr"] = rate(step, 5000)
            if one is dense:
                one.matrix.grad = torch.zeros_like(one.matrix)
            one.optimizer.step()
    before = late.matrix.detach().clone()
    bring_up_to_date([late.matrix])
    torch.testing.assert_close(late.matrix, dense.matrix, atol=2e-6, rtol=0.0)
    assert float((late.matrix.detach() - before).abs().max()) > 1e-3


def test_a_state_that_was_saved_goes_on_to_the_same_bits(tmp_path: Any):
    (_, straight), (_, stopped) = pair((0.9, 0.98), torch.float32), pair((0.9, 0.98), torch.float32)
    take_steps(straight, 0, 40, steps=40)
    take_steps(stopped, 0, 23, steps=40)
    torch.save(stopped.optimizer.state_dict(), tmp_path / "optimizer.pt")
    _, other = pair((0.9, 0.98), torch.float32)
    with torch.no_grad():
        other.matrix.copy_(stopped.matrix)
        other.vector.copy_(stopped.vector)
    other.optimizer.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    take_steps(other, 23, 40, steps=40)
    for one in (straight, other):
        finish_collecting([one.matrix])
        assert row_gradient_of(one.matrix) is None
    assert torch.equal(straight.matrix, other.matrix)
    kept, again = (one.optimizer.state[one.matrix] for one in (straight, other))
    for name, value in kept.items():
        assert again[name].dtype == value.dtype, name
        assert torch.equal(again[name], value), name


def test_the_history_grows_with_the_steps():
    _, late = pair((0.9, 0.999), torch.float32)
    for _ in range(1030):
        late.optimizer.step()
    bring_up_to_date([late.matrix])
    dense, _ = pair((0.9, 0.999), torch.float32)
    torch.testing.assert_close(late.matrix, dense.matrix * (1 - 1e-3) ** 1030, atol=1e-6, rtol=0.0)


def test_clipping_takes_the_norm_of_all_gradients_and_scales_them():
    dense, late = pair((0.9, 0.999), torch.float32)
    ids, gradient = gradients(3, torch.float32, 5.0)
    dense.matrix.grad = torch.zeros_like(dense.matrix).index_add_(0, ids, gradient)
    rows = row_gradient_of(late.matrix)
    assert rows is not None
    rows.add(ids[:4], gradient[:4].clone())
    rows.add(ids[4:], gradient[4:].clone())
    norms = []
    for one in (dense, late):
        one.vector.grad = torch.full_like(one.vector, 2.0)
        norms.append(torch.nn.utils.clip_grad_norm_(holders_of_gradients([one.matrix, one.vector]), 1.0))
    assert float(norms[0]) > 5
    torch.testing.assert_close(norms[0], norms[1])
    torch.testing.assert_close(late.vector.grad, dense.vector.grad)
    found = rows.whole()
    assert found is not None
    torch.testing.assert_close(found[1], dense.matrix.grad[found[0]])
    assert float(dense.matrix.grad.norm()) == pytest.approx(float(found[1].norm()), rel=1e-5)


def test_many_passes_are_added_up_on_the_way(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("luthier.training.row_gradient._PENDING", 10)
    matrix = nn.Parameter(torch.zeros(ROWS, WIDTH))
    collect_by_rows(matrix)
    rows = row_gradient_of(matrix)
    assert rows is not None
    expected = torch.zeros(ROWS, WIDTH)
    for step in range(8):
        ids, gradient = gradients(step, torch.float32, 1.0)
        rows.add(ids, gradient)
        expected.index_add_(0, ids, gradient)
        assert sum(map(len, rows._ids)) <= 10 + ROWS
    found = rows.whole()
    assert found is not None
    torch.testing.assert_close(torch.zeros(ROWS, WIDTH).index_copy(0, *found), expected)


def test_averages_that_fall_too_slowly_are_refused():
    with pytest.raises(ValueError, match="adam_betas"):
        pair((0.95, 0.9), torch.float32)


def test_a_parameter_is_copied_without_its_gradient_by_rows():
    matrix = nn.Parameter(torch.zeros(ROWS, WIDTH))
    collect_by_rows(matrix)
    assert row_gradient_of(copy.deepcopy(matrix)) is None
