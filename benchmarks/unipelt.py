"""UniPELT against each of its parts and full fine-tuning, from little data to all.

The protocol is the paper's: K examples in all, the next examples as validation, the set's own test rows as test; every
method has one rate for all tasks, its default, which was chosen on other sets (`defaults.py`). Claims: UniPELT is 1 to
4 % above the best of its parts, and above fine-tuning where data is scarce. Parts are as large as in UniPELT itself.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import harness
from evidence import Claim, Differences, Finding, compared, findings_of, hours_of, plot
from tables import Cells, by_seed, gap, grouped, pick, plot_file, spread, table, test_scores

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
        f"is the one that validation chose. A set counts into a row's mean once it has been run. {one_class(cells)}\n"
    )
    return "\n".join(
        [
            about,
            *(plot(found, f"unipelt-{n}", plot_file) for n, found in enumerate(findings(cells))),
            "",
            table(["examples", "method", "trained", *SETS, "mean"], scores),
            table(["examples", "set", "best part", "UniPELT - best part (95 %)", "UniPELT - full (95 %)"], claims),
        ]
    )


def one_class(cells: Cells) -> str:
    """How many runs on mrpc found nothing better than the larger class: then recall is 1, and F1 follows from it."""
    runs = pick(cells, set="mrpc")
    same = sum(abs(e["test_f1"] - 2 * e["test_accuracy"] / (1 + e["test_accuracy"])) < 1e-4 for e in runs)
    return f"On mrpc {same} of {len(runs)} runs give every row the larger class, so that it tells little."


# Published differences are means over GLUE tasks at 100, 500 and 1,000 examples and, of the first, at all (section 4
# and its tables): of UniPELT to the method that is second best on average, to the best part of every task, and to
# fine-tuning.
CLAIMS = {
    "part": Claim(
        "UniPELT is 1 to 4 % above the best of its parts.",
        "test score, UniPELT less the part that is best on average by validation",
        0.0196,
        "62.6, 70.0, 73.3, 83.5 against 58.2, 68.0, 72.3, 83.0",
        "MiniLM",
    ),
    "fine-tuning": Claim(
        "UniPELT is above fine-tuning where data is scarce.",
        "test score with up to 1,000 examples, UniPELT less fine-tuning",
        0.0167,
        "62.6, 70.0, 73.3 against 60.0, 68.9, 71.9",
        "MiniLM",
    ),
    "part of every set": Claim(
        "UniPELT reaches the best part of every task.",
        "test score, UniPELT less the part that validation chose on each set",
        0.0069,
        "+2.0, -0.0 and +0.1 points with 100, 500 and 1,000 examples",
        "MiniLM",
        main=False,
    ),
}


def findings(cells: Cells) -> list[Finding]:
    """What all sizes and sets together say about the claims."""
    scarce = [e for e in cells if e["cell"]["examples"]]
    measured = [
        (CLAIMS["part"], against(cells, lambda size, unit: best_part(size))),
        (CLAIMS["fine-tuning"], against(scarce, lambda size, unit: "full")),
        (CLAIMS["part of every set"], against(cells, lambda size, unit: best_part(unit))),
    ]
    return findings_of(measured, hours_of(cells))


def against(cells: Cells, other: Callable[[Cells, Cells], str]) -> Differences | None:
    """UniPELT less another method, by size and set.

    Args:
        other: the cells of a size, and those of one set of it -> the method.
    """
    arms = {}
    for (examples,), size in grouped(cells, "examples").items():
        if not all(pick(size, set=name, method=m) for name in SETS for m in METHODS):
            continue
        for name in SETS:
            unit = pick(size, set=name)
            first, second = (pick(unit, method=m) for m in ("unipelt", other(size, unit)))
            arms[f"{name}, {examples or 'all'}"] = (first, second)
    return compared(arms)


def _shown(values: list[float]) -> str:
    return spread(values) if values else ""


def claim(cells: Cells) -> list[str]:
    """The best part by validation, and the two differences."""
    if not all(pick(cells, method=method) for method in ("unipelt", *PARTS)):
        return []
    own, part, full = (by_seed(pick(cells, method=m)) for m in ("unipelt", best_part(cells), "full"))
    return [best_part(cells), gap(part, own), gap(full, own)]


def best_part(cells: Cells) -> str:
    """The part with the best mean validation score."""
    return max(PARTS, key=lambda m: statistics.fmean(e["validation_" + e["primary"]] for e in pick(cells, method=m)))


if __name__ == "__main__":
    main()
