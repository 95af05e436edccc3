"""Chooses the default learning rates of every tuning method.

Every method is trained at three to six rates on two data sets that no other benchmark reports; prompts, which are
small beside the task head, also at two rates of the head and from two starts. Of the rates at which no run failed, what
has the best mean validation accuracy becomes the method's `default_learning_rate`.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

import harness
from tables import Cells, grouped, table

SETS = {
    "reuters_r8": {"source": "data:reuters_r8", "per_class": 30, "validation_fraction": 0.1, "max_length": 64},
    "mr": {"source": "data:mr", "per_class": 150, "max_length": 96},
}
CLASSES = {"reuters_r8": 8, "mr": 2}
SEEDS = (1, 2, 3)
STEPS = 100
SMALL, MIDDLE, LARGE = (5e-5, 1e-4, 3e-4), (3e-4, 1e-3, 3e-3, 1e-2), (1e-3, 1e-2, 1e-1, 3e-1)
# For methods that were best at the end of the one before.
WIDE = (*MIDDLE, 3e-2, 1e-1)
WIDEST = (*WIDE, 3e-1)
RATES: dict[str, tuple[float, ...]] = {
    "prompt": LARGE,
    "residual_prompt": LARGE,
    "idpg": WIDE,
    "full": SMALL,
    "head_only": WIDE,
    "bitfit": MIDDLE,
    "lora": MIDDLE,
    "ia3": WIDE,
    "prefix": WIDE,
    "p_tuning": WIDE,
    "bottleneck": MIDDLE,
    "unipelt": WIDE,
    "task_prefix": WIDEST,
}
NETWORK_RATE = 1e-3
OTHER_STARTS = {"prompt": "random", "residual_prompt": "uniform"}
COMMON = {"too_long": "truncate", "evaluation_limit": 300}
SETTINGS = {"sets": SETS, "common": COMMON, "steps": STEPS, "batch_size": 8, "model": harness.MINILM}


def main() -> None:
    bench = harness.Bench()

    def measure(cell: dict[str, Any]) -> dict[str, Any]:
        options = {"head_learning_rate": "head_rate", "prefix_learning_rate": "prefix_rate", "init": "init"}
        method = {key: cell[name] for key, name in options.items() if name in cell}
        if cell["method"] == "unipelt":
            method.setdefault("prefix_learning_rate", cell["rate"])
        tune = {
            "method": {"name": cell["method"]} | method,
            "data": SETS[cell["set"]] | COMMON,
            "max_steps": STEPS,
            "batch_size": 8,
            "learning_rate": cell["rate"],
            "evaluate_every": STEPS,
        }
        return bench.tune(tune, cell["seed"], test=None)

    cells = [
        {"set": name, "method": method, "rate": rate, **variant, "seed": seed}
        for seed in SEEDS
        for name in SETS
        for method, rates in RATES.items()
        for rate in rates
        for variant in variants(method)
    ]
    harness.run_cells("defaults", SETTINGS, cells, measure, harness.arguments(__doc__))


def variants(method: str) -> list[dict[str, Any]]:
    """What else is varied at each rate."""
    if method == "unipelt":
        return [{}, {"prefix_rate": NETWORK_RATE}]
    if method not in OTHER_STARTS:
        return [{}]
    return [{"head_rate": 1e-3}, {"head_rate": 1e-2}, {"head_rate": 1e-2, "init": OTHER_STARTS[method]}]


def page(cells: Cells) -> str:
    """Validation accuracy at every rate."""
    rows = []
    for (method,), entries in grouped(cells, "method").items():
        by_rate = grouped(entries, "rate", "head_rate", "prefix_rate", "init")
        scores = {rate: per_set(found) for rate, found in by_rate.items()}
        bears = {r: statistics.fmean(scores[r].values()) for r in by_rate if not failed(by_rate[r])}
        best = max(bears, key=lambda r: bears[r], default=None)
        for rate in sorted(by_rate, key=str):
            shown = " / ".join(f"{r:g}" if isinstance(r, float) else r for r in rate if r is not None)
            means = [f"{scores[rate][name]:.3f}" if name in scores[rate] else "" for name in SETS]
            bad, seeds = failed(by_rate[rate]), len(grouped(by_rate[rate], "seed"))
            rows.append(
                [method, f"**{shown}**" if rate == best else shown, *means, f"{seeds}", f"{bad}" if bad else ""]
            )
    about = (
        "## Default learning rates\n\nValidation accuracy after 100 steps at each rate (where there are two: of the "
        "prompt / of the head, or of UniPELT's other parts / of the network behind its prefix, which elsewhere has "
        "the same; prompts start from rows of the vocabulary where nothing else is said), mean over as many seeds as "
        "the row says; where that is one or two, neighbours can't be told apart. A run has failed "
        "where its validation loss is not below that of guessing evenly. Of the rates at which no run failed, "
        "the one with the best mean over the sets, in bold, became the default, with three exceptions: `prompt` "
        "starts from the vocabulary, `head_only` has 3e-2, which can't be told from the best and is the safer, and "
        "`p_tuning` has 1e-2, since two of six runs failed at 3e-2.\n"
    )
    return about + "\n" + table(["method", "rate", *SETS, "seeds", "failed runs"], rows)


def failed(cells: Cells) -> int:
    """How many runs learned nothing, or lost it again."""
    return sum(e["validation_loss"] >= math.log(CLASSES[e["cell"]["set"]]) for e in cells)


def per_set(cells: Cells) -> dict[str, float]:
    """Mean validation accuracy of every set."""
    found = grouped(cells, "set")
    return {name: statistics.fmean(e["validation_accuracy"] for e in entries) for (name,), entries in found.items()}


if __name__ == "__main__":
    main()
