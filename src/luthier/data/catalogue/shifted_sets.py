"""Public sets that show how a model stands other domains, revised texts and attacks. Most are for evaluation only."""

from __future__ import annotations

from collections.abc import Iterable

from luthier.data.catalogue.known_set import (
    ENTAILMENT,
    NEWS,
    NLI,
    PREMISE_AND_HYPOTHESIS,
    SENTIMENT,
    SHARES,
    TEXT_AND_LABEL,
    TRUTH,
    Files,
    KnownSet,
    laid_out,
    numbered,
    public_set,
    three_files,
)

_POLAR = {"Negative": "negative", "Positive": "positive"}


def _shifted() -> Iterable[KnownSet]:
    review = {"text": "Text", "label": "Sentiment"}
    sentiment = {"labels": SENTIMENT, "label_map": _POLAR, "metrics": ("accuracy",)}
    for part in ("orig", "new"):
        yield public_set(f"cad_sentiment/{part}", "single_sentence", review, three_files(f"{part}/"), **sentiment)
    yield public_set(
        "cad_sentiment/paired",
        "single_sentence",
        review | {"group": "batch_id"},
        {"validation": "paired/dev.tsv", "test": "paired/test.tsv"},
        note="column `group` joins an original with its revision",
        **sentiment,
    )
    gold = {"text": "sentence1", "text_pair": "sentence2", "label": "gold_label"}
    for part in ("original", "revised_premise", "revised_hypothesis"):
        yield public_set(f"cad_nli/{part}", "pair", gold, three_files(f"{part}/"), labels=NLI, metrics=("accuracy",))
    labelled = ("text", "label")
    for part, foreign in (("amazon_cells", 62), ("imdb", 55), ("yelp", 0)):
        yield public_set(
            f"uci_sentiment/{part}",
            "single_sentence",
            TEXT_AND_LABEL,
            {"all": Files((f"{part}.txt",), "after_header", columns=labelled, argument=str(foreign))},
            labels=SENTIMENT,
            label_map=numbered(SENTIMENT),
            metrics=("accuracy",),
            cut=SHARES,
            note=f"{foreign} rows of another text at the head of the file are left out" if foreign else "",
        )
    for part in ("original", "contrast"):
        splits = {"test": f"test_{part}.tsv", "validation": f"dev_{part}.tsv"}
        yield public_set(f"imdb_contrast/{part}", "single_sentence", review, splits, evaluation_only=True, **sentiment)
    for part in ("original", "perturbed"):
        yield public_set(
            f"boolq_contrast/{part}",
            "pair",
            {"text": "question", "text_pair": "passage", "label": "label", "group": "group"},
            {"test": laid_out("contrast_questions", "boolq_perturbed.json", argument=part)},
            labels=TRUTH,
            label_map={"TRUE": "True", "FALSE": "False"},
            metrics=("accuracy",),
            evaluation_only=True,
            note="column `group` joins the questions about one paragraph",
        )


def _attacked() -> Iterable[KnownSet]:
    duplicate = ("not_duplicate", "duplicate")
    attacked: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
        ("sst2", ("sentence",), SENTIMENT),
        ("qqp", ("question1", "question2"), duplicate),
        ("mnli", ("premise", "hypothesis"), NLI),
        ("mnli-mm", ("premise", "hypothesis"), NLI),
        ("qnli", ("question", "sentence"), ENTAILMENT),
        ("rte", ("sentence1", "sentence2"), ENTAILMENT),
    )
    for name, texts, labels in attacked:
        yield public_set(
            f"advglue/{name}",
            "pair" if len(texts) == 2 else "single_sentence",
            dict(zip(("text", "text_pair"), texts, strict=False)) | {"label": "label"},
            {"test": laid_out("records_under_key", "dev.json", argument=name)},
            labels=labels,
            label_map=numbered(labels),
            metrics=("accuracy",),
            evaluation_only=True,
        )
    rounds = {"r1": ("r1.jsonl",), "r2": ("r2.jsonl",), "r3": ("r3.jsonl",), "": ("r1.jsonl", "r2.jsonl", "r3.jsonl")}
    for part, paths in rounds.items():
        yield public_set(
            f"anli_dev/{part}".rstrip("/"),
            "pair",
            PREMISE_AND_HYPOTHESIS,
            {"test": Files(paths)},
            labels=NLI,
            label_map={label[0]: label for label in NLI},
            metrics=("accuracy",),
            evaluation_only=True,
        )
    clean: dict[str, tuple[str, tuple[str, ...]]] = dict.fromkeys(
        ("mr", "imdb", "yelp"), ("single_sentence", SENTIMENT)
    )
    clean["ag"] = ("single_sentence", NEWS)
    clean |= dict.fromkeys(("snli", "mnli", "mnli_matched", "mnli_mismatched"), ("pair", NLI))
    for name, (task, labels) in clean.items():
        yield public_set(
            f"textfooler_samples/{name}",
            task,
            TEXT_AND_LABEL | ({"text_pair": "text_pair"} if task == "pair" else {}),
            {"test": laid_out("label_first", f"{name}.txt", argument="tab" if task == "pair" else None)},
            labels=labels,
            label_map=numbered(labels),
            metrics=("accuracy",),
            evaluation_only=True,
        )


SHIFTED_SETS: tuple[KnownSet, ...] = (*_shifted(), *_attacked())
