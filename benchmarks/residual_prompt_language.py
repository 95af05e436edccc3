"""Residual Prompt Tuning against prompt tuning on a masked language model.

Claim, as one number: test accuracy, residual prompt less prompt, at the rate that validation chose for each; published
about +7 points (SuperGLUE, T5-Base), so that half of it is 3.5. Both prompts stand behind [CLS], which the head reads,
start from the same rows of the vocabulary, and train a head at the same rate. What the model sees of the residual one
is longer at the start, by the layer norm behind its network (norms of 19.5 and 1.1 where it was looked at): an
exploratory arm, a prompt that starts from noise of unit variance, has that length without the network.

The model is the one that `recipes/local/masked_lm.yaml` trains, not a sentence encoder: a prompt steers what was
learned by filling gaps.
"""

from __future__ import annotations

from evidence import Claim
from protocol import MASKED_LM, Comparison, Study, arguments, at_rates, run

RATES, RESIDUAL_RATES = (3e-3, 1e-2, 3e-2, 1e-1), (1e-3, 3e-3, 1e-2, 3e-2)
COMMON = {"too_long": "truncate", "max_length": 64, "examples": 2000, "validation_examples": 500}
PROMPT = {"length": 10, "init": "vocabulary", "insert": "after_cls", "head_learning_rate": 5e-3}
STUDY = Study(
    name="residual_prompt_language",
    title="Residual Prompt Tuning against prompt tuning on a masked language model",
    about="2,000 examples, prompt length 10, behind [CLS].",
    model=str(MASKED_LM),
    sets={
        "subj": {"source": "data:subj", **COMMON},
        "sst2": {"source": "data:sst2", **COMMON},
        "trec": {"source": "data:trec", **COMMON},
    },
    tune={"max_steps": 400, "batch_size": 8, "evaluate_every": 100},
    arms={
        "prompt": at_rates({"name": "prompt", **PROMPT}, *RATES),
        "residual_prompt": at_rates(
            {"name": "residual_prompt", "network_learning_rate": None, **PROMPT}, *RESIDUAL_RATES
        ),
        "prompt from noise": at_rates({"name": "prompt", **PROMPT, "init": "random"}, *RATES),
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
                "Residual Prompt Tuning scores above prompt tuning from noise, as long at the start.",
                "test accuracy at the rate that validation chose, residual prompt less prompt from noise",
                None,
                "",
                "masked LM",
                main=False,
            ),
            "residual_prompt",
            ("prompt from noise",),
        ),
    ),
)


def main() -> None:
    run(STUDY, arguments(__doc__))


if __name__ == "__main__":
    main()
