"""IDPG against prompt tuning of its size, on a small masked language model.

Claim, as one number: test score with 500 examples, IDPG with five vectors less a prompt of 80 vectors, which are as
many numbers (10,240 beside the head's, IDPG 10,256). The published difference, 2.1 points, is to a prompt of IDPG's
length. Both stand behind [CLS]; questions are short, so that no row is cut in either. The model is BERT-tiny's, in
which 80 vectors are few: on MiniLM, three times as wide, IDPG's size is a prompt that makes a step three times as long.
"""

from __future__ import annotations

from evidence import Claim
from protocol import TINY_LM, Comparison, Study, arguments, at_rates, run

HEAD = {"head_learning_rate": 5e-3}
PROMPT = {"name": "prompt", "insert": "after_cls", **HEAD}
STUDY = Study(
    name="idpg_size",
    title="IDPG against a prompt of its size on a small masked language model",
    about="500 examples in all; prompts stand behind [CLS].",
    model=str(TINY_LM),
    sets={
        "trec": {
            "source": "data:trec",
            "too_long": "error",
            "max_length": 144,
            "examples": 500,
            "validation_examples": 300,
        }
    },
    tune={"max_steps": 600, "batch_size": 8, "evaluate_every": 120},
    arms={
        "idpg": at_rates({"name": "idpg", **HEAD}, 1e-3, 3e-3, 1e-2, 3e-2),
        "prompt of 80": at_rates(PROMPT | {"length": 80}, 3e-3, 1e-2, 3e-2, 1e-1),
        "prompt of 5": at_rates(PROMPT | {"length": 5}, 3e-3, 1e-2, 3e-2, 1e-1),
        "head_only": at_rates({"name": "head_only"}, 1e-3, 3e-3, 1e-2, 3e-2),
    },
    comparisons=tuple(
        Comparison(
            Claim(
                name,
                f"test accuracy with 500 examples, {number}",
                published,
                "500 examples, mean over ten tasks, to a prompt of its length" if published else "",
                "BERT-tiny LM",
                main=main,
            ),
            first,
            (second,),
        )
        for name, number, published, main, first, second in (
            (
                "IDPG is above prompt tuning of its size.",
                "IDPG less a prompt of 80 vectors",
                0.021,
                True,
                "idpg",
                "prompt of 80",
            ),
            (
                "IDPG is above prompt tuning of its prompt length.",
                "IDPG less a prompt of 5 vectors",
                0.021,
                False,
                "idpg",
                "prompt of 5",
            ),
            (
                "IDPG brings anything beside the head on this bed.",
                "IDPG less head alone",
                None,
                False,
                "idpg",
                "head_only",
            ),
        )
    ),
)


def main() -> None:
    run(STUDY, arguments(__doc__))


if __name__ == "__main__":
    main()
