"""UniPELT against the best of its parts, on a masked language model, with 100 and 500 examples.

Claim, as one number: test score, UniPELT less the part that validation chose on each set and size. Against the part
that is best on average the paper is 4.4 and 2.0 points above; against the best part of every task, as here, 2.0 points
with 100 examples and 0.0 with 500, 1.0 on average.
"""

from __future__ import annotations

from evidence import Claim
from protocol import MASKED_LM, Comparison, Study, arguments, at_rates, run

COMMON = {"too_long": "truncate", "max_length": 64, "validation_examples": 300}
PARTS = ("bottleneck", "prefix", "lora")
STUDY = Study(
    name="unipelt_language",
    title="UniPELT against its parts on a masked language model",
    about="Parts are as large as in UniPELT itself.",
    model=str(MASKED_LM),
    sets={
        f"{name}, {examples}": {"source": f"data:{name}", "examples": examples, **COMMON}
        for examples in (100, 500)
        for name in ("subj", "sst2", "trec")
    },
    tune={"max_steps": 400, "batch_size": 8, "evaluate_every": 50, "patience": 4},
    arms={
        "bottleneck": at_rates({"name": "bottleneck", "reduction": 16}, 3e-4, 1e-3, 3e-3),
        "prefix": at_rates({"name": "prefix", "length": 10}, 1e-3, 3e-3, 1e-2),
        "lora": at_rates({"name": "lora", "rank": 8}, 3e-4, 1e-3, 3e-3),
        "unipelt": at_rates({"name": "unipelt"}, 3e-4, 1e-3, 3e-3),
    },
    comparisons=(
        Comparison(
            Claim(
                "UniPELT is above the best of its parts where data is scarce.",
                "test accuracy with 100 and 500 examples, UniPELT less the part that validation chose on each set",
                0.01,
                "+2.0 and -0.0 points against the best part of every task",
                "masked LM",
            ),
            "unipelt",
            PARTS,
        ),
    ),
)


def main() -> None:
    run(STUDY, arguments(__doc__))


if __name__ == "__main__":
    main()
