"""What a judged model's page shows, the trivial baseline beside its scores, and settings that would do nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luthier.api import run
from luthier.data import DataSettings, load_data
from luthier.errors import RecipeError
from luthier.extraction.config import SinetConfig
from luthier.extraction.options import ExtractionHead
from luthier.extraction.prior import predicted, prior_of, told
from luthier.extraction.scoring import counts, f1
from luthier.extraction.telling import found_by_row
from luthier.extraction.types import Types
from luthier.report.html import write_report
from luthier.tasks.base import task_named
from luthier.tasks.running.predicting import Predictions
from tests.extraction.sentences import DOCUMENTS, LABELS, tiny_encoder, write

TYPES = Types.of_labels(LABELS)
TEST = [*DOCUMENTS[:11], DOCUMENTS[11] | {"ignore_types": ["entity:Firm"]}]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """metrics.json of a judged model that was hardly trained."""
    folder = tmp_path_factory.mktemp("judged")
    data = {
        "train": write(folder / "train.json", DOCUMENTS),
        "validation": write(folder / "validation.json", DOCUMENTS[::3]),
        "test": write(folder / "test.json", TEST),
        "task": "joint_extraction",
        "labels": LABELS,
    }
    tune = {"method": "full", "data": data, "max_steps": 12, "learning_rate": 3e-3, "head": {"max_span_size": 2}}
    run(
        {"name": "own", "model": tiny_encoder(folder / "model"), "stages": [{"tune": tune}, {"evaluate": {}}]},
        output=folder / "runs",
    )
    page = write_report([folder / "runs" / "own"])
    (found,) = folder.glob("runs/own/*evaluate*/metrics.json")
    return json.loads(found.read_text()) | {"page": page.read_text(encoding="utf8")}


def test_the_page_shows_scores_mistakes_what_was_told_and_the_corpus(judged: dict[str, Any]):
    sections = {one["title"]: one for one in judged["details"]["sections"]}
    wanted = ["Extraction scores", "Extraction scores by type", "Mistakes in entities", "Mistakes in relations"]
    assert [*sections][:4] == wanted
    assert {"What was told", "Judged texts", "Training texts"} <= sections.keys()
    assert all(title in judged["page"] for title in sections)
    levels = {tuple(row[:2]): row[4] for row in sections["Extraction scores"]["table"]["rows"]}
    assert levels["entities", "micro"] == pytest.approx(judged["scores"]["test/entity_f1"])
    assert levels["relations, strict", "micro"] == pytest.approx(judged["scores"]["test/relation_strict_f1"])
    assert sections["Training texts"]["facts"]["sentences"] == len(DOCUMENTS)
    wide = sum(e["end"] - e["start"] > 2 for one in TEST for e in one["entities"])
    assert sections["Judged texts"]["facts"]["entities over 2 words"] == wide


def test_the_trivial_baseline_stands_beside_every_score(judged: dict[str, Any]):
    baselines = judged["baselines"]
    assert set(baselines) == {f"test/{name}_f1" for name in ("entity", "relation", "relation_strict")}
    prior = prior_of(DOCUMENTS)
    assert prior["entity"] == "Person"
    assert (
        baselines["test/entity_f1"]["answer"] == told(prior) == "every word is 'Person', related to the next by 'born'"
    )
    words = sum(len(one["tokens"]) for one in TEST)
    gold = [(e["type"], e["end"] - e["start"]) for one in TEST for e in one["entities"]]
    right = sum(one == ("Person", 1) for one in gold)
    assert baselines["test/entity_f1"]["score"] == pytest.approx(2 * right / (words + len(gold)))


@pytest.mark.parametrize("turned", [False, True])
def test_the_baseline_answers_every_word_alike(turned: bool):
    """As if written by hand, for two windows of one text that overlap."""
    kept = [{"words": count, "threshold": np.full(4, 0.5)} for count in (3, 2)]
    logits = np.empty(2, object)
    logits[:] = kept
    given = Predictions("joint_extraction", logits, None, np.array([7, 7]), np.zeros(2), np.ones(2))
    prior = {"rows": 9, "entity": "Place", "relation": "married" if not turned else "born", "turned": turned}
    found = found_by_row(predicted(prior, given, TYPES).logits, given.rows, [0, 2], TYPES)[7].document(TYPES, [0.5] * 4)
    assert [(e["start"], e["end"], e["type"]) for e in found["entities"]] == [(n, n + 1, "Place") for n in range(4)]
    pairs = [(n + 1, n) if turned else (n, n + 1) for n in range(3)]
    assert sorted((r["head"], r["tail"]) for r in found["relations"]) == pairs
    assert predicted({"rows": 9, "entity": "Planet"}, given, TYPES) is None
    assert prior_of([{"entities": []}]) == {}
    assert f1(*counts([found], [found], TYPES), "relation") == 1


@pytest.mark.parametrize(
    ("head", "named"),
    [
        ({"heads": "table", "pooling": "mean"}, "`pooling` has no effect with `heads: table` and"),
        ({"heads": "table", "train_pairs": "mixed", "negative_pairs": 5}, "`negative_pairs`, `train_pairs` have no"),
        ({"interaction": "none", "attention_heads": 2}, "`attention_heads` has no effect with `interaction: none`"),
        ({"interaction": "none", "projection_activation": "gelu"}, "`projection_activation`"),
        ({"interaction": "none", "context_from": "relation"}, "`context_from`"),
        ({"interaction": "partition", "heads": "table", "mask_padding": False}, "`mask_padding`"),
        ({"interaction": "partition", "task_projection": True}, "`task_projection`"),
        ({"interaction": "token_cross", "own_vector_in_keys": False}, "`own_vector_in_keys`"),
        ({"direction": "ner_from_re", "share_attention": False}, "`share_attention`"),
    ],
)
def test_settings_without_effect_are_refused(head: dict[str, Any], named: str):
    with pytest.raises(RecipeError, match=named):
        task_named("joint_extraction").settings_of_head(head)
    # A model that was saved with them is loaded all the same.
    assert SinetConfig(id2label={}, **head).head_options.heads == head.get("heads", "span")


@pytest.mark.parametrize(
    "head",
    [
        {"interaction": "none", "task_projection": True, "projection_bias": True, "context_from": "relation"},
        {"interaction": "partition", "heads": "table", "max_entities": 5},
        {"heads": "table", "pooling": "max", "attention_heads": 2},
        {"interaction": "cls_self", "direction": "ner_from_re", "mask_padding": False},
    ],
)
def test_settings_with_an_effect_are_taken(head: dict[str, Any]):
    assert ExtractionHead(**head).interaction == head.get("interaction", "cls_cross")


def test_texts_are_parted_as_those_of_annotation_files_are(tmp_path: Path):
    text = "Anna works for O'Neill & Sons, Oslo."
    row = task_named("joint_extraction").row_of_text("tokens", text, 1)
    file = tmp_path / "train.jsonl"
    file.write_text(json.dumps({"text": text, "entities": [{"type": "Place", "start": 31, "end": 35}]}))
    trained = load_data(DataSettings(train=str(file), task="joint_extraction")).splits["train"][0]
    assert row["tokens"] == trained["tokens"]
    assert row["tokens"][-3:] == [",", "Oslo", "."]
    assert task_named("token_labels").row_of_text("tokens", text, 1)["tokens"] == text.split()
