"""Whether default learning rates, found in 100 steps on a sentence encoder, suit a small masked LM and longer runs.

Every method is trained at its default and at the half decades below and above it, in 100 steps and in 400, on the two
sets of `defaults.py`; each seed draws its training rows. Nothing is scored on test. A default that is behind a
neighbour at one of the lengths by more than their seeds differ is one to look at again, or to make a matter of length:
what is counted so is exploratory, since the best of three rates is compared on the scores that it was chosen by.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import harness
from defaults import COMMON, SETS
from evidence import Differences
from protocol import TINY_LM, bed_exists
from tables import Cells, grouped, pick, spread, table

from luthier.errors import TrainingError

LENGTHS = (100, 400)
SEEDS = (1, 2, 3)
BATCH = 8
# The default stands in the middle.
RATES: dict[str, tuple[float, float, float]] = {
    "prompt": (3e-4, 1e-3, 3e-3),
    "residual_prompt": (3e-4, 1e-3, 3e-3),
    "idpg": (3e-3, 1e-2, 3e-2),
    "full": (3e-5, 1e-4, 3e-4),
    "head_only": (1e-2, 3e-2, 1e-1),
    "bitfit": (1e-3, 3e-3, 1e-2),
    "lora": (1e-3, 3e-3, 1e-2),
    "ia3": (1e-2, 3e-2, 1e-1),
    "prefix": (1e-2, 3e-2, 1e-1),
    "p_tuning": (3e-3, 1e-2, 3e-2),
    "bottleneck": (1e-3, 3e-3, 1e-2),
    "unipelt": (1e-3, 3e-3, 1e-2),
    "task_prefix": (3e-2, 1e-1, 3e-1),
}
SETTINGS = {"sets": SETS, "common": COMMON, "batch_size": BATCH, "model": str(TINY_LM)}


def main() -> None:
    options = harness.arguments(__doc__)
    bed_exists(str(TINY_LM))
    bench = harness.Bench(str(TINY_LM))

    def measure(cell: dict[str, Any]) -> dict[str, Any]:
        tune = {
            "method": cell["method"],
            "data": SETS[cell["set"]] | COMMON | {"subset_seed": cell["seed"]},
            "max_steps": cell["steps"],
            "batch_size": BATCH,
            "learning_rate": cell["rate"],
            "evaluate_every": cell["steps"],
        }
        try:
            return bench.tune(
                tune, cell["seed"], test=None, judge=lambda _, prepared: {"commonest": commonest(prepared)}
            )
        except TrainingError as error:  # a rate at which training breaks down is an answer
            return {"failed": str(error), "validation_accuracy": 0.0, "commonest": 0.0}

    harness.run_cells("defaults_language", SETTINGS, cells(), measure, options)


def commonest(prepared: Any) -> float:
    """The share of the commonest class among the validation rows: what a constant answer gets."""
    labels = list(prepared.task.splits["validation"]["label"])
    return round(max(map(labels.count, labels)) / len(labels), 5)


def failed(found: Cells) -> int:
    """How many runs are no better than a constant answer."""
    return sum(e["validation_accuracy"] <= e["commonest"] for e in found)


def cells() -> list[dict[str, Any]]:
    return [
        {"method": method, "steps": steps, "rate": rate, "set": name, "seed": seed}
        for seed in SEEDS
        for steps in LENGTHS
        for method, rates in RATES.items()
        for rate in rates
        for name in SETS
    ]


def page(found: Cells) -> str:
    """Validation accuracy at every rate and length, and how far the best is above the default."""
    rows = []
    for method, rates in RATES.items():
        for steps in LENGTHS:
            if own := at_rates(found, method, steps):
                best = best_of(own)
                shown = [f"**{told(own[rate])}**" if rate == best else told(own[rate]) for rate in rates]
                rows.append([method, f"{rates[1]:g}", f"{steps}", *shown, _interval(above_default(own))])
    return (
        "## Default learning rates on a masked language model\n\nValidation accuracy, mean of the two sets ± sample "
        "standard deviation over seeds, at the default, which was found in 100 steps on a sentence encoder, and at the "
        "half decades beside it; the best in bold. A run has failed where it is no better than the commonest class. "
        "Last, how far the best is above the default, with the 95 % interval over seeds.\n\n"
    ) + table(["method", "default", "steps", "below", "default", "above", "best less default"], rows)


def answers(found: Cells) -> list[list[str]]:
    """How many defaults are behind a neighbour at each length."""
    lines = []
    for steps in LENGTHS:
        own = [at_rates(found, method, steps) for method in RATES]
        gains = [above_default(rates) for rates in own if rates]
        if gains:
            clear = sum(gain.over_seeds()[0] > 0 for gain in gains)
            lines.append(
                [
                    f"How many default rates are behind a half decade beside them, in {steps} steps of BERT-tiny?",
                    f"{clear} of {len(gains)} by more than their seeds differ; the best is above the default by at "
                    f"most {max(gain.mean for gain in gains):.3f}.",
                ]
            )
    if moves := [move for method in RATES if (move := moved(found, method)) is not None]:
        down, up = sum(old > new for old, new, _ in moves), sum(old < new for old, new, _ in moves)
        lines.append(
            [
                "Does the best of these rates move with the length, from 100 steps to 400?",
                f"To a lower one in {down} of {len(moves)} methods, to a higher one in {up}; it is above the best of "
                f"100 steps by at most {max(gain for _, _, gain in moves):.3f}.",
            ]
        )
    return lines


def moved(found: Cells, method: str) -> tuple[float, float, float] | None:
    """The best rates of the short and of the long trainings, and how far the latter is above the former in the long
    ones; None where a length lacks cells."""
    short, long = (at_rates(found, method, steps) for steps in LENGTHS)
    if not short or not long:
        return None
    old, new = best_of(short), best_of(long)
    before, after = (statistics.fmean(scores(long[rate]).values()) for rate in (old, new))
    return old, new, after - before


def at_rates(found: Cells, method: str, steps: int) -> dict[float, Cells]:
    """Rate -> its cells; nothing where a rate lacks a set."""
    own = {rate: pick(found, method=method, steps=steps, rate=rate) for rate in RATES[method]}
    whole = all(pick(cells, set=name) for cells in own.values() for name in SETS)
    return own if whole else {}


def best_of(own: Mapping[float, Cells]) -> float:
    """The rate with the best mean of those at which no run failed, of all where some failed at each."""
    bear = [rate for rate in own if not failed(own[rate])] or list(own)
    return max(bear, key=lambda rate: statistics.fmean(scores(own[rate]).values()))


def above_default(own: Mapping[float, Cells]) -> Differences:
    """The best rate less the default, by set and seed."""
    default = list(own)[1]
    both = [{name: scores(pick(own[rate], set=name)) for name in SETS} for rate in (best_of(own), default)]
    return Differences.paired({name: (both[0][name], both[1][name]) for name in SETS})


def scores(found: Cells) -> dict[int, float]:
    """Seed -> mean validation accuracy."""
    by_seed = grouped(found, "seed")
    return {seed: statistics.fmean(e["validation_accuracy"] for e in own) for (seed,), own in by_seed.items()}


def told(found: Cells) -> str:
    bad = failed(found)
    return spread(list(scores(found).values())) + (f", {bad} failed" if bad else "")


def _interval(found: Differences) -> str:
    low, high = found.over_seeds()
    return f"{found.mean:+.3f} [{low:+.3f}, {high:+.3f}]"


if __name__ == "__main__":
    main()
