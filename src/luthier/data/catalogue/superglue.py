"""The tasks of SuperGLUE (Wang et al., NeurIPS 2019) as `KnownSet` fields, wherever their files come from."""

from __future__ import annotations

from typing import Any

from luthier.data.catalogue.known_set import CLASSES, ENTAILMENT, PREMISE_AND_HYPOTHESIS, TRUTH, numbered

_PAIR: dict[str, Any] = {"task": "pair", "labels": TRUTH, "metrics": ("accuracy",)}

SUPERGLUE: dict[str, dict[str, Any]] = {
    "boolq": _PAIR | {"columns": {"text": "question", "text_pair": "passage", "label": "label"}},
    "cb": _PAIR
    | {
        "columns": PREMISE_AND_HYPOTHESIS,
        "labels": ("entailment", "contradiction", "neutral"),
        "metrics": CLASSES,
    },
    "copa": {
        "task": "multiple_choice",
        "columns": {"context": "context", "choices": "choices", "label": "label"},
        "metrics": ("accuracy",),
        "derive": "copa",
    },
    "multirc": _PAIR
    | {
        "columns": {"text": "paragraph", "text_pair": "question_and_answer", "label": "label", "group": "group"},
        "label_map": numbered(TRUTH),
        "metrics": ("f1", "question_exact_match", "accuracy"),
        "derive": "multirc",
    },
    "record": _PAIR
    | {
        "columns": {
            "text": "text",
            "text_pair": "filled",
            "label": "label",
            "group": "group",
            "question": "query",
            "choices": "candidates",
            "candidate": "candidate",
        },
        "metrics": ("squad_f1", "exact_match"),
        "derive": "record",
    },
    "rte": _PAIR | {"columns": PREMISE_AND_HYPOTHESIS, "labels": ENTAILMENT},
    "wic": _PAIR
    | {"columns": {"text": "word_and_sentence", "text_pair": "sentence2", "label": "label"}, "derive": "wic"},
    "wsc": _PAIR | {"columns": {"text": "marked_text", "text_pair": "span1_text", "label": "label"}, "derive": "wsc"},
}
