"""Classification as text through the command line, on a tiny T5 and a tiny Llama on disk."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from luthier.data.batches.encoding import encode_rows, make_collator
from luthier.data.text_form import TextForm
from luthier.evaluation.prediction import model_inputs
from luthier.models.artifacts import load_artifact
from luthier.tasks.base import task_named
from tests.cli.conftest import BAD_WORDS, GOOD_WORDS, PLAIN_WORDS, Workplace, sentences
from tests.evaluation.text_models import KINDS, model_of, tokenizer_of

LABELS = ("negative", "positive")
VOCABULARY = [*GOOD_WORDS, *BAD_WORDS, *PLAIN_WORDS, *"review : positive negative good bad 1 2 3 4 5 0 .".split()]


def pretrained(kind: str) -> tuple[Any, Any]:
    """A model that answers right where a text starts with `1`, and with the other label where it does not: a frozen
    model that prompts can steer. And its tokenizer."""
    tokenizer = tokenizer_of(VOCABULARY, kind)
    model = model_of(kind, len(tokenizer)).train()
    form = TextForm("review: {text}", LABELS, LABELS)
    marked = [(f"1 {text}", LABELS.index(label)) for text, label in sentences(300, 9)]
    plain = [(text, 1 - LABELS.index(label)) for text, label in sentences(300, 10)]
    rows = [{"text": text, "label": label} for text, label in marked + plain]
    options: dict[str, Any] = {"max_length": 64, "encoder_decoder": kind == "t5", "form": form}
    encoded = list(encode_rows(rows, "single_sentence", tokenizer, **options))
    collate, draw = make_collator("prompt_response", tokenizer), random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(100 if kind == "t5" else 250):
        batch = collate(draw.sample(encoded, 32))
        logits = model(**model_inputs(model, batch, "prompt_response")).logits
        task_named("prompt_response").loss(logits, batch, shifted=kind != "t5", items=64).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), tokenizer


@pytest.fixture(scope="session")
def text_models(tmp_path_factory) -> dict[str, Path]:
    """Folders of pretrained models by kind."""
    folder = tmp_path_factory.mktemp("text-models")
    for kind in KINDS:
        for part in pretrained(kind):
            part.save_pretrained(folder / kind)
    return {kind: folder / kind for kind in KINDS}


class TextWorkplace(Workplace):
    """The workplace with a model that writes text, and csv files."""

    def __init__(self, folder: Path, model: Path) -> None:
        super().__init__(folder, model)
        for split, count, seed in (("train", 96, 0), ("validation", 32, 1), ("test", 32, 2)):
            with (folder / f"{split}.csv").open("w", newline="") as file:
                csv.writer(file).writerows([("review", "label"), *sentences(count, seed)])
        self.tune["data"] = {s: str(folder / f"{s}.csv") for s in ("train", "validation", "test")}
        self.tune["data"] |= {"text": "review", "as_text": True}


@pytest.fixture(params=KINDS)
def place(request, tmp_path: Path, text_models, monkeypatch) -> TextWorkplace:
    monkeypatch.chdir(tmp_path)
    return TextWorkplace(tmp_path, text_models[request.param])


@pytest.fixture
def t5(tmp_path: Path, text_models, monkeypatch) -> TextWorkplace:
    monkeypatch.chdir(tmp_path)
    return TextWorkplace(tmp_path, text_models["t5"])


def events(place: Workplace) -> list[dict]:
    log = (place.run_folder / "00-tune" / "log.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, log) if line["event"] == "evaluate"]


def predicted(place: Workplace, capsys, *arguments: str) -> list[dict]:
    capsys.readouterr()
    assert place.luthier("predict", str(place.run_folder), *arguments) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def untuned_accuracy(place: TextWorkplace) -> float:
    """Of the frozen model, on the rows it is tested on after tuning."""
    from luthier.data import DataSettings, encode, load_data
    from luthier.evaluation.prediction import predict_task
    from luthier.models.artifacts import load_model
    from luthier.models.loading import load_config, load_tokenizer
    from luthier.tasks.base import task_of

    folder = str(place.folder / "model")
    tokenizer, config = load_tokenizer(folder), load_config(folder)
    task = load_data(DataSettings(**place.tune["data"]))
    rows = encode(task, tokenizer, max_length=64, encoder_decoder=config.is_encoder_decoder)["test"]
    found = predict_task(load_model(folder, task_of(task).head_on(config)), rows, task, tokenizer)
    return float((found.logits.argmax(axis=1) == found.labels).mean())


def test_residual_prompt_learns_the_rule_and_labels_new_text(place, capsys):
    place.tune.update(method={"name": "residual_prompt", "length": 4}, learning_rate=5e-2, epochs=3)
    place.tune["method"]["network_learning_rate"] = 1e-2
    assert place.luthier("plan", place.write()) == 0
    assert 'single_sentence, 2 labels, as text: "review: {text}"' in " ".join(capsys.readouterr().out.split())
    assert untuned_accuracy(place) < 0.5
    assert place.run() == 0
    accuracies = [line["validation/accuracy"] for line in events(place)]
    tuned = place.metrics()["scores"]
    assert tuned["validation/accuracy"] == max(accuracies) > 0.75
    assert len(accuracies) == 3
    found = place.metrics("01-evaluate")["scores"]
    assert found["test/accuracy"] > 0.75
    assert 0 <= found["test/expected_calibration_error"] < 0.5
    lines = predicted(place, capsys, "--text", "a lovely bright film", "--text", "dull and grim")
    assert [line["label"] for line in lines] == ["positive", "negative"]
    assert sum(lines[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert lines[0]["probability"] == lines[0]["probabilities"]["positive"]
    Path("new.csv").write_text("review\nclever and warm\n")
    assert predicted(place, capsys, "--file", "new.csv")[0]["label"] == "positive"


@pytest.mark.parametrize("method", ["full", "lora", "prompt", "p_tuning", "prefix"])
def test_methods_train_are_judged_and_predict(place, method, capsys):
    place.tune.update(method=method, max_steps=6, evaluate_every=3)
    assert place.run() == 0
    model, _, card = load_artifact(place.run_folder)
    assert card.head == ("seq2seq_lm" if model.config.is_encoder_decoder else "causal_lm")
    assert (card.schema, card.text_form.template) == ("single_sentence", "review: {text}")
    losses = [line["validation/loss"] for line in events(place)]
    assert len(losses) == 2
    assert losses[0] != losses[1]
    together = predicted(place, capsys, "--text", "a lovely bright film", "--text", "the plot and the scene was dull")
    alone = predicted(place, capsys, "--text", "a lovely bright film")
    assert together[0]["probability"] == pytest.approx(alone[0]["probability"], abs=1e-5)
    assert set(alone[0]["probabilities"]) == {"positive", "negative"}


def test_writing_the_label_and_own_words(place, capsys):
    place.tune.update(method="full", learning_rate=5e-3, epochs=5)
    place.tune["data"] |= {"label_scoring": "generate", "verbalizers": {"positive": "good", "negative": "bad"}}
    place.tune["data"]["template"] = "{text} :"
    assert place.run() == 3 - 1, "calibration needs probabilities"
    assert "calibration suite needs probabilities" in capsys.readouterr().err
    place.recipe["stages"][1]["evaluate"]["suites"] = ["task"]
    assert place.run() == 0
    assert place.metrics("01-evaluate")["scores"]["test/accuracy"] > 0.9
    (line,) = predicted(place, capsys, "--text", "a lovely bright film")
    assert (line["label"], line["response"]) == ("positive", "good")


def test_a_model_is_judged_on_other_data_in_the_form_of_its_training(t5):
    t5.tune.update(method="full", learning_rate=5e-3, epochs=3)
    other = {"test": str(t5.folder / "test.tsv"), "label_map": {"positive": "positive"}}
    t5.recipe["stages"].append({"evaluate": {"data": other}})
    assert t5.run() == 0
    first, second = (t5.metrics(stage)["scores"] for stage in ("01-evaluate", "02-evaluate"))
    assert second["test/accuracy"] == first["test/accuracy"] > 0.9
    assert second["test/loss"] == pytest.approx(first["test/loss"])


def test_scores_are_learned_as_numbers(t5, capsys):
    for split in ("train", "validation", "test"):
        path = t5.folder / f"{split}.csv"
        rows = list(csv.DictReader(path.open()))
        with path.open("w", newline="") as file:
            values = [(r["review"], "4.5" if r["label"] == "positive" else "1.5") for r in rows]
            csv.writer(file).writerows([("review", "label"), *values])
    t5.tune.update(method="full", learning_rate=5e-3, epochs=5)
    t5.tune["data"] |= {"task": "regression", "number_step": 1.5}
    t5.recipe["stages"][1]["evaluate"]["suites"] = ["task"]
    assert t5.run() == 0
    assert t5.metrics("01-evaluate")["scores"]["test/pearson"] > 0.8
    assert predicted(t5, capsys, "--text", "a lovely bright film")[0]["score"] == 4.5


def test_choices_are_answered_by_name(t5, capsys):
    for number, split in enumerate(("train", "validation", "test")):
        lines = [
            {"context": text, "choices": ["fine", "grim"], "label": int(label == "negative"), "id": i}
            for i, (text, label) in enumerate(sentences(96, number))
        ]
        (t5.folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = {"0": "good", "1": "bad"}
    data = {s: str(t5.folder / f"{s}.jsonl") for s in ("train", "validation", "test")}
    t5.tune.update(method="full", learning_rate=5e-3, epochs=4, data=data | {"as_text": True, "verbalizers": words})
    assert t5.run() == 0
    assert t5.metrics("01-evaluate")["scores"]["test/accuracy"] > 0.9
    Path("new.jsonl").write_text(json.dumps({"context": "a cold and dull film", "choices": ["fine", "grim"]}) + "\n")
    assert predicted(t5, capsys, "--file", "new.jsonl")[0]["label"] == "1"
    Path("new.jsonl").write_text(json.dumps({"context": "a film", "choices": ["grim", "warm", "dull"]}) + "\n")
    assert t5.luthier("predict", str(t5.run_folder), "--file", "new.jsonl") == 3
    assert "does not have 2 choices" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "posed"),
    [("bert", {}), ("t5", {"as_text": True}), ("t5", {"as_text": True, "label_scoring": "generate"})],
)
def test_record_by_its_name(request, model, posed, monkeypatch):
    place = request.getfixturevalue("t5" if model == "t5" else "workplace")
    draw = random.Random(0)
    queries = [draw.sample(GOOD_WORDS + BAD_WORDS, 3) for _ in range(12)]
    rows = {
        "passage": [f"the {a} plot with a {b} actor and {c} scene" for a, b, c in queries],
        "query": ["the @placeholder plot"] * 12,
        "entities": queries,
        "answers": [[query[0]] for query in queries],
        "idx": [{"passage": i, "query": i} for i in range(12)],
    }
    splits = {"train": datasets.Dataset.from_dict(rows), "validation": datasets.Dataset.from_dict(rows)}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: splits)
    place.tune.update(method="full", epochs=1, data={"source": "superglue/record", "max_length": 60} | posed)
    place.recipe["stages"][1]["evaluate"]["suites"] = ["task"]
    assert place.run() == 0
    found = place.metrics("01-evaluate")
    assert 0 <= found["scores"]["validation/exact_match"] <= found["scores"]["validation/squad_f1"] <= 1
    assert found["primary"] == "validation/squad_f1"
    assert place.metrics()["details"]["rows"] == {"train": 12 if posed else 36, "validation": 36}


def test_the_robustness_suite_poses_its_sets_alike_and_refuses_attacks(t5, capsys):
    t5.tune.update(method="full", learning_rate=5e-3, epochs=2)
    suite = {"name": "robustness", "adversarial": [{"name": "same", "data": {"test": str(t5.folder / "test.tsv")}}]}
    t5.recipe["stages"][1]["evaluate"]["suites"] = ["task", suite]
    assert t5.run() == 0
    found = t5.metrics("01-evaluate")["scores"]
    assert found["test/robustness/adversarial_accuracy"] == pytest.approx(found["test/accuracy"])
    suite["attacks"] = [{"kind": "characters"}]
    assert t5.run() == 2
    assert "attacks at run time read a classification head" in capsys.readouterr().err


def test_objectives_that_change_a_head_are_refused(t5, capsys):
    t5.tune.update(method="full", objective="temperature_scaling", max_steps=1)
    assert t5.run() == 2
    assert "changes a classification head" in capsys.readouterr().err


def test_a_rate_of_the_head_is_refused_on_a_language_model(t5, capsys):
    t5.tune["method"] = {"name": "prompt", "length": 4, "head_learning_rate": 5e-3}
    assert t5.luthier("plan", t5.write()) == 2
    assert "`head_learning_rate` would have no effect on a language model" in capsys.readouterr().err


def test_a_rate_of_the_head_is_refused_where_the_head_is_frozen(workplace, capsys):
    workplace.tune.update(method={"name": "prompt", "length": 4, "head_learning_rate": 5e-3}, train_head=False)
    assert workplace.luthier("plan", workplace.write()) == 2
    assert "`head_learning_rate` would have no effect with `train_head: false`" in capsys.readouterr().err


def test_an_encoder_is_refused(workplace, capsys):
    workplace.tune["data"]["as_text"] = True
    assert workplace.run() == 2
    assert "`as_text` needs a model that writes text" in capsys.readouterr().err


def test_a_classification_head_is_not_asked_for_text(workplace, capsys):
    workplace.recipe["stages"][1]["evaluate"]["data"] = workplace.tune["data"] | {"as_text": True}
    assert workplace.run() == 2
    assert "has a sequence_classification head" in capsys.readouterr().err


def test_prompts_on_a_classifying_encoder_decoder_point_to_text(t5, capsys):
    t5.tune.update(method="residual_prompt")
    t5.tune["data"]["as_text"] = False
    assert t5.run() == 4
    assert "data.as_text: true" in capsys.readouterr().err
