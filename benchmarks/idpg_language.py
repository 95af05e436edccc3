"""IDPG against prompt tuning, prefixes and LoRA of its size, on a masked language model.

Claim, as one number: test score with 500 examples, IDPG less prompt tuning of its prompt length, five, as in the paper
(published +2.1 points). Exploratory, since no number of seeds here sees their published differences, or they have none:
less prefixes (+0.2, of P-tuning v2) and LoRA, each with about as many numbers trained beside the head. A prompt of that
size, 48 vectors, makes a step three times as long and is left out. Prompts, IDPG's too, stand behind [CLS], which the
head reads; heads learn at one rate but for LoRA's, which has none of its own. The set is one on which prompts bring
something beside the head, by `prompt_beds.py`.
"""

from __future__ import annotations

from evidence import Claim
from protocol import MASKED_LM, Comparison, Study, arguments, at_rates, run

COMMON = {"too_long": "truncate", "max_length": 112, "examples": 500, "validation_examples": 300}
HEAD = {"head_learning_rate": 5e-3}
PROMPT = {"insert": "after_cls", **HEAD}
STUDY = Study(
    name="idpg_language",
    title="IDPG at equal size on a masked language model",
    about="500 examples in all; prompts stand behind [CLS].",
    model=str(MASKED_LM),
    sets={"trec": {"source": "data:trec", **COMMON}},
    tune={"max_steps": 600, "batch_size": 8, "evaluate_every": 120},
    arms={
        "idpg": at_rates({"name": "idpg", **HEAD}, 1e-3, 3e-3, 1e-2, 3e-2),
        "prompt": at_rates({"name": "prompt", "length": 5, **PROMPT}, 3e-3, 1e-2, 3e-2, 1e-1),
        "prefix": at_rates({"name": "prefix", "length": 4, **HEAD}, 1e-3, 3e-3, 1e-2, 3e-2),
        "lora": at_rates({"name": "lora", "rank": 2}, 3e-4, 1e-3, 3e-3, 1e-2),
    },
    comparisons=tuple(
        Comparison(
            Claim(
                f"IDPG is above {name}.",
                f"test accuracy with 500 examples, IDPG less {name}",
                published,
                "500 examples, mean over ten tasks",
                "masked LM",
                main=other == "prompt",
            ),
            "idpg",
            (other,),
        )
        for other, name, published in (
            ("prompt", "prompt tuning of its prompt length", 0.021),
            ("prefix", "prefixes of its size", 0.002),
            ("lora", "LoRA of its size", None),
        )
    ),
)


def main() -> None:
    run(STUDY, arguments(__doc__))


if __name__ == "__main__":
    main()
