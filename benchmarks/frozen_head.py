"""How much the score depends on whether the task head is trained beside the adapter.

The baselines of UniPELT's released code keep the head as it was drawn for some methods; here it is always trained
unless a recipe says `train_head: false`. Every part of UniPELT is trained with a frozen head on 100 examples; the same
runs with a trained head are those of `unipelt.py`.
"""

from __future__ import annotations

import json
from typing import Any

import harness
import unipelt
from tables import Cells, by_seed, gap, grouped, paired, pick, spread, table, test_scores

SETS = ("sst2", "trec")
EXAMPLES = 100
METHODS = {name: method for name, method in unipelt.METHODS.items() if name != "full"}
SETTINGS = {"methods": METHODS, "common": unipelt.COMMON, "steps": unipelt.STEPS[EXAMPLES], "batch": 8}


def main() -> None:
    bench = harness.Bench()

    def measure(cell: dict[str, Any]) -> dict[str, Any]:
        return bench.tune(unipelt.tune_block(cell) | {"train_head": False}, cell["seed"])

    cells = [
        {"set": name, "examples": EXAMPLES, "method": method, "seed": seed}
        for seed in unipelt.SEEDS
        for name in SETS
        for method in METHODS
    ]
    harness.run_cells("frozen_head", SETTINGS, cells, measure, harness.arguments(__doc__))


def page(cells: Cells) -> str:
    """Both ways side by side."""
    rows = []
    for (name, method), (trained, frozen) in both_ways(cells).items():
        shown = [spread(test_scores(trained)), spread(test_scores(frozen))]
        rows.append([name, method, *shown, gap(by_seed(trained), by_seed(frozen))])
    about = (
        "## A task head that stays as it was drawn\n\nMiniLM, 100 examples in all, 100 steps of 8, every method at its "
        "default rate; test accuracy on at most 300 rows, mean ± sample standard deviation over seeds.\n"
    )
    return about + "\n" + table(["set", "method", "head trained", "head frozen", "frozen - trained (95 %)"], rows)


def answers(cells: Cells) -> list[tuple[str, str]]:
    pairs = [paired(by_seed(trained), by_seed(frozen)) for trained, frozen in both_ways(cells).values()]
    means = [found.mean for found in pairs if found]
    said = f"{min(means):+.3f} to {max(means):+.3f} over {len(means)} pairs of set and method."
    return [("What does a task head cost that stays as it was drawn, as in some released baselines?", said)]


def both_ways(cells: Cells) -> dict[tuple[Any, ...], tuple[Cells, Cells]]:
    """(set, method) -> the runs with a trained head, which are those of `unipelt.py`, and with a frozen one."""
    place = harness.RESULTS / "unipelt.json"
    others = list(json.loads(place.read_text(encoding="utf8"))["cells"].values()) if place.exists() else []
    found = {
        (name, method): (pick(others, set=name, method=method, examples=EXAMPLES), frozen)
        for (name, method), frozen in grouped(cells, "set", "method").items()
    }
    return {key: both for key, both in found.items() if both[0]}


if __name__ == "__main__":
    main()
