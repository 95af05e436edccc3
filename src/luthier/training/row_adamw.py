"""AdamW that touches only those rows of a large matrix that a step reads, with the result of AdamW that touches all.

Shapes: V rows, H width, R rows that are brought up to date.

AdamW (Loshchilov and Hutter, “Decoupled Weight Decay Regularization”, ICLR 2019, algorithm 2) moves rows without a
gradient as well: they decay, and so do their averages, which go on moving them. A row that was brought up to step a
and got no gradient since has at step t, with P_t the product of all (1 - rate * decay) up to t,

    w_t = P_t / P_a * (w_a - m_a * sum over i = a + 1 .. t of k_i / (sqrt(v_a) + e_i)),
    k_i = rate_i * sqrt(1 - b2^i) / (1 - b1^i) * (b1 / sqrt(b2))^(i - a) * P_a / P_i,
    e_i = eps * sqrt(1 - b2^i) / b2^((i - a) / 2),
    m_t = m_a * b1^(t - a),  v_t = v_a * b2^(t - a),

which is computed when the row is next read. The terms fall by b1 / sqrt(b2) a step; those behind the last gradient by
more steps than it takes to fall below the resolution of the numbers are left out, so that a row that is read seldom
costs no more steps than that.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw as dense_step

from luthier.training.row_gradient import RowGradient, row_gradient_of
from luthier.training.row_rules import refused_betas

# Numbers of one matrix that are worked on at a time, so that they stay in the processor's cache.
_CHUNK = 1 << 16
_NEVER = -(1 << 40)
# Columns of the history of steps.
_DECAY, _RATE, _EPSILON = range(3)


class RowAdamW(torch.optim.AdamW):
    """AdamW, which updates parameters whose gradient is collected by rows late, before their rows are read.

    The state of such a parameter has, beside the averages, for each row the step that it was brought up to (`reached`)
    and that of its last gradient (`moved`), (V,) each, and what is needed of all steps so far (`history`).

    Args:
        groups: of parameters, of which some have a `RowGradient`.
        options: as torch's AdamW has them.

    Raises:
        ValueError: the betas don't fit; see `luthier.training.row_rules`.
    """

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        super().__init__(groups, **options)
        for group in self.param_groups:
            for parameter in group["params"]:
                if (rows := row_gradient_of(parameter)) is not None:
                    if (reason := refused_betas(*group["betas"])) is not None:
                        raise ValueError(reason)
                    rows.before_reading = partial(self._catch_up, parameter)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if (rows := row_gradient_of(parameter)) is not None:
                    self._step_by_rows(parameter, rows, group)
        return super().step(closure)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        numbers = [n for group in state_dict["param_groups"] for n in group["params"]]
        parameters = [p for group in self.param_groups for p in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            kept = state_dict["state"].get(number, {})
            # torch gives all tensors of a state the type of the parameter.
            for name in {"reached", "moved"} & kept.keys():
                self.state[parameter][name] = kept[name].to(parameter.device, copy=True)
            if "history" in kept:
                self.state[parameter]["history"] = kept["history"].to("cpu", copy=True)

    def _step_by_rows(self, parameter: nn.Parameter, rows: RowGradient, group: dict[str, Any]) -> None:
        assert parameter.grad is None, "somebody read the parameter in another way than by rows"
        state = self._state(parameter)
        found = rows.whole()
        taken = int(state["step"]) + 1
        _note(state, taken, group)
        if found is None:
            state["step"] += 1
            return
        ids, gradient = found
        averages = [state["exp_avg"][ids], state["exp_avg_sq"][ids]]
        moved = parameter[ids]
        dense_step(
            [moved],
            [gradient.to(moved.dtype)],
            averages[:1],
            averages[1:],
            [],
            [state["step"]],
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        parameter.index_copy_(0, ids, moved)
        state["exp_avg"].index_copy_(0, ids, averages[0])
        state["exp_avg_sq"].index_copy_(0, ids, averages[1])
        state["reached"][ids] = taken
        state["moved"][ids] = taken
        rows.clear()

    def _state(self, parameter: nn.Parameter) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            size, device = len(parameter), parameter.device
            state["step"] = torch.zeros((), dtype=torch.float32, device=device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
            state["reached"] = torch.zeros(size, dtype=torch.int64, device=device)
            state["moved"] = torch.full((size,), _NEVER, dtype=torch.int64, device=device)
            state["history"] = torch.zeros(1024, 3, dtype=torch.float64)
        return state

    @torch.no_grad()
    def _catch_up(self, parameter: nn.Parameter, ids: Tensor | None) -> None:
        """Bring rows up to the last step; None is all of them."""
        state = self.state[parameter]
        if not state:
            return
        taken = int(state["step"])
        reached = state["reached"] if ids is None else state["reached"][ids := ids.reshape(-1)]
        late = (reached < taken).nonzero()[:, 0] if ids is None else ids[reached < taken].unique()
        if not len(late):
            return
        group = next(one for one in self.param_groups if any(p is parameter for p in one["params"]))
        last = state["moved"][late] + _steps_that_count(group["betas"], parameter.dtype)
        terms = (last.clamp_(max=taken) - state["reached"][late]).clamp_(min=0)
        terms, order = terms.sort(descending=True)
        size = max(1, _CHUNK // parameter.shape[1])
        for rows, counts in zip(late[order].split(size), terms.split(size), strict=True):
            _advance(parameter, state, group, rows, counts, taken)
        state["reached"][late] = taken


def _note(state: dict[str, Any], taken: int, group: dict[str, Any]) -> None:
    """Add a step to the history: log P, rate * sqrt(1 - b2^i) / (1 - b1^i), and eps * sqrt(1 - b2^i)."""
    history = state["history"]
    if taken == len(history):
        history = state["history"] = torch.cat([history, torch.zeros_like(history)])
    first, second = group["betas"]
    root = math.sqrt(1 - second**taken)
    history[taken, _DECAY] = history[taken - 1, _DECAY] + math.log1p(-group["lr"] * group["weight_decay"])
    history[taken, _RATE] = group["lr"] * root / (1 - first**taken)
    history[taken, _EPSILON] = group["eps"] * root


def _steps_that_count(betas: tuple[float, float], dtype: torch.dtype) -> int:
    """Steps behind a gradient after which what it still moves is below the resolution of the numbers."""
    first, second = betas
    if first == 0:
        return 0
    return math.ceil(math.log(torch.finfo(dtype).eps) / math.log(first / math.sqrt(second)))


def _advance(
    parameter: nn.Parameter, state: dict[str, Any], group: dict[str, Any], rows: Tensor, terms: Tensor, taken: int
) -> None:
    """Bring rows (R,) up to the step `taken`.

    Args:
        terms: (R,), how many of the missed steps count, in falling order.
    """
    first, second = group["betas"]
    history, since = state["history"], state["reached"][rows].cpu()
    weight = parameter[rows]
    averaged, squared = state["exp_avg"][rows], state["exp_avg_sq"][rows]
    if len(counted := terms[terms > 0].cpu()):
        weight[: len(counted)] -= averaged[: len(counted)] * _moves(
            squared[: len(counted)].sqrt(), history, since[: len(counted)], counted, first / math.sqrt(second), second
        )
    missed = (taken - since).double()[:, None]
    weight *= (history[taken, _DECAY] - history[since, _DECAY])[:, None].exp().to(weight)
    parameter.index_copy_(0, rows, weight)
    state["exp_avg"].index_copy_(0, rows, averaged.mul_((first**missed).to(weight)))
    state["exp_avg_sq"].index_copy_(0, rows, squared.mul_((second**missed).to(weight)))


def _moves(root: Tensor, history: Tensor, since: Tensor, terms: Tensor, fall: float, second: float) -> Tensor:
    """The sum of k_i / (root + e_i) over the missed steps that count, (R, H).

    Args:
        root: (R, H), of the averaged squares.
        since, terms: (R,), the step before the first missed one, and how many count, in falling order.
        fall: b1 / sqrt(b2).
    """
    numbers = torch.arange(1, int(terms[0]) + 1, dtype=torch.float64)[:, None]
    steps = (since + numbers.long()).clamp_(max=int((since + terms).max()))
    factors = history[steps, _RATE] * fall**numbers * (history[since, _DECAY] - history[steps, _DECAY]).exp_()
    floors = history[steps, _EPSILON] * second ** (-numbers / 2)
    factors, floors = factors[:, :, None].to(root), floors[:, :, None].to(root)
    total, divisor = torch.zeros_like(root), torch.empty_like(root)
    for number, count in enumerate((terms >= numbers).sum(dim=1).tolist()):
        torch.add(root[:count], floors[number, :count], out=divisor[:count])
        total[:count].addcdiv_(factors[number, :count], divisor[:count])
    return total
