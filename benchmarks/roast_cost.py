"""Time and memory of a training step under RoAST and its neighbours, as ratios to vanilla fine-tuning.

MiniLM, 16 rows of 32 or 128 tokens, one pinned core, a fresh process for every measurement, objectives in turn. The
published RoAST step runs three forward passes and two backward passes through the parameters and one to the
embeddings. If a backward pass costs two forward passes and one without parameter gradients costs one, that is
(3 + 2 * 2 + 1) / 3 = 2.67 vanilla steps. Claim to test: at most 2.6 times vanilla, and at most twice its memory.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
from tables import Cells, grouped, median_and_range, pick, table

OBJECTIVES: dict[str, dict[str, Any]] = {
    "vanilla": {"name": "vanilla"},
    "roast": {"name": "roast"},
    "roast, gradient of the clean pass": {"name": "roast", "probe": "clean_pass"},
    "adv_embed": {"name": "adv_embed"},
    "selective": {"name": "selective"},
    "free_lb": {"name": "free_lb"},
    "adv_weight": {"name": "adv_weight"},
}
LENGTHS, ROUNDS, WARM_UP, STEPS, BATCH = (32, 128), 3, 2, 8, 16
SETTINGS = {"objectives": OBJECTIVES, "rounds": ROUNDS, "steps": STEPS, "batch": BATCH, "model": harness.MINILM}


def main() -> None:
    if len(sys.argv) > 2 and sys.argv[1] == "--measure":
        print(json.dumps(measure_here(json.loads(sys.argv[2]))))
        return
    cells = [
        {"objective": name, "length": length, "round": number}
        for number in range(ROUNDS)
        for length in LENGTHS
        for name in OBJECTIVES
    ]
    harness.run_cells("roast_cost", SETTINGS, cells, measure_apart, harness.arguments(__doc__))


def measure_apart(cell: dict[str, Any]) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--measure", json.dumps(cell)]
    return harness.answer_of(command)


def measure_here(cell: dict[str, Any]) -> dict[str, Any]:
    """Median seconds of an optimiser step inside the trainer, and the most memory that training added."""
    harness.single_core()
    from transformers import TrainerCallback

    from luthier.training.job import train

    class Timer(TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ends.append(time.perf_counter())

    timer = Timer()
    with tempfile.TemporaryDirectory() as folder:
        job = job_of(cell, Path(folder))
        job.callbacks.append(timer)
        result = train(job)
    gaps = [after - before for before, after in zip(timer.ends, timer.ends[1:], strict=False)]
    return {"step_seconds": statistics.median(gaps[WARM_UP - 1 :]), "peak_memory_bytes": result.peak_memory_bytes}


def job_of(cell: dict[str, Any], folder: Path) -> Any:
    """The `tune` stage's own job over rows of one length, in which every word is known."""
    from luthier.training.supervised import apply_method, training_job

    rows = folder / "rows.tsv"
    lines = [f"{' '.join(['film'] * (cell['length'] - 2))}\t{'ab'[i % 2]}" for i in range(BATCH * (WARM_UP + STEPS))]
    rows.write_text("text\tlabel\n" + "\n".join(lines) + "\n", encoding="utf8")
    bench = harness.Bench()
    tune = {
        "method": "full",
        "objective": OBJECTIVES[cell["objective"]],
        "data": {"train": str(rows), "task": "single_sentence"},
        "max_steps": WARM_UP + STEPS,
        "batch_size": BATCH,
        "evaluate_every": "never",
    }
    stage, inputs, prepared, model = bench.ready(tune, seed=1)
    return training_job(stage, inputs, prepared, apply_method(stage, model, prepared, 1), folder)


def page(cells: Cells) -> str:
    rows = []
    for (length, name), found in grouped(cells, "length", "objective").items():
        ratios, memory = (against_vanilla(cells, length, name, key) for key in ("step_seconds", "peak_memory_bytes"))
        if not ratios:
            continue
        rows.append(
            [
                str(length),
                name,
                f"{statistics.median(e['step_seconds'] for e in found):.3f} s",
                median_and_range(ratios),
                f"{statistics.median(memory):.2f}",
            ]
        )
    about = (
        "## Cost of a step under RoAST\n\nMiniLM, 16 rows, one pinned core, a fresh process for every measurement, "
        "objectives in turn. Memory is the whole process. By count of passes the published form takes 2.67 vanilla "
        "steps.\n"
    )
    return about + "\n" + table(["tokens", "objective", "step (median)", "against vanilla (range)", "memory"], rows)


def answers(cells: Cells) -> list[tuple[str, str]]:
    found = [
        f"{median_and_range(against_vanilla(cells, length, 'roast', 'step_seconds'))} with {length} tokens"
        for (length,) in grouped(cells, "length")
    ]
    return [("What does a RoAST step cost in vanilla steps?", f"{', '.join(found)}; by count of passes 2.67.")]


def against_vanilla(cells: Cells, length: int, objective: str, key: str) -> list[float]:
    """A cost against that of vanilla in the same round."""
    vanilla, own = (
        {e["cell"]["round"]: e[key] for e in pick(cells, length=length, objective=o)} for o in ("vanilla", objective)
    )
    return [own[r] / vanilla[r] for r in own if r in vanilla]


if __name__ == "__main__":
    main()
