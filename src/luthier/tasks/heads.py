"""Which head of a model serves which kind of task, and which PEFT task type goes with it."""

from __future__ import annotations

from typing import Any

from luthier.models.settings import Head

HEADS: dict[str, Head] = {
    "single_sentence": "sequence_classification",
    "pair": "sequence_classification",
    "regression": "sequence_classification",
    "token_labels": "token_classification",
    "extractive_qa": "question_answering",
    "multiple_choice": "multiple_choice",
}
LANGUAGE_HEADS: dict[bool, Head] = {True: "seq2seq_lm", False: "causal_lm"}
PEFT_TASK_TYPES = {
    "sequence_classification": "SEQ_CLS",
    "multiple_choice": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
    "question_answering": "QUESTION_ANS",
    "causal_lm": "CAUSAL_LM",
    "seq2seq_lm": "SEQ_2_SEQ_LM",
}


def head_for(schema: str, config: Any) -> Head:
    """The head that a task of this schema needs on a model with this configuration."""
    if schema in HEADS:
        return HEADS[schema]
    return LANGUAGE_HEADS[bool(getattr(config, "is_encoder_decoder", False))]
