"""UniPELT against each of its parts and full fine-tuning, from little data to all.

The protocol is the paper's: K examples in all, the next examples as validation, the set's own test rows as test; every
method has one rate for all tasks, its default, which was chosen on other sets (`defaults.py`). Claims: UniPELT is 1 to
4 % above the best of its parts, and above fine-tuning where data is scarce. Parts are as large as in UniPELT itself.
"""

from __future__ import annotations

import statistics
from typing import Any

import harness
from tables import Cells, by_seed, gap, grouped, pick, spread, table, test_scores

SETS = ("sst2", "mrpc", "trec", "subj")
# Examples in all -> optimiser steps; 0 is every training row.
STEPS = {100: 100, 500: 200, 1000: 300, 0: 500}
SEEDS = (1, 2, 3)
PARTS = {
    "bottleneck": {"name": "bottleneck", "reduction": 16},
    "prefix": {"name": "prefix", "length": 10},
    "lora": {"name": "lora", "rank": 8},
}
METHODS: dict[str, Any] = {
    "full": {"name": "full"},
    **PARTS,
    "bitfit": {"name": "bitfit"},
    "unipelt": {"name": "unipelt"},
}
COMMON = {"max_length": 64, "too_long": "truncate", "evaluation_limit": 300}
SETTINGS = {"methods": METHODS, "common": COMMON, "steps": {str(k): v for k, v in STEPS.items()}, "batch": 8}


def main() -> None:
    bench = harness.Bench()

    def measure(cell: dict[str, Any]) -> dict[str, Any]:
        return bench.tune(tune_block(cell), cell["seed"])

    cells = [
        {"set": name, "examples": examples, "method": method, "seed": seed}
        for examples in STEPS
        for seed in SEEDS
        for name in SETS
        for method in METHODS
    ]
    harness.run_cells("unipelt", SETTINGS, cells, measure, harness.arguments(__doc__))


def tune_block(cell: dict[str, Any]) -> dict[str, Any]:
    """The recipe block of a cell."""
    return {
        "method": METHODS[cell["method"]],
        "data": {"source": f"data:{cell['set']}", **COMMON, "subset_seed": cell["seed"], **size_of(cell)},
        "max_steps": STEPS[cell["examples"]],
        "batch_size": 8,
        "evaluate_every": STEPS[cell["examples"]] // 4,
    }


def size_of(cell: dict[str, Any]) -> dict[str, Any]:
    if cell["examples"]:
        return {"examples": cell["examples"], "validation_examples": 200}
    return {"validation_fraction": 0.1} if cell["set"] in ("trec", "mrpc") else {}


def page(cells: Cells) -> str:
    """Scores by size and method, and UniPELT's differences to its best part and to fine-tuning."""
    scores, claims = [], []
    for (examples,), found in grouped(cells, "examples").items():
        size = str(examples or "all")
        for method in METHODS:
            own = pick(found, method=method)
            if own:
                per_set = [test_scores(pick(own, set=name)) for name in SETS]
                mean = statistics.fmean(statistics.fmean(s) for s in per_set if s)
                scores.append([size, method, f"{own[0]['trainable']:,}", *map(_shown, per_set), f"{mean:.3f}"])
        for name in SETS:
            line = claim(pick(found, set=name))
            if line:
                claims.append([size, name, *line])
    about = (
        "## UniPELT against its parts and fine-tuning\n\nMiniLM; test score (F1 on mrpc, accuracy on the others) on at "
        "most 300 rows, mean ± sample standard deviation over three seeds, which also draw the examples. The best part "
        "is the one that validation chose. A set counts into a row's mean once it has been run.\n"
    )
    return "\n".join(
        [
            about,
            table(["examples", "method", "trained", *SETS, "mean"], scores),
            table(["examples", "set", "best part", "UniPELT - best part (95 %)", "UniPELT - full (95 %)"], claims),
        ]
    )


def _shown(values: list[float]) -> str:
    return spread(values) if values else ""


def claim(cells: Cells) -> list[str]:
    """The best part by validation, and the two differences."""
    own = pick(cells, method="unipelt")
    parts = {method: pick(cells, method=method) for method in PARTS}
    if not own or not all(parts.values()):
        return []
    best = max(parts, key=lambda m: statistics.fmean(e["validation_" + e["primary"]] for e in parts[m]))
    full = by_seed(pick(cells, method="full"))
    return [best, gap(by_seed(parts[best]), by_seed(own)), gap(full, by_seed(own))]


if __name__ == "__main__":
    main()
