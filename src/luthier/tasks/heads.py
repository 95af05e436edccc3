"""Which PEFT task type goes with a head, and which head a language model has."""

from __future__ import annotations

from luthier.models.settings import Head

LANGUAGE_HEADS: dict[bool, Head] = {True: "seq2seq_lm", False: "causal_lm"}
PEFT_TASK_TYPES = {
    "sequence_classification": "SEQ_CLS",
    "multiple_choice": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
    "question_answering": "QUESTION_ANS",
    "causal_lm": "CAUSAL_LM",
    "seq2seq_lm": "SEQ_2_SEQ_LM",
}
