"""GLUE (Wang et al., ICLR 2019) and SuperGLUE (Wang et al., NeurIPS 2019) on the Hugging Face Hub.

Test labels of both are hidden, so only training and validation splits are named here.
"""

from __future__ import annotations

from typing import Any

from luthier.data.known_set import NLI, SENTIMENT, KnownSet

_BOTH = {"train": "train", "validation": "validation"}
_ENTAILMENT = ("entailment", "not_entailment")
_TRUTH = ("False", "True")


def _glue(
    name: str, texts: tuple[str, ...], labels: tuple[str, ...] | None, metrics: tuple[str, ...], **more: Any
) -> KnownSet:
    columns = dict(zip(("text", "text_pair"), texts, strict=False)) | {"label": "label"}
    task = "regression" if labels is None else "pair" if len(texts) == 2 else "single_sentence"
    settings: dict[str, Any] = {"splits": _BOTH} | more
    return KnownSet(
        f"glue/{name}", task, columns, labels=labels, metrics=metrics, hub=("nyu-mll/glue", name), **settings
    )


def _superglue(name: str, columns: dict[str, str], metrics: tuple[str, ...], **more: Any) -> KnownSet:
    settings: dict[str, Any] = {"task": "pair", "splits": _BOTH, "labels": _TRUTH} | more
    return KnownSet(f"superglue/{name}", columns=columns, metrics=metrics, hub=("aps/super_glue", name), **settings)


HUB_SETS: tuple[KnownSet, ...] = (
    _glue(
        "cola",
        ("sentence",),
        ("unacceptable", "acceptable"),
        ("matthews_correlation", "accuracy"),
    ),
    _glue("sst2", ("sentence",), SENTIMENT, ("accuracy",)),
    _glue("mrpc", ("sentence1", "sentence2"), ("not_equivalent", "equivalent"), ("f1", "accuracy")),
    _glue("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("f1", "accuracy")),
    _glue("stsb", ("sentence1", "sentence2"), None, ("spearman", "pearson")),
    _glue(
        "mnli",
        ("premise", "hypothesis"),
        NLI,
        ("accuracy",),
        splits={
            "train": "train",
            "validation": "validation_matched",
            "validation_matched": "validation_matched",
            "validation_mismatched": "validation_mismatched",
        },
        note="validation is the matched half; `glue/mnli#validation_mismatched` is the other",
    ),
    _glue("qnli", ("question", "sentence"), _ENTAILMENT, ("accuracy",)),
    _glue("rte", ("sentence1", "sentence2"), _ENTAILMENT, ("accuracy",)),
    _glue("wnli", ("sentence1", "sentence2"), ("not_entailment", "entailment"), ("accuracy",)),
    _superglue("boolq", {"text": "question", "text_pair": "passage", "label": "label"}, ("accuracy",)),
    _superglue(
        "cb",
        {"text": "premise", "text_pair": "hypothesis", "label": "label"},
        ("accuracy", "macro_f1"),
        labels=("entailment", "contradiction", "neutral"),
    ),
    _superglue(
        "copa",
        {"context": "context", "choices": "choices", "label": "label"},
        ("accuracy",),
        task="multiple_choice",
        labels=None,
        derive="copa",
    ),
    _superglue(
        "multirc",
        {"text": "paragraph", "text_pair": "question_and_answer", "label": "label", "group": "group"},
        ("f1", "accuracy"),
        derive="multirc",
        note="column `group` joins the answers of one question",
    ),
    _superglue(
        "rte",
        {"text": "premise", "text_pair": "hypothesis", "label": "label"},
        ("accuracy",),
        labels=_ENTAILMENT,
    ),
    _superglue(
        "wic", {"text": "word_and_sentence", "text_pair": "sentence2", "label": "label"}, ("accuracy",), derive="wic"
    ),
    _superglue(
        "wsc", {"text": "marked_text", "text_pair": "span1_text", "label": "label"}, ("accuracy",), derive="wsc"
    ),
)
