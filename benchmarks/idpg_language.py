"""IDPG against prompt tuning, prefixes and LoRA of its size, on a masked language model.

Claims, as numbers: test score with 500 examples, IDPG less prompt tuning (published +2.1 points) and less prefixes
(+0.2, of P-tuning v2); against LoRA it is exploratory. About as many numbers are trained in every arm beside the head;
prompts, IDPG's too, stand behind [CLS], which the head reads.
"""

from __future__ import annotations

from evidence import Claim
from protocol import MASKED_LM, Comparison, Study, arguments, at_rates, run

COMMON = {"too_long": "truncate", "max_length": 64, "examples": 500, "validation_examples": 300}
STUDY = Study(
    name="idpg_language",
    title="IDPG at equal size on a masked language model",
    about="500 examples in all; prompts stand behind [CLS].",
    model=str(MASKED_LM),
    sets={name: {"source": f"data:{name}", **COMMON} for name in ("subj", "sst2", "trec")},
    tune={"max_steps": 600, "batch_size": 8, "evaluate_every": 60, "patience": 4},
    arms={
        "idpg": at_rates({"name": "idpg"}, 1e-3, 3e-3, 1e-2, 3e-2),
        "prompt": at_rates({"name": "prompt", "length": 48, "insert": "after_cls"}, 3e-3, 1e-2, 3e-2, 1e-1),
        "prefix": at_rates({"name": "prefix", "length": 4}, 1e-3, 3e-3, 1e-2, 3e-2),
        "lora": at_rates({"name": "lora", "rank": 2}, 3e-4, 1e-3, 3e-3, 1e-2),
    },
    comparisons=tuple(
        Comparison(
            Claim(
                f"IDPG is above {name} of its size.",
                f"test accuracy with 500 examples, IDPG less {name}",
                published,
                "500 examples, mean over ten tasks",
                "masked LM",
                main=published is not None,
            ),
            "idpg",
            (other,),
        )
        for other, name, published in (
            ("prompt", "prompt tuning", 0.021),
            ("prefix", "prefixes", 0.002),
            ("lora", "LoRA", None),
        )
    ),
)


def main() -> None:
    run(STUDY, arguments(__doc__))


if __name__ == "__main__":
    main()
