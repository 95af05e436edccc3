"""Prompts before the text against prompts behind [CLS], for every method that has the setting `insert`.

MiniLM's classifier reads its first position. A prompt before the text puts its first vector there; behind [CLS], the
token stays that was trained to stand for the text. On the demo's own files (`python demo/prepare.py`): sentences of
film reviews, and tweets, each with its polarity.
"""

from __future__ import annotations

import statistics
from typing import Any

import harness
from tables import Cells, gap, grouped, pick, spread, table

PLACES = ("before_text", "after_cls")
METHODS = ("prompt", "p_tuning", "residual_prompt")
SETS: dict[str, dict[str, Any]] = {
    "films": {"train": ".cache/demo/train.tsv", "validation": ".cache/demo/validation.tsv"},
    "tweets": {"train": ".cache/demo/tweets-train.tsv", "validation": ".cache/demo/tweets-validation.tsv"},
}
SEEDS = (1, 2, 3)
STEPS, LENGTH, BATCH = 100, 10, 8
COMMON = {"task": "single_sentence", "max_length": 48, "too_long": "truncate"}
SETTINGS = {"sets": SETS, "common": COMMON, "steps": STEPS, "length": LENGTH, "batch": BATCH, "model": harness.MINILM}


def main() -> None:
    bench = harness.Bench()

    def measure(cell: dict[str, Any]) -> dict[str, Any]:
        tune = {
            "method": {"name": cell["method"], "length": LENGTH, "insert": cell["insert"]},
            "data": SETS[cell["set"]] | COMMON,
            "max_steps": STEPS,
            "batch_size": BATCH,
            "evaluate_every": STEPS,
        }
        return bench.tune(tune, cell["seed"], test=None)

    cells = [
        {"set": name, "method": method, "insert": place, "seed": seed}
        for seed in SEEDS
        for name in SETS
        for method in METHODS
        for place in PLACES
    ]
    harness.run_cells("prompt_place", SETTINGS, cells, measure, harness.arguments(__doc__))


def page(cells: Cells) -> str:
    """Accuracy by method and place, and what the place changes."""
    rows = []
    for (method, place), found in grouped(cells, "method", "insert").items():
        per_set = [[score(entry) for entry in pick(found, set=name)] for name in SETS]
        other = pick(cells, method=method, insert="before_text")
        gaps = gap(_mean(other), _mean(found)) if place == "after_cls" else ""
        mean = statistics.fmean(statistics.fmean(scores) for scores in per_set if scores)
        rows.append([f"`{method}`", f"`{place}`", *(spread(s) if s else "" for s in per_set), f"{mean:.3f}", gaps])
    about = (
        f"## Where a prompt stands\n\nMiniLM; {LENGTH} prompt vectors, {STEPS} steps of {BATCH} at the default rates, "
        "weights of the last step; accuracy on 300 held-out rows, mean ± sample standard deviation over three seeds. "
        "The last column is `after_cls` minus `before_text`, mean over the sets, paired by seed.\n"
    )
    return about + "\n" + table(["method", "`insert`", *SETS, "mean", "difference (95 %)"], rows)


def answers(cells: Cells) -> list[tuple[str, str]]:
    found = []
    for method in METHODS:
        before, after = (_mean(pick(cells, method=method, insert=place)) for place in PLACES)
        found.append(f"{method} {gap(before, after)}")
    question = "Does a classifier that reads [CLS] gain from a prompt that stands behind it?"
    return [(question, f"`after_cls` minus `before_text`, mean over two sets: {', '.join(found)}.")]


def score(entry: dict[str, Any]) -> float:
    """Accuracy on the held-out rows; there is one evaluation, at the end, so that nothing was chosen on them."""
    return float(entry["validation_accuracy"])


def _mean(cells: Cells) -> dict[Any, float]:
    """Seed -> mean accuracy over the sets, of seeds that have all of them."""
    seeds = grouped(cells, "seed")
    return {seed: statistics.fmean(map(score, found)) for (seed,), found in seeds.items() if len(found) == len(SETS)}


if __name__ == "__main__":
    main()
