"""The public sets that are laid out as folders under `LUTHIER_DATA`. docs/data.md tells where each comes from."""

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
    Files,
    KnownSet,
    laid_out,
    numbered,
    public_set,
    three_files,
)
from luthier.data.catalogue.long_sets import LONG_SETS
from luthier.data.catalogue.shifted_sets import SHIFTED_SETS
from luthier.data.catalogue.superglue import SUPERGLUE

_WORDS = {"tokens": "tokens", "tags": "tags"}
_RELATIONS = {name: name for name in ("tokens", "entities", "relations")}
_REPLY = {"text": "prompt", "text_pair": "response", "label": "label"}
_BINARY_NLI = ("not_entailment", "entailment")
_PARAPHRASE = ("not_equivalent", "equivalent")
_JUDGED = ("safe", "unsafe")
_SCIERC = (
    *(f"entity:{one}" for one in ("Generic", "Material", "Method", "Metric", "OtherScientificTerm", "Task")),
    *(f"relation:{one}" for one in ("Evaluate-for", "Feature-of", "Hyponym-of", "Part-of", "Used-for")),
    *(f"symmetric relation:{one}" for one in ("Compare", "Conjunction")),
)
_FEW_SHOT_FOLDERS = {
    "boolq": "BoolQ",
    "cb": "CB",
    "copa": "COPA",
    "multirc": "MultiRC",
    "wic": "WiC",
    "wsc": "WSC",
}


