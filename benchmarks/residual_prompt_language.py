"""Residual Prompt Tuning against prompt tuning on a masked language model.

Claim, as one number: test accuracy on TREC, residual prompt less prompt, at the rate that validation chose for each;
published about +7 points (SuperGLUE, T5-Base), so that half of it is 3.5. Both prompts stand behind [CLS], which the
head reads, start from the same rows of the vocabulary, and train a head at the same rate.

The model is the one that `recipes/local/masked_lm.yaml` trains, not a sentence encoder: a prompt steers what was
learned by filling gaps. The set is one on which a prompt brings something beside the head, by `prompt_beds.py`; on
subj, sst2, sick and atis the head does the work alone. `head_only` is an arm for that.
"""

from __future__ import annotations

from evidence import Claim
from protocol import MASKED_LM, Comparison, Study, arguments, at_rates, run

RATES, RESIDUAL_RATES, HEAD_RATES = (3e-3, 1e-2, 3e-2, 1e-3), (1e-3, 3e-3, 1e-2, 3e-4), (3e-3, 1e-2, 3e-2, 1e-1)
COMMON = {"too_long": "truncate", "max_length": 64, "examples": 2000, "validation_examples": 500}
PROMPT = {"length": 10, "init": "vocabulary", "insert": "after_cls", "head_learning_rate": 5e-3}
STUDY = Study(
    name="residual_prompt_language",
    title="Residual Prompt Tuning against prompt tuning on a masked language model",
    about="2,000 examples, 600 steps of 8, prompt length 10, behind [CLS]; `head_only` shows what the head does alone.",
    model=str(MASKED_LM),
    sets={"trec": {"source": "data:trec", **COMMON}},
    tune={"max_steps": 600, "batch_size": 8, "evaluate_every": 200},
    arms={
        "prompt": at_rates({"name": "prompt", **PROMPT}, *RATES),
        "residual_prompt": at_rates(
            {"name": "residual_prompt", "network_learning_rate": None, **PROMPT}, *RESIDUAL_RATES
        ),
        "head_only": at_rates({"name": "head_only"}, *HEAD_RATES),
    },
    comparisons=(
        Comparison(
            Claim(
                "Residual Prompt Tuning scores above prompt tuning.",
                "test accuracy at the rate that validation chose, residual prompt less prompt",
                0.07,
                "about 7 points on SuperGLUE with T5-Base",
                "masked LM",
            ),
            "residual_prompt",
            ("prompt",),
        ),
        Comparison(
            Claim(
                "A prompt brings anything beside the head on this set.",
                "test accuracy at the rate that validation chose, prompt less head alone",
                None,
                "no claim of the paper",
                "masked LM",
                main=False,
            ),
            "prompt",
            ("head_only",),
        ),
    ),
)


def main() -> None:
    run(STUDY, arguments(__doc__))


if __name__ == "__main__":
    main()
