"""GLUE (Wang et al., ICLR 2019) and SuperGLUE (Wang et al., NeurIPS 2019) on the Hugging Face Hub.

Test labels of both are hidden, so only training and validation splits are named here.
"""

from __future__ import annotations

from typing import Any

from luthier.data.catalogue.known_set import ENTAILMENT, NLI, SENTIMENT, KnownSet
from luthier.data.catalogue.superglue import SUPERGLUE

_BOTH = {"train": "train", "validation": "validation"}


def _glue(
    name: str, texts: tuple[str, ...], labels: tuple[str, ...] | None, metrics: tuple[str, ...], **more: Any
) -> KnownSet:
    columns = dict(zip(("text", "text_pair"), texts, strict=False)) | {"label": "label"}
    task = "regression" if labels is None else "pair" if len(texts) == 2 else "single_sentence"
    settings: dict[str, Any] = {"splits": _BOTH} | more
    return KnownSet(
        f"glue/{name}", task, columns, labels=labels, metrics=metrics, hub=("nyu-mll/glue", name), **settings
    )


_SUPERGLUE_NOTES = {
    "multirc": "column `group` joins the answers of one question",
    "record": "one row a candidate entity; column `group` joins those of one query",
}


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
    _glue("qnli", ("question", "sentence"), ENTAILMENT, ("accuracy",)),
    _glue("rte", ("sentence1", "sentence2"), ENTAILMENT, ("accuracy",)),
    _glue("wnli", ("sentence1", "sentence2"), ("not_entailment", "entailment"), ("accuracy",)),
    *(
        KnownSet(
            f"superglue/{name}",
            splits=_BOTH,
            hub=("aps/super_glue", name),
            note=_SUPERGLUE_NOTES.get(name, ""),
            **shape,
        )
        for name, shape in SUPERGLUE.items()
    ),
)
