"""Time and memory of one training step of every tuning method, as a ratio to full fine-tuning.

Each measurement is a fresh process pinned to one core. Rounds are interleaved: every method once, then every
method again, so that a slow minute of the machine falls on all of them. A step is forward, loss, backward, clipping
and AdamW on a batch of real sentences from the demo's shape: 16 rows of 64 tokens.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import harness
from tables import Cells, grouped, table

METHODS: dict[str, Any] = {
    "full": "full",
    "head_only": "head_only",
    "bitfit": "bitfit",
    "lora": "lora",
    "ia3": "ia3",
    "prefix 10": {"name": "prefix", "length": 10},
    "p_tuning 10": {"name": "p_tuning", "length": 10},
    "prompt 10": {"name": "prompt", "length": 10},
    "residual_prompt 10": {"name": "residual_prompt", "length": 10},
    "idpg 10": {"name": "idpg", "length": 10},
    "idpg 10, encodings stored": {"name": "idpg", "length": 10},
    "task_prefix 10": {"name": "task_prefix", "prefix_length": 10},
    "bottleneck": {"name": "bottleneck", "reduction": 16},
    "unipelt": "unipelt",
}
ROUNDS, WARM_UP, STEPS, BATCH, LENGTH = 5, 3, 10, 16, 64
SETTINGS = {"rounds": ROUNDS, "steps": STEPS, "batch": BATCH, "length": LENGTH, "model": harness.MINILM}


def main() -> None:
    if len(sys.argv) > 2 and sys.argv[1] == "--measure":
        print(json.dumps(measure_here(sys.argv[2])))
        return
    cells = [{"method": name, "round": number} for number in range(ROUNDS) for name in METHODS]
    harness.run_cells("step_cost", SETTINGS, cells, measure_apart, harness.arguments(__doc__))


def measure_apart(cell: dict[str, Any]) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--measure", cell["method"]]
    return harness.answer_of(command)


def measure_here(name: str) -> dict[str, Any]:
    """Median seconds of a step, and the peak resident size while stepping."""
    harness.single_core()
    import torch
    from torch.nn import functional as F

    from luthier.evaluation.meters import CostMeter
    from luthier.methods.base import MethodContext
    from luthier.models.artifacts import load_model
    from luthier.models.inspect import parameter_counts
    from luthier.registry import METHODS as KNOWN

    method = METHODS[name]
    chosen = {"name": method} if isinstance(method, str) else method
    settings = KNOWN.get(chosen["name"]).model_validate(chosen)
    torch.manual_seed(0)
    model = load_model(harness.MINILM, "sequence_classification", labels=["a", "b"])
    model = settings.apply(model, MethodContext("SEQ_CLS"))
    model.train()
    groups = settings.parameter_groups(model, 1e-4, 0.01)
    optimiser = torch.optim.AdamW(groups)
    ids = torch.randint(1000, 20000, (BATCH, LENGTH))
    mask, labels = torch.ones_like(ids), torch.randint(0, 2, (BATCH,))
    # What `tune` hands IDPG from its store, instead of a pass of the frozen model.
    stored = {"sentence_vectors": torch.randn(BATCH, model.config.hidden_size)} if name.endswith("stored") else {}
    trained = [p for p in model.parameters() if p.requires_grad]

    def step() -> None:
        loss = F.cross_entropy(model(input_ids=ids, attention_mask=mask, **stored).logits, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    for _ in range(WARM_UP):
        step()
    seconds = []
    with CostMeter() as meter:
        for _ in range(STEPS):
            started = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - started)
    return {
        "step_seconds": statistics.median(seconds),
        "peak_memory_bytes": meter.peak_memory_bytes,
        "trainable": parameter_counts(model)[0],
    }


def page(cells: Cells) -> str:
    rows, full = [], None
    for (method,), entries in grouped(cells, "method").items():
        seconds = [e["step_seconds"] for e in entries]
        memory = statistics.median(e["peak_memory_bytes"] for e in entries)
        if full is None:
            full = {e["cell"]["round"]: e["step_seconds"] for e in entries}, memory
        ratios = [e["step_seconds"] / full[0][e["cell"]["round"]] for e in entries if e["cell"]["round"] in full[0]]
        rows.append(
            [
                method,
                f"{entries[0]['trainable']:,}",
                f"{statistics.median(seconds):.3f} s",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                f"{memory / 1e6:,.0f} MB",
                f"{memory / full[1]:.2f}",
            ]
        )
    columns = ["method", "trained", "step (median)", "against full (range of rounds)", "peak memory", "against full"]
    about = (
        "## Cost of a training step\n\nMiniLM (22.7 M parameters), 16 rows of 64 tokens, one pinned core, a fresh "
        "process for every measurement, methods in turn. Peak memory is the whole process, libraries included.\n"
    )
    return about + "\n" + table(columns, rows)


if __name__ == "__main__":
    main()
