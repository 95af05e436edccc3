"""Files of annotated sentences: types, what is refused, and texts that a model reads in several windows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.data import DataSettings, load_data
from luthier.data.batches.encoding import encode, make_collator
from luthier.data.sources.fingerprint import source_fingerprint
from luthier.errors import DataError, RecipeError
from luthier.extraction import Types, write_documents
from luthier.models.artifacts import load_model
from luthier.models.loading import load_tokenizer
from luthier.tasks.base import task_named
from luthier.training.supervised_settings import SupervisedSettings
from tests.extraction.sentences import DOCUMENTS, LABELS, tiny_encoder, write


def settings(path: Path, documents: list[dict[str, Any]], **more: Any) -> DataSettings:
    return DataSettings(train=write(path / "train.json", documents), task="joint_extraction", **more)


def test_types_are_those_of_the_training_rows_or_the_users(tmp_path: Path):
    data = load_data(settings(tmp_path, DOCUMENTS))
    directed = [label.removeprefix("symmetric ") for label in LABELS]
    assert data.labels == sorted(directed)
    assert data.metrics == ("relation_strict_f1", "relation_f1", "entity_f1")
    named = load_data(settings(tmp_path, DOCUMENTS, labels=LABELS))
    assert named.labels == LABELS
    counts = named.summary["train"].label_counts
    assert counts["entity:Firm"] == sum(e["type"] == "Firm" for one in DOCUMENTS for e in one["entities"])
    assert counts["symmetric relation:married"] == 5
    some = [one if one["relations"] else {k: v for k, v in one.items() if k != "relations"} for one in DOCUMENTS]
    found = load_data(settings(tmp_path, some)).splits["train"]
    assert [len(one["relations"]) for one in found] == [len(one["relations"]) for one in DOCUMENTS]
    without = [{k: v for k, v in one.items() if k != "relations"} for one in DOCUMENTS]
    assert load_data(settings(tmp_path, without)).metrics == ("entity_f1",)


def test_one_type_is_enough(tmp_path: Path):
    genes = [{"tokens": ["BRCA1", "binds"], "entities": [{"type": "Gene", "start": 0, "end": 1}], "relations": []}] * 4
    for given in ({"labels": ["entity:Gene"]}, {}):
        data = load_data(settings(tmp_path, genes, **given))
        assert data.labels == ["entity:Gene"]
    model = load_model(tiny_encoder(tmp_path / "model"), "joint_extraction", labels=data.labels)
    assert (model.relation_head, model.config.types) == (None, Types(["Gene"]))


@pytest.mark.parametrize("name", ["spert", "brat", "label_studio"])
def test_a_source_says_which_relations_have_no_direction(name: str, tmp_path: Path):
    train = tmp_path / {"spert": "train.jsonl", "brat": "train", "label_studio": "train.json"}[name]
    write_documents(train, DOCUMENTS, name, types=Types.of_labels(LABELS))
    assert load_data(DataSettings(train=str(train), task="joint_extraction")).labels == LABELS


@pytest.mark.parametrize(("name", "file"), [("offsets_jsonl", "train.jsonl"), ("columns", "train.conll")])
def test_the_longest_line_that_is_believed_is_the_users(name: str, file: str, tmp_path: Path):
    write_documents(tmp_path / file, DOCUMENTS, name, types=Types.of_labels(LABELS))
    data = {"train": str(tmp_path / file), "task": "joint_extraction"}
    longest = max(map(len, (tmp_path / file).read_bytes().splitlines()))
    assert len(load_data(DataSettings(**data, max_line_megabytes=(longest + 1) / 1e6)).splits["train"]) == len(
        DOCUMENTS
    )
    with pytest.raises(DataError, match="is not believed"):
        load_data(DataSettings(**data, max_line_megabytes=(longest - 1) / 1e6))


def test_a_file_of_types_beside_the_rows_counts_as_a_part_of_them(tmp_path: Path):
    data = DataSettings(train=write(tmp_path / "train.json", DOCUMENTS))
    before, types = source_fingerprint(data), Types.of_labels(LABELS)
    (tmp_path / "types.json").write_text(json.dumps(types.to_json()))
    assert load_data(data).labels == LABELS
    named = source_fingerprint(data)
    types.relations["married"] = False
    (tmp_path / "types.json").write_text(json.dumps(types.to_json()))
    assert len({before, named, source_fingerprint(data)}) == 3
    (tmp_path / "types.json").write_text("[]")
    with pytest.raises(DataError, match="names no types"):
        load_data(data)


def test_the_task_is_found_by_its_columns(tmp_path: Path):
    data = load_data(DataSettings(train=write(tmp_path / "train.json", DOCUMENTS)))
    assert data.schema.name == "joint_extraction"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"entities": [{"type": "A", "start": 0, "end": 9}]}, r"entity 0 is words 0 to 9 .* of 2"),
        ({"entities": [{"type": "A", "start": 1, "end": 1}]}, r"entity 0 is words 1 to 1"),
        ({"entities": [{"type": "A", "start": "0", "end": 1}]}, r"which is not \{type, start, end\}"),
        ({"entities": [{"start": 0, "end": 1}]}, "has no label"),
        ({"entities": None}, "no list"),
        ({"relations": [{"type": "r", "head": 0, "tail": 1}]}, "relation 0 is between 0 and 1 of 1"),
        ({"relations": [{"type": "r", "head": 0, "tail": 0}]}, "relation 0 is between entity 0 and itself"),
    ],
)
def test_what_can_not_be_meant_is_refused(wrong: dict[str, Any], message: str, tmp_path: Path):
    row = {"tokens": ["a", "b"], "entities": [{"type": "A", "start": 0, "end": 1}], "relations": []}
    with pytest.raises(DataError, match=rf"row 2(.|\n)*{message}"):
        load_data(settings(tmp_path, [row, row | wrong]))


def test_rows_that_tell_nothing_are_refused(tmp_path: Path):
    spans = [{"start": 0, "end": 4, "label": "Person"}]
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": "Anna met Bo", "ents": spans}))
    with pytest.raises(DataError, match=r"nothing in 'entities' in any row"):
        load_data(DataSettings(train=str(tmp_path / "train.jsonl"), task="joint_extraction"))


def test_types_that_no_training_row_has_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"row 1: tells .*'relation:born'"):
        load_data(settings(tmp_path, DOCUMENTS[1:], labels=LABELS[:3]))
    with pytest.raises(DataError, match=r"'Person' is none of `entity:NAME`"):
        load_data(settings(tmp_path, DOCUMENTS, labels=["Person", "Firm"]))


def test_settings_of_the_head_are_checked_with_the_recipe(tmp_path: Path):
    data = settings(tmp_path, DOCUMENTS)
    with pytest.raises(ValueError, match=r"`interactoin` of the head of joint_extraction.*did you mean 'interaction'"):
        SupervisedSettings(data=data, head={"interactoin": "none"})
    with pytest.raises(ValueError, match="the head of single_sentence has no settings"):
        SupervisedSettings(data=DataSettings(train="a.csv", task="single_sentence"), head={"pooling": "max"})
    assert task_named("joint_extraction").settings_of_head({"pooling": "mean"}) == {"pooling": "mean"}
    with pytest.raises(RecipeError, match="`max_entities`"):
        task_named("joint_extraction").settings_of_head({"max_entities": 1})


@pytest.mark.parametrize("side", ["left", "right"])
def test_pieces_of_words_are_found_in_every_window(side: str, tmp_path: Path):
    tokenizer: Any = load_tokenizer(tiny_encoder(tmp_path / "model"))
    tokenizer.padding_side = side
    tokens = [word for one in DOCUMENTS[:6] for word in one["tokens"]]
    entities: list[dict[str, Any]] = []
    relations: list[dict[str, Any]] = []
    words = 0
    for one in DOCUMENTS[:6]:
        relations += [
            {**r, "head": r["head"] + len(entities), "tail": r["tail"] + len(entities)} for r in one["relations"]
        ]
        entities += [{**e, "start": e["start"] + words, "end": e["end"] + words} for e in one["entities"]]
        words += len(one["tokens"])
    whole = {"tokens": tokens, "entities": entities, "relations": relations}
    data = load_data(settings(tmp_path, [whole, DOCUMENTS[0]], labels=LABELS))
    rows = encode(data, tokenizer, max_length=40)["train"]
    assert list(rows["row"]).count(1) > 2
    assert list(rows["row"]).count(2) == 1
    batch = make_collator("joint_extraction", tokenizer)(list(rows))
    found, related = set(), set()
    for i, first in enumerate(rows["first_word"]):
        if rows["row"][i] != 1:
            continue
        ids, spans = batch["input_ids"][i], []
        for (start, end), kind in zip(
            batch["entity_words"][i].tolist(), batch["entity_types"][i].tolist(), strict=True
        ):
            if start < 0:
                continue
            pieces = ids[batch["word_start"][i, start] : batch["word_end"][i, end - 1]]
            text = tokens[first + start : first + end]
            assert pieces.tolist() == tokenizer(text, is_split_into_words=True, add_special_tokens=False)["input_ids"]
            spans.append((first + start, first + end, kind))
        found |= set(spans)
        related |= {(spans[h][:2], spans[t][:2], kind) for h, t, kind in batch["relations"][i].tolist() if h >= 0}
    types = ["Firm", "Person", "Place"]
    assert found == {(e["start"], e["end"], 1 + types.index(e["type"])) for e in entities}
    assert len(related) == len(relations)
