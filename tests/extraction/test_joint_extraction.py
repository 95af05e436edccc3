"""The task from a file of annotated sentences to answers, under methods and objectives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from luthier.api import run
from luthier.data import DataSettings, load_data
from luthier.data.batches.encoding import encode, make_collator
from luthier.errors import ModelError, RecipeError
from luthier.extraction.heads import RelationClassifier
from luthier.methods.base import MethodContext
from luthier.models.artifacts import load_artifact, load_model, save_artifact
from luthier.models.card import describe, read_card
from luthier.models.head_kinds import peft_task_type
from luthier.models.loading import empty_model, load_tokenizer
from luthier.prediction import predict_file, predict_texts
from luthier.registry import METHODS
from luthier.tasks.base import task_named
from luthier.tasks.running.predicting import model_inputs
from tests.extraction.sentences import DOCUMENTS, LABELS, tiny_encoder, write

# `peft` needs a type to be named.
METHODS_HERE = [name for name in METHODS.names() if name != "peft"]


def recipe(folder: Path, **tune: Any) -> dict[str, Any]:
    train, test = write(folder / "train.json", DOCUMENTS), write(folder / "test.json", DOCUMENTS[:12])
    validation = write(folder / "validation.json", DOCUMENTS[::3])
    data = {"train": train, "validation": validation, "test": test, "task": "joint_extraction", "labels": LABELS}
    settings = {"data": data, "epochs": 1, "batch_size": 6} | tune
    stages = [{"tune": settings}, {"evaluate": {}}]
    return {"name": "own", "model": tiny_encoder(folder / "model"), "stages": stages}


@pytest.mark.parametrize(("heads", "epochs"), [("span", 40), ("table", 80)])
def test_it_learns_thirty_sentences_and_tells_them(heads: str, epochs: int, tmp_path: Path):
    tune = {
        "method": "full",
        "epochs": epochs,
        "learning_rate": 3e-3,
        "evaluate_every": 100,
        "head": {"max_span_size": 4, "heads": heads},
    }
    run(recipe(tmp_path, **tune), output=tmp_path / "runs")
    folder = tmp_path / "runs" / "own"
    metrics = json.loads(next(folder.glob("**/*evaluate*/metrics.json")).read_text())
    scores = metrics["scores"]
    assert scores["test/entity_f1"] > 0.95
    assert scores["test/relation_strict_f1"] > 0.8
    tuned = json.loads(next(folder.glob("**/*tune*/metrics.json")).read_text())
    assert set(tuned["details"]["thresholds"]) == {"born", "employs", "seat", "married"}
    asked = write(tmp_path / "asked.json", [{"tokens": one["tokens"]} for one in DOCUMENTS[:12]])
    answers = predict_file(folder, asked)
    right = told = 0
    for answer, one in zip(answers, DOCUMENTS, strict=False):
        guessed = {(e["start"], e["end"], e["type"]) for e in answer["entities"]}
        known = {(e["start"], e["end"], e["type"]) for e in one["entities"]}
        right, told = right + len(guessed & known), told + len(guessed) + len(known)
    assert 2 * right / told == pytest.approx(scores["test/entity_f1"])
    answer = predict_texts(folder, "Anna Berg works for Nordic Paper .")[0]
    assert [(one["type"], one["start"], one["end"]) for one in answer["entities"]] == [("Person", 0, 2), ("Firm", 4, 6)]
    assert [(one["type"], one["head"], one["tail"]) for one in answer["relations"]] == [("employs", 1, 0)]
    assert all(0 < one["score"] <= 1 for one in answer["relations"])


@pytest.mark.parametrize("name", METHODS_HERE)
def test_it_is_tuned_saved_and_loaded_under_every_method(name: str, tmp_path: Path):
    base, settings = tiny_encoder(tmp_path / "base"), {"pooling": "attention", "max_span_size": 3}
    body = load_model(base, "joint_extraction", labels=LABELS, config_overrides=settings, seed=1)
    torch.manual_seed(0)
    tuned = METHODS.get(name)().apply(
        body, MethodContext(peft_task_type("joint_extraction"), tokenizer=load_tokenizer(base))
    )
    trained = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    tuned.train()
    rows = encoded_rows(base, tmp_path)
    task, collate = task_named("joint_extraction"), make_collator("joint_extraction", load_tokenizer(base))
    batch = collate(list(rows))
    batch.pop("row")
    tuned(**model_inputs(tuned, batch, task)).loss.backward()
    assert all(p.grad is not None for n, p in tuned.named_parameters() if p.requires_grad and "_head." in n)
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(torch.randn_like(parameter) * 0.1)
        for part in tuned.modules():
            if isinstance(part, RelationClassifier):
                part.threshold.fill_(0.3)
    card = describe(base, "joint_extraction", schema="joint_extraction", labels=LABELS, head_settings=settings)
    folder = save_artifact(tuned.eval(), load_tokenizer(base), tmp_path / "model", card)
    again, tokenizer, _ = load_artifact(folder)
    first, second = (task.predict(model, rows, tokenizer, batch_size=3) for model in (tuned, again))
    assert first.nll == pytest.approx(second.nll, rel=1e-5)
    for one, other in zip(first.logits, second.logits, strict=True):
        assert one["entities"] == pytest.approx(other["entities"], abs=1e-5)
        assert one["threshold"].tolist() == other["threshold"].tolist() == pytest.approx([0.3] * 4)
    one_by_one = task.predict(again, rows, tokenizer, batch_size=1)
    assert one_by_one.nll == pytest.approx(second.nll, rel=1e-4)


def test_the_threshold_that_is_asked_for_takes_the_place_of_saved_ones(tmp_path: Path):
    base = tiny_encoder(tmp_path / "base")
    model = load_model(base, "joint_extraction", labels=LABELS)
    with torch.no_grad():
        model.relation_head.threshold.fill_(0.3)  # as the validation rows of its training had it
    card = describe(base, "joint_extraction", schema="joint_extraction", labels=LABELS)
    folder = str(save_artifact(model, load_tokenizer(base), tmp_path / "model", card))

    def loaded(**head: Any) -> list[float]:
        again = load_model(folder, "joint_extraction", labels=LABELS, config_overrides=head)
        return again.relation_head.threshold.tolist()

    assert loaded() == loaded(max_entities=9) == pytest.approx([0.3] * 4)
    assert loaded(threshold=0.7) == pytest.approx([0.7] * 4)
    assert loaded(tune_thresholds=False) == pytest.approx([0.5] * 4)


def test_attention_heads_that_do_not_fit_are_told_as_such(tmp_path: Path):
    base = tiny_encoder(tmp_path / "base")
    for make in (load_model, empty_model):
        with pytest.raises(ModelError, match=r"`attention_heads` .* is 5, which does not divide the width 32") as told:
            make(base, "joint_extraction", labels=LABELS, config_overrides={"attention_heads": 5})
        assert told.value.fix == "take one of 1, 2, 4, 8, 16, 32"


def encoded_rows(base: str, folder: Path) -> Any:
    data = load_data(
        DataSettings(train=write(folder / "rows.json", DOCUMENTS[:6]), task="joint_extraction", labels=LABELS)
    )
    return encode(data, load_tokenizer(base), max_length=40)["train"]


def test_four_rows_twice_train_as_eight_rows_at_once(tmp_path: Path):
    found = []
    for name, sizes in (("whole", {"batch_size": 8}), ("parts", {"batch_size": 4, "accumulation": 2})):
        (tmp_path / name).mkdir()
        head = {"head_dropout": 0, "attention_dropout": 0, "negative_spans": 5, "negative_pairs": 1}
        settings = recipe(tmp_path / name, method="full", head=head, max_steps=6, group_by_length=False, **sizes)
        config = tmp_path / name / "model" / "config.json"
        without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config.write_text(json.dumps(json.loads(config.read_text()) | without))
        run(settings | {"stages": settings["stages"][:1]}, output=tmp_path / name / "runs")
        model, *_ = load_artifact(tmp_path / name / "runs" / "own")
        found.append(model.state_dict())
    for weight, value in found[0].items():
        assert torch.allclose(value, found[1][weight], atol=2e-5), weight


def test_comparisons_and_objectives_take_it(tmp_path: Path):
    own = recipe(tmp_path, method="lora", max_steps=2)
    own["stages"] = [{"tune": own["stages"][0]["tune"] | {"objective": "roast"}}]
    own["compare"] = {"over": {"stages.0.tune.head.interaction": ["none", "cls_cross"]}}
    run(own, output=tmp_path / "runs")
    told = [json.loads(path.read_text()) for path in sorted((tmp_path / "runs").glob("**/*tune*/metrics.json"))]
    assert len(told) == 2
    sizes = sorted(one["cost"]["total_parameters"] for one in told)
    assert sizes[1] - sizes[0] >= 2 * 32**2 + 4 * 32**2  # the projections and the attention


def test_a_head_that_is_trained_on_keeps_the_settings_it_was_made_with(tmp_path: Path):
    head = {"max_span_size": 3, "pooling": "attention"}
    own = recipe(tmp_path, method="lora", max_steps=1, head=head)
    own["stages"] = own["stages"][:1]
    run(own, output=tmp_path / "runs")
    first = tmp_path / "runs" / "own" / "00-tune" / "model"
    tune = own["stages"][0]["tune"]
    own["model"], tune["continue_adapter"] = str(first), True
    tune["head"] = {"max_span_size": 4}
    with pytest.raises(RecipeError, match="max_span_size 3 and not 4") as refused:
        run(own | {"name": "other"}, output=tmp_path / "runs")
    assert "leave `head` out" in str(refused.value)
    for number, given in enumerate(({"pooling": "attention"}, {})):
        tune["head"] = given
        run(own | {"name": f"second{number}"}, output=tmp_path / "runs")
        second = tmp_path / "runs" / f"second{number}"
        assert read_card(second / "00-tune" / "model").head_settings == head
        assert predict_texts(second, "Anna Berg works for Nordic Paper .")


def test_a_masked_language_model_goes_on_as_an_extractor(tmp_path: Path):
    """Another room's stage comes first, and its model is the encoder."""
    own = recipe(tmp_path, method="lora", max_steps=4, head={"interaction": "token_cross"})
    corpus = {"train": tmp_path / "train.txt", "validation": tmp_path / "validation.txt"}
    for place, (split, path) in enumerate(corpus.items()):
        path.write_text("".join(" ".join(one["tokens"]) + "\n" for one in DOCUMENTS[place::2]))
        corpus[split] = str(path)
    pretrain = {"corpus": corpus, "objective": "masked", "length": 32, "max_steps": 3, "batch_size": 4}
    pretrain |= {"held_out_rows": 4, "pseudo_perplexity_tokens": 4}
    own["stages"].insert(0, {"pretrain": pretrain})
    run(own, output=tmp_path / "runs")
    first = next((tmp_path / "runs" / "own").glob("00-pretrain/model"))
    model, *_ = load_artifact(tmp_path / "runs" / "own")
    body = model.get_base_model() if hasattr(model, "get_base_model") else model
    weights = load_file(first / "model.safetensors")
    name = next(key for key in weights if key.endswith("layer.0.output.dense.weight"))
    assert torch.equal(body.encoder.encoder.layer[0].output.dense.weight, weights[name])
    (found,) = (tmp_path / "runs" / "own").glob("02-evaluate/metrics.json")
    assert "test/relation_strict_f1" in json.loads(found.read_text())["scores"]
