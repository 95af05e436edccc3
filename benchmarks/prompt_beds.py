"""On which sets a prompt has something to bring on the masked language model: head alone, prompt, and all weights.

What compares prompts with one another needs a set on which the head does not do the work alone, and which full
fine-tuning learns. One seed, 300 steps of 8, 2,000 examples, 500 validation rows; nothing is scored on test.
`residual_prompt_language.py` takes its set from here.
"""

from __future__ import annotations

from typing import Any

import harness
from protocol import MASKED_LM, bed_exists
from tables import Cells, pick, table

SETS = ("trec", "trec/fine", "subj", "sst2", "sick", "atis", "cola")
SEED, STEPS, BATCH = 101, 300, 8
COMMON = {"too_long": "truncate", "max_length": 64, "examples": 2000, "validation_examples": 500, "subset_seed": SEED}
PROMPT = {"name": "prompt", "length": 10, "init": "vocabulary", "insert": "after_cls", "head_learning_rate": 5e-3}
ARMS: dict[str, dict[str, Any]] = {
    "head_only": {"method": "head_only", "learning_rate": 3e-2},
    "prompt": {"method": PROMPT, "learning_rate": 1e-2},
    "full": {"method": "full", "learning_rate": 1e-4},
}
SETTINGS = {"model": str(MASKED_LM), "common": COMMON, "steps": STEPS, "batch": BATCH, "seed": SEED, "arms": ARMS}


def main() -> None:
    options = harness.arguments(__doc__)
    bed_exists(str(MASKED_LM))
    bench = harness.Bench(str(MASKED_LM))

    def measure(cell: dict[str, Any]) -> dict[str, Any]:
        tune = {
            **ARMS[cell["arm"]],
            "data": {"source": f"data:{cell['set']}", **COMMON},
            "max_steps": STEPS,
            "batch_size": BATCH,
            "evaluate_every": STEPS // 2,
        }
        return bench.tune(tune, SEED, test=None)

    cells = [{"set": name, "arm": arm} for name in SETS for arm in ARMS]
    harness.run_cells("prompt_beds", SETTINGS, cells, measure, options)


def page(cells: Cells) -> str:
    """Validation scores side by side."""
    rows = []
    for name in SETS:
        found = {arm: pick(cells, set=name, arm=arm) for arm in ARMS}
        if all(found.values()):
            primary = found["full"][0]["primary"]
            rows.append([name, primary, *(f"{own[0]['validation_' + primary]:.3f}" for own in found.values())])
    about = (
        "## Where a prompt has something to bring\n\nThe masked language model, 2,000 examples, 300 steps of 8, one "
        "seed; score on 500 validation rows with the head alone, a prompt of 10 behind [CLS], and all weights. Where "
        "the prompt is not above the head alone, no comparison of prompts can tell anything.\n\n"
    )
    return about + table(["set", "score", *ARMS], rows)


if __name__ == "__main__":
    main()
