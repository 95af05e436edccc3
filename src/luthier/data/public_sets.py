"""The public sets that are laid out as folders under `LUTHIER_DATA`. docs/data.md tells where each comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from luthier.data.known_set import NLI, SENTIMENT, Files, KnownSet, numbered

_TEXT = {"text": "text", "label": "label"}
_PAIR = {"text": "premise", "text_pair": "hypothesis", "label": "label"}
_WORDS = {"tokens": "tokens", "tags": "tags"}
_REPLY = {"text": "prompt", "text_pair": "response", "label": "label"}
_TRUTH = ("False", "True")
_ENTAILMENT = ("entailment", "not_entailment")
_BINARY_NLI = ("not_entailment", "entailment")
_PARAPHRASE = ("not_equivalent", "equivalent")
_NEWS = ("World", "Sports", "Business", "Sci/Tech")
_JUDGED = ("safe", "unsafe")
_POLAR = {"Negative": "negative", "Positive": "positive"}
_SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def _set(name: str, task: str, columns: Mapping[str, str], splits: Mapping[str, str | Files], **more: Any) -> KnownSet:
    files = {split: Files((f,)) if isinstance(f, str) else f for split, f in splits.items()}
    folder = more.pop("folder", name.partition("/")[0])
    return KnownSet(f"data/{name}", task, columns, files, folder=folder, **more)


def _three(prefix: str = "", validation: str = "dev", suffix: str = ".tsv") -> dict[str, str]:
    return {
        "train": f"{prefix}train{suffix}",
        "validation": f"{prefix}{validation}{suffix}",
        "test": f"{prefix}test{suffix}",
    }


def _laid_out(layout: str, *paths: str, argument: str | None = None) -> Files:
    return Files(paths, layout, argument=argument)


def _sentences() -> Iterable[KnownSet]:
    stsa: dict[str, str | Files] = {"test": Files(("test_stsa.txt",), "label_first", columns=("label", "sentence"))}
    stsa["train_sentences"] = Files(("train_sentences_stsa.txt",), "label_first", columns=("label", "sentence"))
    yield _set(
        "sst2",
        "single_sentence",
        {"text": "sentence", "label": "label"},
        {"train": "train.tsv", "validation": "dev.tsv", "holdout": "holdout.tsv"} | stsa,
        labels=SENTIMENT,
        label_map=numbered(SENTIMENT),
        metrics=("accuracy",),
        note="train is 90 % of GLUE's phrases (`#holdout` the rest), validation is GLUE's, test is Stanford's, "
        "`#train_sentences` whole sentences only",
    )
    five = ("very negative", "negative", "neutral", "positive", "very positive")
    yield _set("sst5", "single_sentence", _TEXT, _three("", "val", ".jsonl"), labels=five, label_map=numbered(five))
    acceptable = ("unacceptable", "acceptable")
    plain = ("source", "label", "star", "sentence")
    yield _set(
        "cola",
        "single_sentence",
        {"text": "sentence", "label": "label"},
        {
            "train": Files(("in_domain_train.tsv",), columns=plain),
            "validation": Files(("in_domain_dev.tsv", "out_of_domain_dev.tsv"), columns=plain),
            "in_domain": Files(("in_domain_dev.tsv",), columns=plain),
            "out_of_domain": Files(("out_of_domain_dev.tsv",), columns=plain),
        },
        labels=acceptable,
        label_map=numbered(acceptable),
        metrics=("matthews_correlation", "accuracy"),
        note="validation is GLUE's: the in-domain and the out-of-domain half, also `#in_domain` and `#out_of_domain`",
    )
    subjective = ("objective", "subjective")
    yield _set(
        "subj",
        "single_sentence",
        _TEXT,
        _three("", "val", ".jsonl"),
        labels=subjective,
        label_map=numbered(subjective),
        metrics=("accuracy",),
    )
    yield _set(
        "mr",
        "single_sentence",
        _TEXT,
        {"all": _laid_out("file_is_label", "rt-polarity.neg", "rt-polarity.pos")},
        labels=SENTIMENT,
        label_map={"neg": "negative", "pos": "positive"},
        metrics=("accuracy",),
        cut=_SHARES,
    )
    news = ("text", "label")
    yield _set(
        "agnews",
        "single_sentence",
        _TEXT,
        {"train": Files(("dev.tsv",), columns=news), "test": Files(("test.tsv",), columns=news)},
        labels=_NEWS,
        note="train is a tenth of the official training split",
    )


def _topics_and_intents() -> Iterable[KnownSet]:
    trec = {split: _laid_out("question_types", f"{split}.txt") for split in ("train", "test")}
    coarse = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
    yield _set("trec", "single_sentence", _TEXT, trec, labels=coarse)
    yield _set("trec/fine", "single_sentence", {"text": "text", "label": "fine"}, trec)
    keys = {"train": "train", "validation": "val", "test": "test"} | {
        f"oos_{s}": f"oos_{s}" for s in ("train", "val", "test")
    }
    yield _set(
        "clinc150",
        "single_sentence",
        _TEXT,
        {split: _laid_out("pairs_under_key", "data_full.json", argument=key) for split, key in keys.items()},
        note="150 intents; `#oos_train`, `#oos_val`, `#oos_test` are out of scope (read them with `labelled: false`)",
    )
    for name, task, columns, learned in (
        ("atis", "single_sentence", _TEXT, "intent"),
        ("atis/slots", "token_labels", _WORDS, "slots"),
    ):
        dictionaries = [f"dict.{part}.csv" for part in ("vocab", "intent", "slots")]
        splits = {
            split: _laid_out(
                "aligned_ids",
                *(f"{split}.{part}.csv" for part in ("query", "intent", "slots")),
                *dictionaries,
                argument=learned,
            )
            for split in ("train", "test")
        }
        metrics = ("seqeval_f1",) if learned == "slots" else ("accuracy", "macro_f1")
        yield _set(name, task, columns, splits, metrics=metrics)
    for name, column in (("newsgroups_mini", "group"), ("newsgroups_mini/coarse", "coarse")):
        yield _set(
            name,
            "single_sentence",
            {"text": "text", "label": column},
            {"all": "data.jsonl"},
            derive="group_of_newsgroups",
            skips_unusable=True,
            cut=_SHARES,
        )
    yield _set(
        "reuters_r8",
        "single_sentence",
        _TEXT,
        {split: _laid_out("label_first", f"{split}.txt", argument="tab") for split in ("train", "test")},
    )
    for language in ("lin", "xho"):
        yield _set(
            f"masakhanews/{language}",
            "single_sentence",
            {"text": "text", "label": "category"},
            _three(f"{language}/", "dev", ".jsonl"),
        )


def _pairs() -> Iterable[KnownSet]:
    sentences = {"text": "sentence1", "text_pair": "sentence2", "label": "label"}
    strings = {"text": "#1 String", "text_pair": "#2 String", "label": "Quality"}
    yield _set(
        "mrpc",
        "pair",
        strings,
        {"train": "train.tsv", "test": "test.tsv"},
        labels=_PARAPHRASE,
        label_map=numbered(_PARAPHRASE),
        metrics=("f1", "accuracy"),
    )
    two = {"train": "train.tsv", "validation": "dev.tsv"}
    yield _set("rte", "pair", sentences, two, labels=_ENTAILMENT, metrics=("accuracy",))
    yield _set(
        "qnli",
        "pair",
        {"text": "question", "text_pair": "sentence", "label": "label"},
        {"all": "dev.tsv"},
        labels=_ENTAILMENT,
        metrics=("accuracy",),
        cut={"train": 0.8, "validation": 0.2},
        note="all rows are of GLUE's validation split, as its training split is not in the folder",
    )
    plain = ("index", "sentence1", "sentence2", "label")
    yield _set(
        "wnli",
        "pair",
        sentences,
        {"train": Files(("train.tsv",)), "holdout": Files(("val.tsv",), columns=plain), "validation": "dev.tsv"},
        labels=_BINARY_NLI,
        label_map=numbered(_BINARY_NLI),
        metrics=("accuracy",),
        note="validation is GLUE's; `#holdout` was cut from GLUE's training split",
    )
    shared = {"text": "sentence_A", "text_pair": "sentence_B"}
    yield _set(
        "sick",
        "pair",
        shared | {"label": "entailment_judgment"},
        _three(),
        labels=NLI,
        label_map={label.upper(): label for label in NLI},
    )
    yield _set(
        "sick/relatedness",
        "regression",
        shared | {"label": "relatedness_score"},
        _three(),
        metrics=("pearson", "spearman"),
    )
    for language in ("aym", "bzd", "cni", "gn", "hch", "nah", "oto", "quy", "shp", "tar"):
        splits = {"validation": f"dev/{language}.tsv", "test": f"test/{language}.tsv"}
        yield _set(
            f"americasnli/{language}", "pair", _PAIR, splits, labels=NLI, metrics=("accuracy",), skips_unusable=True
        )


def _few_shot_superglue() -> Iterable[KnownSet]:
    def few(task: str) -> dict[str, str]:
        return {"train": f"{task}/train_32.jsonl", "validation": f"{task}/val.jsonl", "dev32": f"{task}/dev32.jsonl"}

    note = "train holds 32 rows, `#dev32` 32 more; validation is the official one"
    pair = {"text": "question", "text_pair": "passage", "label": "label"}
    yield _set("superglue/boolq", "pair", pair, few("BoolQ"), labels=_TRUTH, metrics=("accuracy",), note=note)
    yield _set(
        "superglue/cb",
        "pair",
        _PAIR,
        few("CB") | {"train": "CB/train.jsonl", "train_32": "CB/train_32.jsonl"},
        labels=("entailment", "contradiction", "neutral"),
        note="train is the whole official one (250); `#train_32` and `#dev32` are the few-shot splits",
    )
    choices = {"context": "context", "choices": "choices", "label": "label"}
    yield _set(
        "superglue/copa", "multiple_choice", choices, few("COPA"), metrics=("accuracy",), derive="copa", note=note
    )
    yield _set(
        "superglue/multirc",
        "pair",
        {"text": "paragraph", "text_pair": "question_and_answer", "label": "label", "group": "group"},
        few("MultiRC"),
        labels=_TRUTH,
        label_map=numbered(_TRUTH),
        metrics=("f1", "accuracy"),
        derive="multirc",
        note="32 training paragraphs, one row an answer; column `group` joins the answers of one question",
    )
    words = {"text": "word_and_sentence", "text_pair": "sentence2", "label": "label"}
    yield _set(
        "superglue/wic", "pair", words, few("WiC"), labels=_TRUTH, metrics=("accuracy",), derive="wic", note=note
    )
    spans = {"text": "marked_text", "text_pair": "span1_text", "label": "label"}
    yield _set(
        "superglue/wsc", "pair", spans, few("WSC"), labels=_TRUTH, metrics=("accuracy",), derive="wsc", note=note
    )
    for language in ("et", "ht", "id", "it", "qu", "sw", "ta", "th", "tr", "vi", "zh"):
        splits = {"validation": f"{language}/val.{language}.jsonl", "test": f"{language}/test.{language}.jsonl"}
        yield _set(f"xcopa/{language}", "multiple_choice", choices, splits, metrics=("accuracy",), derive="copa")


def _shifted() -> Iterable[KnownSet]:
    review = {"text": "Text", "label": "Sentiment"}
    sentiment = {"labels": SENTIMENT, "label_map": _POLAR, "metrics": ("accuracy",)}
    for part in ("orig", "new"):
        yield _set(f"cad_sentiment/{part}", "single_sentence", review, _three(f"{part}/"), **sentiment)
    yield _set(
        "cad_sentiment/paired",
        "single_sentence",
        review | {"group": "batch_id"},
        {"validation": "paired/dev.tsv", "test": "paired/test.tsv"},
        note="column `group` joins an original with its revision",
        **sentiment,
    )
    gold = {"text": "sentence1", "text_pair": "sentence2", "label": "gold_label"}
    for part in ("original", "revised_premise", "revised_hypothesis"):
        yield _set(f"cad_nli/{part}", "pair", gold, _three(f"{part}/"), labels=NLI, metrics=("accuracy",))
    labelled = ("text", "label")
    for part, foreign in (("amazon_cells", 62), ("imdb", 55), ("yelp", 0)):
        yield _set(
            f"uci_sentiment/{part}",
            "single_sentence",
            _TEXT,
            {"all": Files((f"{part}.txt",), "after_header", columns=labelled, argument=str(foreign))},
            labels=SENTIMENT,
            label_map=numbered(SENTIMENT),
            metrics=("accuracy",),
            cut=_SHARES,
            note=f"{foreign} rows of another text at the head of the file are left out" if foreign else "",
        )
    for part in ("original", "contrast"):
        splits = {"test": f"test_{part}.tsv", "validation": f"dev_{part}.tsv"}
        yield _set(f"imdb_contrast/{part}", "single_sentence", review, splits, evaluation_only=True, **sentiment)
    for part in ("original", "perturbed"):
        yield _set(
            f"boolq_contrast/{part}",
            "pair",
            {"text": "question", "text_pair": "passage", "label": "label", "group": "group"},
            {"test": _laid_out("contrast_questions", "boolq_perturbed.json", argument=part)},
            labels=_TRUTH,
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
        ("qnli", ("question", "sentence"), _ENTAILMENT),
        ("rte", ("sentence1", "sentence2"), _ENTAILMENT),
    )
    for name, texts, labels in attacked:
        yield _set(
            f"advglue/{name}",
            "pair" if len(texts) == 2 else "single_sentence",
            dict(zip(("text", "text_pair"), texts, strict=False)) | {"label": "label"},
            {"test": _laid_out("records_under_key", "dev.json", argument=name)},
            labels=labels,
            label_map=numbered(labels),
            metrics=("accuracy",),
            evaluation_only=True,
        )
    rounds = {"r1": ("r1.jsonl",), "r2": ("r2.jsonl",), "r3": ("r3.jsonl",), "": ("r1.jsonl", "r2.jsonl", "r3.jsonl")}
    for part, paths in rounds.items():
        yield _set(
            f"anli_dev/{part}".rstrip("/"),
            "pair",
            _PAIR,
            {"test": Files(paths)},
            labels=NLI,
            label_map={label[0]: label for label in NLI},
            metrics=("accuracy",),
            evaluation_only=True,
        )
    clean: dict[str, tuple[str, tuple[str, ...]]] = dict.fromkeys(
        ("mr", "imdb", "yelp"), ("single_sentence", SENTIMENT)
    )
    clean["ag"] = ("single_sentence", _NEWS)
    clean |= dict.fromkeys(("snli", "mnli", "mnli_matched", "mnli_mismatched"), ("pair", NLI))
    for name, (task, labels) in clean.items():
        yield _set(
            f"textfooler_samples/{name}",
            task,
            _TEXT | ({"text_pair": "text_pair"} if task == "pair" else {}),
            {"test": _laid_out("label_first", f"{name}.txt", argument="tab" if task == "pair" else None)},
            labels=labels,
            label_map=numbered(labels),
            metrics=("accuracy",),
            evaluation_only=True,
        )


def _words() -> Iterable[KnownSet]:
    entities = ("seqeval_f1",)
    yield _set("wnut17", "token_labels", _WORDS, _three("", "dev", ".conll"), metrics=entities)
    for language in ("amh", "hau", "kin", "luo", "pcm", "swa", "wol", "yor"):
        splits = {s: Files((p,), format="conll") for s, p in _three(f"{language}/", "dev", ".txt").items()}
        yield _set(f"masakhaner/{language}", "token_labels", _WORDS, splits, metrics=entities)
    for name in ("conll04", "scierc"):
        splits = {s: Files((p,), "entity_spans") for s, p in _three("", "dev", ".json").items()}
        yield _set(name, "token_labels", _WORDS, splits, metrics=entities, note="entity types as BIO tags")


def _dialogue() -> Iterable[KnownSet]:
    judged = {"labels": _JUDGED, "label_map": numbered(_JUDGED), "metrics": ("f1", "accuracy")}
    splits = {"train": "train.jsonl", "test": "evaluate.jsonl"}
    yield _set("gptfuzz_judged", "pair", _REPLY, splits, **judged)
    splits = {"train": "train.jsonl", "test": "test.jsonl"}
    yield _set("saferlhf_mini", "pair", _REPLY, splits, **judged)
    yield _set("jailjudge_mini", "pair", _REPLY, {"test": "test.jsonl"}, evaluation_only=True, **judged)
    yield _set(
        "diasafety",
        "pair",
        {"text": "context", "text_pair": "response", "label": "label"},
        _three("", "val", ".json"),
        labels=_JUDGED,
        label_map={"Safe": "safe", "Unsafe": "unsafe"},
        skips_unusable=True,
        metrics=("f1", "accuracy"),
    )
    reply = {"prompt": "prompt", "response": "output"}
    for name, file in (("alpaca", "alpaca_6k.json"), ("dolly_3k", "dolly_3k.json")):
        yield _set(
            name,
            "prompt_response",
            reply,
            {"all": file},
            derive="instruction",
            cut=_SHARES,
            metrics=("perplexity",),
            skips_unusable=True,
        )


PUBLIC_SETS: tuple[KnownSet, ...] = (
    *_sentences(),
    *_topics_and_intents(),
    *_pairs(),
    *_few_shot_superglue(),
    *_shifted(),
    *_attacked(),
    *_words(),
    *_dialogue(),
)
