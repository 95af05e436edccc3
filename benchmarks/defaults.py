"""Chooses the default learning rate of every tuning method.

Every method is trained at three or four rates on two data sets that no other benchmark reports. The rate with
the best mean validation accuracy becomes the method's default in `src/luthier/tuning/methods/`.
"""

from __future__ import annotations

from typing import Any

import harness

SETS = {
    "mr": {"source": "data:mr", "per_class": 150, "max_length": 96, "too_long": "truncate"},
    "atis": {"source": "data:atis", "examples": 800, "max_length": 64, "too_long": "truncate"},
}
SEEDS = (1,)
STEPS = 100
SMALL, MIDDLE, LARGE = (5e-5, 1e-4, 3e-4), (3e-4, 1e-3, 3e-3, 1e-2), (1e-3, 3e-3, 1e-2, 1e-1)
RATES: dict[str, tuple[float, ...]] = {
    "full": SMALL,
    "head_only": MIDDLE,
    "bitfit": MIDDLE,
    "lora": MIDDLE,
    "ia3": MIDDLE,
    "prefix": MIDDLE,
    "p_tuning": MIDDLE,
    "prompt": LARGE,
    "residual_prompt": LARGE,
}
SETTINGS = {"sets": SETS, "steps": STEPS, "batch_size": 8, "model": harness.MINILM}


def main() -> None:
    bench = harness.Bench()

    def measure(cell: dict[str, Any]) -> dict[str, Any]:
        data = SETS[cell["set"]] | {"limit": 300}
        tune = {
            "method": cell["method"],
            "data": data,
            "max_steps": STEPS,
            "batch_size": 8,
            "learning_rate": cell["rate"],
            "evaluate_every": 100,
        }
        return bench.tune(tune, cell["seed"], test=None)

    cells = [
        {"set": name, "method": method, "rate": rate, "seed": seed}
        for name in SETS
        for method, rates in RATES.items()
        for rate in rates
        for seed in SEEDS
    ]
    harness.run_cells("defaults", SETTINGS, cells, measure, harness.arguments(__doc__))


if __name__ == "__main__":
    main()
