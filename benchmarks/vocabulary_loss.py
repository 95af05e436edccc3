"""Loss and gradient over a vocabulary in chunks, against plain cross-entropy and torch's `linear_cross_entropy`.

Two shapes: the masked rows of a batch of MiniLM (16 rows of 256 tokens, 15 % of them), and every row of a batch of
SmolLM2's vocabulary and width (8 rows of 256 tokens). Before anything is timed loss and gradients have to agree to 1e-5
of their size. Claim: in memory less than a third of plain cross-entropy's, in time at most 1.5 times. Memory is what
the process takes on top of the inputs. Each measurement is a process of its own on one core, the kinds in turn.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import harness
import torch
from tables import Cells, grouped, pick, table
from torch.nn import functional as F

from luthier.evaluation.meters import CostMeter, peak_memory
from luthier.language_modeling import chunked_cross_entropy

ROUNDS, WARM_UP, STEPS = 3, 1, 3
SHAPES = {"masked": (614, 384, 30_522), "causal": (2040, 576, 49_152)}
KINDS = ("plain", "chunked", "torch")
SETTINGS = {"rounds": ROUNDS, "warm_up": WARM_UP, "steps": STEPS, "shapes": SHAPES}


def main() -> None:
    if len(sys.argv) == 4 and sys.argv[1] == "--measure":
        harness.single_core()
        print(json.dumps(measured(sys.argv[2], sys.argv[3])))
        return
    options = harness.arguments(__doc__)

    def measure(cell: dict[str, Any]) -> dict[str, Any]:
        command = [sys.executable, __file__, "--measure", cell["kind"], cell["shape"]]
        return harness.answer_of(command)

    cells = [
        {"shape": shape, "kind": kind, "round": number}
        for shape in SHAPES
        for number in range(ROUNDS)
        for kind in KINDS
        if (shape, kind) != ("causal", "torch") or number == 0
    ]
    harness.run_cells("vocabulary_loss", SETTINGS, cells, measure, options)


def losses(kind: str) -> Callable[[Any, Any, Any], Any]:
    """(hidden, weight, targets) -> the summed loss."""
    if kind == "plain":
        return lambda hidden, weight, targets: F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    if kind == "chunked":
        return lambda hidden, weight, targets: chunked_cross_entropy(hidden, weight, targets).sum()
    options = torch.nn.LinearCrossEntropyOptions()
    return lambda hidden, weight, targets: F.linear_cross_entropy(
        hidden, weight, targets, reduction="sum", options=options
    )


def measured(kind: str, shape: str) -> dict[str, Any]:
    check_agreement(kind)
    rows, width, vocabulary = SHAPES[shape]
    torch.manual_seed(0)
    hidden, weight = torch.randn(rows, width).requires_grad_(), (0.05 * torch.randn(vocabulary, width)).requires_grad_()
    targets, loss = torch.randint(vocabulary, (rows,)), losses(kind)
    weight.grad, hidden.grad = torch.zeros_like(weight), torch.zeros_like(hidden)

    def step() -> float:
        started = time.perf_counter()
        loss(hidden, weight, targets).backward()
        return time.perf_counter() - started

    with CostMeter() as meter:
        before = peak_memory()
        seconds = [step() for _ in range(WARM_UP + STEPS)][WARM_UP:]
    return {"step_seconds": statistics.median(seconds), "added_bytes": meter.peak_memory_bytes - before}


def check_agreement(kind: str) -> None:
    torch.manual_seed(1)
    leaves = torch.randn(40, 16, requires_grad=True), torch.randn(500, 16, requires_grad=True)
    targets = torch.randint(500, (40,))
    found, plain = (losses(one)(*leaves, targets) for one in (kind, "plain"))
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)
    for one, other in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(plain, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def against_plain(cells: Cells, shape: str, kind: str) -> tuple[list[float], list[float]]:
    """Time and memory of a kind, each against plain cross-entropy in the same round."""
    plain = {e["cell"]["round"]: e for e in pick(cells, shape=shape, kind="plain")}
    pairs = [(e, plain[e["cell"]["round"]]) for e in pick(cells, shape=shape, kind=kind) if e["cell"]["round"] in plain]
    times = [e["step_seconds"] / p["step_seconds"] for e, p in pairs]
    return times, [e["added_bytes"] / max(1, p["added_bytes"]) for e, p in pairs]


def answers(cells: Cells) -> list[list[str]]:
    told = []
    for shape in SHAPES:
        times, memory = (statistics.median(found) for found in against_plain(cells, shape, "chunked"))
        verdict = "holds" if times <= 1.5 and memory < 1 / 3 else "does not hold"
        told.append(f"{shape} rows {verdict}: {memory:.2f} of the memory, {times:.2f} times the time")
    return [["The loss in chunks takes under a third of the memory in at most 1.5 times the time", "; ".join(told)]]


def page(cells: Cells) -> str:
    rows = []
    for (shape, kind), entries in grouped(cells, "shape", "kind").items():
        times, memory = against_plain(cells, shape, kind)
        rows.append(
            [
                f"{shape}: {' x '.join(f'{n:,}' for n in SHAPES[shape])}",
                kind,
                f"{statistics.median(e['step_seconds'] for e in entries):.2f} s",
                f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})",
                f"{statistics.median(e['added_bytes'] for e in entries) / 1e6:,.0f} MB",
                f"{statistics.median(memory):.2f}",
            ]
        )
    columns = ["rows x width x vocabulary", "kind", "step", "against plain", "added memory", "against plain"]
    about = (
        "## Loss over a vocabulary\n\nForward and backward of the projection onto a vocabulary and its cross-entropy, "
        "in float32 on one core, each measurement a process of its own. `torch` is torch's own `linear_cross_entropy` "
        "with chunks. With few rows most of the memory is the gradient of the projection, which every kind has.\n"
    )
    return about + "\n" + table(columns, rows)


if __name__ == "__main__":
    main()
