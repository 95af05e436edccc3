"""AdamW without bias correction against its equation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from luthier.training.optimizer import adamw


@pytest.mark.parametrize("scaled", [False, True], ids=["fused", "plain"])
def test_without_correction_it_takes_the_steps_of_the_equation(scaled: bool):
    torch.manual_seed(0)
    weight = torch.randn(3, 2, dtype=torch.float64)
    parameter = torch.nn.Parameter(weight.clone())
    args: Any = SimpleNamespace(learning_rate=0.1, adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-3)
    groups = [{"params": [parameter], "lr": 0.05, "weight_decay": 0.2}]
    optimizer = adamw(groups, args, scaled=scaled, correct_bias=False)
    m = v = torch.zeros_like(weight)
    for step in range(6):
        rate = 0.05 / (1 + step)
        optimizer.param_groups[0]["lr"] = rate
        gradient = torch.randn_like(weight)
        parameter.grad = gradient.clone()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        weight = weight - rate * 0.2 * weight - rate * m / (v.sqrt() + 1e-3)
        assert torch.allclose(parameter, weight, rtol=1e-9, atol=1e-12)
        assert optimizer.param_groups[0]["lr"] == rate
        assert optimizer.param_groups[0]["weight_decay"] == 0.2
        if step == 2:
            again = adamw(groups, args, scaled=scaled, correct_bias=False)
            again.load_state_dict(optimizer.state_dict())
            optimizer = again


def test_with_correction_it_is_torchs():
    args: Any = SimpleNamespace(learning_rate=0.1, adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8)
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = adamw([{"params": [parameter], "lr": 0.1, "weight_decay": 0.0}], args, scaled=False)
    assert type(optimizer) is torch.optim.AdamW
