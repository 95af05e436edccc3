"""Prompts before the text against prompts behind [CLS], for every method that has the setting `insert`.

MiniLM's classifier reads its first position. A prompt before the text puts its first vector there; behind [CLS], the
token stays that was trained to stand for the text. On the demo's own film reviews (`python demo/prepare.py`):
sentences and their polarity.
"""

from __future__ import annotations

from typing import Any

import harness
from tables import Cells, gap, grouped, pick, spread, table

PLACES = ("before_text", "after_cls")
METHODS = ("p_tuning", "prompt", "residual_prompt")
DATA = {
    "train": ".cache/demo/train.tsv",
    "validation": ".cache/demo/validation.tsv",
    "task": "single_sentence",
    "max_length": 48,
    "too_long": "truncate",
}
SEEDS = (1, 2, 3)
STEPS, LENGTH, BATCH = 150, 10, 8
SETTINGS = {"data": DATA, "steps": STEPS, "length": LENGTH, "batch": BATCH, "model": harness.MINILM}


def main() -> None:
    bench = harness.Bench()

    def measure(cell: dict[str, Any]) -> dict[str, Any]:
        tune = {
            "method": {"name": cell["method"], "length": LENGTH, "insert": cell["insert"]},
            "data": DATA,
            "max_steps": STEPS,
            "batch_size": BATCH,
            "evaluate_every": STEPS,
        }
        return bench.tune(tune, cell["seed"], test=None)

    cells = [
        {"method": method, "insert": place, "seed": seed} for method in METHODS for seed in SEEDS for place in PLACES
    ]
    harness.run_cells("prompt_place", SETTINGS, cells, measure, harness.arguments(__doc__))


def page(cells: Cells) -> str:
    """Accuracy by method and place, and what the place changes."""
    rows = []
    for (method, place), found in grouped(cells, "method", "insert").items():
        other = pick(cells, method=method, insert="before_text")
        gaps = gap(_by_seed(other), _by_seed(found)) if place == "after_cls" else ""
        rows.append([f"`{method}`", f"`{place}`", spread(list(_by_seed(found).values())), gaps])
    about = (
        f"## Where a prompt stands\n\nMiniLM on sentences of film reviews; {LENGTH} prompt vectors, {STEPS} steps of "
        f"{BATCH} at the default rates, weights of the last step; accuracy on 300 held-out rows, mean ± sample "
        "standard deviation over three seeds. The last column is `after_cls` minus `before_text`, paired by seed.\n"
    )
    return about + "\n" + table(["method", "`insert`", "accuracy", "difference (95 %)"], rows)


def answers(cells: Cells) -> list[tuple[str, str]]:
    found = []
    for method in METHODS:
        before, after = (_by_seed(pick(cells, method=method, insert=place)) for place in PLACES)
        found.append(f"{method} {gap(before, after)}")
    question = "Does a classifier that reads [CLS] gain from a prompt that stands behind it?"
    return [(question, f"Accuracy of `after_cls` minus that of `before_text`: {', '.join(found)}.")]


def _by_seed(cells: Cells) -> dict[Any, float]:
    """Seed -> accuracy; the one evaluation is at the end, so that nothing was chosen on these rows."""
    return {entry["cell"]["seed"]: float(entry["validation_accuracy"]) for entry in cells}


if __name__ == "__main__":
    main()