def _sentences() -> Iterable[KnownSet]:
    stsa: dict[str, str | Files] = {"test": Files(("test_stsa.txt",), "label_first", columns=("label", "sentence"))}
    stsa["train_sentences"] = Files(("train_sentences_stsa.txt",), "label_first", columns=("label", "sentence"))
    yield public_set(
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
    yield public_set(
        "sst5",
        "single_sentence",
        TEXT_AND_LABEL,
        three_files("", "val", ".jsonl"),
        labels=five,
        label_map=numbered(five),
    )
    acceptable = ("unacceptable", "acceptable")
    plain = ("source", "label", "star", "sentence")
    yield public_set(
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
    yield public_set(
        "subj",
        "single_sentence",
        TEXT_AND_LABEL,
        three_files("", "val", ".jsonl"),
        labels=subjective,
        label_map=numbered(subjective),
        metrics=("accuracy",),
    )
    yield public_set(
        "mr",
        "single_sentence",
        TEXT_AND_LABEL,
        {"all": laid_out("file_is_label", "rt-polarity.neg", "rt-polarity.pos")},
        labels=SENTIMENT,
        label_map={"neg": "negative", "pos": "positive"},
        metrics=("accuracy",),
        cut=SHARES,
    )
    news = ("text", "label")
    yield public_set(
        "agnews",
        "single_sentence",
        TEXT_AND_LABEL,
        {"train": Files(("dev.tsv",), columns=news), "test": Files(("test.tsv",), columns=news)},
        labels=NEWS,
        note="train is a tenth of the official training split",
    )


def _topics_and_intents() -> Iterable[KnownSet]:
    trec = {split: laid_out("question_types", f"{split}.txt") for split in ("train", "test")}
    coarse = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
    yield public_set("trec", "single_sentence", TEXT_AND_LABEL, trec, labels=coarse)
    yield public_set("trec/fine", "single_sentence", {"text": "text", "label": "fine"}, trec)
    keys = {"train": "train", "validation": "val", "test": "test"} | {
        f"oos_{s}": f"oos_{s}" for s in ("train", "val", "test")
    }
    yield public_set(
        "clinc150",
        "single_sentence",
        TEXT_AND_LABEL,
        {split: laid_out("pairs_under_key", "data_full.json", argument=key) for split, key in keys.items()},
        note="150 intents; `#oos_train`, `#oos_val`, `#oos_test` are out of scope (read them with `labelled: false`)",
    )
    for name, task, columns, learned in (
        ("atis", "single_sentence", TEXT_AND_LABEL, "intent"),
        ("atis/slots", "token_labels", _WORDS, "slots"),
    ):
        dictionaries = [f"dict.{part}.csv" for part in ("vocab", "intent", "slots")]
        splits = {
            split: laid_out(
                "aligned_ids",
                *(f"{split}.{part}.csv" for part in ("query", "intent", "slots")),
                *dictionaries,
                argument=learned,
            )
            for split in ("train", "test")
        }
        metrics = ("seqeval_f1",) if learned == "slots" else ("accuracy", "macro_f1")
        yield public_set(name, task, columns, splits, metrics=metrics)
    for name, column in (("newsgroups_mini", "group"), ("newsgroups_mini/coarse", "coarse")):
        yield public_set(
            name,
            "single_sentence",
            {"text": "text", "label": column},
            {"all": "data.jsonl"},
            derive="group_of_newsgroups",
            skips_unusable=True,
            cut=SHARES,
        )
    yield public_set(
        "reuters_r8",
        "single_sentence",
        TEXT_AND_LABEL,
        {split: laid_out("label_first", f"{split}.txt", argument="tab") for split in ("train", "test")},
    )
    for language in ("lin", "xho"):
        yield public_set(
            f"masakhanews/{language}",
            "single_sentence",
            {"text": "text", "label": "category"},
            three_files(f"{language}/", "dev", ".jsonl"),
        )


def _pairs() -> Iterable[KnownSet]:
    sentences = {"text": "sentence1", "text_pair": "sentence2", "label": "label"}
    strings = {"text": "#1 String", "text_pair": "#2 String", "label": "Quality"}
    yield public_set(
        "mrpc",
        "pair",
        strings,
        {"train": "train.tsv", "test": "test.tsv"},
        labels=_PARAPHRASE,
        label_map=numbered(_PARAPHRASE),
        metrics=("f1", "accuracy"),
    )
    two = {"train": "train.tsv", "validation": "dev.tsv"}
    yield public_set("rte", "pair", sentences, two, labels=ENTAILMENT, metrics=("accuracy",))
    yield public_set(
        "qnli",
        "pair",
        {"text": "question", "text_pair": "sentence", "label": "label"},
        {"all": "dev.tsv"},
        labels=ENTAILMENT,
        metrics=("accuracy",),
        cut={"train": 0.8, "validation": 0.2},
        note="all rows are of GLUE's validation split, as its training split is not in the folder",
    )
    plain = ("index", "sentence1", "sentence2", "label")
    yield public_set(
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
    yield public_set(
        "sick",
        "pair",
        shared | {"label": "entailment_judgment"},
        three_files(),
        labels=NLI,
        label_map={label.upper(): label for label in NLI},
    )
    yield public_set(
        "sick/relatedness",
        "regression",
        shared | {"label": "relatedness_score"},
        three_files(),
        metrics=("pearson", "spearman"),
    )
    for language in ("aym", "bzd", "cni", "gn", "hch", "nah", "oto", "quy", "shp", "tar"):
        splits = {"validation": f"dev/{language}.tsv", "test": f"test/{language}.tsv"}
        yield public_set(
            f"americasnli/{language}",
            "pair",
            PREMISE_AND_HYPOTHESIS,
            splits,
            labels=NLI,
            metrics=("accuracy",),
            skips_unusable=True,
        )


def _few_shot_superglue() -> Iterable[KnownSet]:
    few = "train holds 32 rows, `#dev32` 32 more; validation is the official one"
    notes = {
        "cb": "train is the whole official one (250); `#train_32` and `#dev32` are the few-shot splits",
        "multirc": "32 training paragraphs, one row an answer; column `group` joins the answers of one question",
        "wsc": f"{few}; all 32 training rows are true, so no classifier can be trained on them alone",
    }
    for name, folder in _FEW_SHOT_FOLDERS.items():
        paths = {"train": "train_32", "validation": "val", "dev32": "dev32"}
        if name == "cb":
            paths |= {"train": "train", "train_32": "train_32"}
        splits = {split: f"{folder}/{path}.jsonl" for split, path in paths.items()}
        yield public_set(f"superglue/{name}", splits=splits, note=notes.get(name, few), **SUPERGLUE[name])
    choices = SUPERGLUE["copa"]["columns"]
    for language in ("et", "ht", "id", "it", "qu", "sw", "ta", "th", "tr", "vi", "zh"):
        splits = {"validation": f"{language}/val.{language}.jsonl", "test": f"{language}/test.{language}.jsonl"}
        yield public_set(f"xcopa/{language}", "multiple_choice", choices, splits, metrics=("accuracy",), derive="copa")


def _words() -> Iterable[KnownSet]:
    entities = ("seqeval_f1",)
    yield public_set("wnut17", "token_labels", _WORDS, three_files("", "dev", ".conll"), metrics=entities)
    for language in ("amh", "hau", "kin", "luo", "pcm", "swa", "wol", "yor"):
        splits = {s: Files((p,), format="conll") for s, p in three_files(f"{language}/", "dev", ".txt").items()}
        yield public_set(f"masakhaner/{language}", "token_labels", _WORDS, splits, metrics=entities)
    for name in ("conll04", "scierc"):
        splits = {s: Files((p,), "entity_spans") for s, p in three_files("", "dev", ".json").items()}
        yield public_set(name, "token_labels", _WORDS, splits, metrics=entities, note="entity types as BIO tags")


def _relations() -> Iterable[KnownSet]:
    scores = ("relation_strict_f1", "relation_f1", "entity_f1")
    for name, labels in (("conll04", None), ("scierc", _SCIERC)):
        splits = three_files("", "dev", ".json")
        yield public_set(f"{name}/relations", "joint_extraction", _RELATIONS, splits, labels=labels, metrics=scores)
    triples = {split: laid_out("triples", file) for split, file in three_files("", "dev", ".json").items()}
    note = "an entity is the last word of a name, its type is not known; a relation of a word with itself is left out"
    yield public_set("webnlg_re", "joint_extraction", _RELATIONS, triples, metrics=scores, note=note)


def _dialogue() -> Iterable[KnownSet]:
    judged = {"labels": _JUDGED, "label_map": numbered(_JUDGED), "metrics": ("f1", "accuracy")}
    splits = {"train": "train.jsonl", "test": "evaluate.jsonl"}
    yield public_set("gptfuzz_judged", "pair", _REPLY, splits, **judged)
    splits = {"train": "train.jsonl", "test": "test.jsonl"}
    yield public_set("saferlhf_mini", "pair", _REPLY, splits, **judged)
    yield public_set("jailjudge_mini", "pair", _REPLY, {"test": "test.jsonl"}, evaluation_only=True, **judged)
    yield public_set(
        "diasafety",
        "pair",
        {"text": "context", "text_pair": "response", "label": "label"},
        three_files("", "val", ".json"),
        labels=_JUDGED,
        label_map={"Safe": "safe", "Unsafe": "unsafe"},
        skips_unusable=True,
        metrics=("f1", "accuracy"),
    )
    reply = {"prompt": "prompt", "response": "output"}
    for name, file in (("alpaca", "alpaca_6k.json"), ("dolly_3k", "dolly_3k.json")):
        yield public_set(
            name,
            "prompt_response",
            reply,
            {"all": file},
            derive="instruction",
            cut=SHARES,
            metrics=("perplexity",),
            skips_unusable=True,
        )


PUBLIC_SETS: tuple[KnownSet, ...] = (
    *_sentences(),
    *_topics_and_intents(),
    *_pairs(),
    *_few_shot_superglue(),
    *SHIFTED_SETS,
    *_words(),
    *_relations(),
    *_dialogue(),
    *LONG_SETS,
)
