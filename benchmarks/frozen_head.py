"""How much the score depends on whether the task head is trained beside the adapter.

The baselines of UniPELT's released code keep the head as it was drawn for some methods; here it is always trained
unless a recipe says `train_head: false`. Every part of UniPELT is trained both ways on 100 examples.
"""

from __future__ import annotations

from typing import Any

import harness
import unipelt
from tables import Cells, by_seed, gap, grouped, pick, spread, table, test_scores

SETS = ("sst2", "trec")
EXAMPLES = 100
METHODS = {**unipelt.PARTS, "bitfit": {"name": "bitfit"}, "unipelt": {"name": "unipelt"}}
SETTINGS = {"methods": METHODS, "common": unipelt.COMMON, "steps": unipelt.STEPS[EXAMPLES], "batch": 8}


def main() -> None:
    bench = harness.Bench()

    def measure(cell: dict[str, Any]) -> dict[str, Any]:
        return bench.tune(unipelt.tune_block(cell) | {"train_head": cell["head"] == "trained"}, cell["seed"])

    cells = [
        {"set": name, "examples": EXAMPLES, "method": method, "head": head, "seed": seed}
        for seed in unipelt.SEEDS
        for name in SETS
        for method in METHODS
        for head in ("trained", "frozen")
    ]
    harness.run_cells("frozen_head", SETTINGS, cells, measure, harness.arguments(__doc__))


def page(cells: Cells) -> str:
    """Both ways side by side."""
    rows = []
    for (name, method), found in grouped(cells, "set", "method").items():
        trained, frozen = pick(found, head="trained"), pick(found, head="frozen")
        if trained and frozen:
            shown = [spread(test_scores(trained)), spread(test_scores(frozen))]
            rows.append([name, method, *shown, gap(by_seed(trained), by_seed(frozen))])
    about = (
        "## A task head that stays as it was drawn\n\nMiniLM, 100 examples in all, 100 steps of 8, every method at its "
        "default rate; test accuracy on at most 300 rows, mean ± sample standard deviation over seeds.\n"
    )
    return about + "\n" + table(["set", "method", "head trained", "head frozen", "frozen - trained (95 %)"], rows)


if __name__ == "__main__":
    main()
