"""The main job through the command line: a model, data and a method in; a tuned model and a report out."""

import json
import logging
import os
import re
import shutil
import signal
import warnings
from pathlib import Path

import pytest
import torch

from luthier.compare.planning import plan_recipe
from luthier.models import placing
from luthier.prediction import predict_texts
from luthier.recipe.loading import load_recipe
from luthier.secrets import HIDDEN
from tests.test_secrets import forms_in


def test_run_leaves_a_whole_run_directory_and_a_model_that_loads_anywhere(workplace, capsys):
    assert workplace.run() == 0
    run = workplace.run_folder
    for name in ("recipe.yaml", "environment.json", "report.html", "00-tune/log.jsonl", "00-tune/done.json"):
        assert (run / name).exists(), name
    assert not (run / "00-tune" / "checkpoints").exists()
    scores = workplace.metrics("01-evaluate")["scores"]
    assert scores["test/accuracy"] > 0.9
    low, high = workplace.metrics("01-evaluate")["intervals"]["test/accuracy"]
    assert low <= scores["test/accuracy"] <= high

    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(run / "00-tune" / "model")
    tokenizer = AutoTokenizer.from_pretrained(run / "00-tune" / "model")
    guess = model(**tokenizer("a lovely bright film", return_tensors="pt")).logits.argmax().item()
    assert model.config.id2label[guess] == "positive"
    assert "accuracy" in capsys.readouterr().out


def test_a_finished_stage_is_not_run_again_and_a_changed_one_is(workplace):
    assert workplace.run() == 0
    done = workplace.run_folder / "00-tune" / "done.json"
    first = done.read_text()
    assert workplace.run() == 0
    assert done.read_text() == first
    workplace.tune["epochs"] = 1
    assert workplace.run() == 0
    assert done.read_text() != first
    assert len(list((workplace.run_folder / "replaced").iterdir())) == 2


def test_changed_data_are_noticed(workplace):
    assert workplace.run() == 0
    first = (workplace.run_folder / "00-tune" / "done.json").read_text()
    with (workplace.folder / "train.tsv").open("a") as file:
        file.write("a fine film\tpositive\n")
    assert workplace.run() == 0
    assert (workplace.run_folder / "00-tune" / "done.json").read_text() != first


def test_the_saved_recipe_can_itself_be_run_and_gives_the_same(workplace):
    assert workplace.run() == 0
    saved = workplace.run_folder / "recipe.yaml"
    first = workplace.metrics()["scores"]
    assert workplace.luthier("run", str(saved), "--output", str(workplace.folder / "again"), "--quiet") == 0
    again = json.loads((workplace.folder / "again" / "small" / "00-tune" / "metrics.json").read_text())
    assert again["scores"] == first


def test_a_grid_prints_one_table_and_keeps_going_when_a_cell_fails(workplace, capsys):
    bad = {"name": "peft", "peft_type": "LORA", "settings": {"target_modules": ["nothing_like_it"]}}
    workplace.recipe["compare"] = {"over": {"stages.0.tune.method": ["head_only", "bitfit", bad], "seed": [1, 2]}}
    assert workplace.run() == 0
    captured = capsys.readouterr()
    assert "head_only" in captured.out
    assert "±" in captured.out
    assert "failed" in captured.err
    assert "nothing_like_it" in captured.err
    assert len(list((workplace.run_folder / "cells").iterdir())) == 6
    assert (workplace.run_folder / "report.html").exists()


def test_plan_counts_parameters_and_writes_nothing(workplace, capsys):
    assert workplace.luthier("plan", workplace.write(), "--output", str(workplace.folder / "runs")) == 0
    out = capsys.readouterr().out
    assert "to do" in out
    assert "parameters to train" in out
    assert not (workplace.folder / "runs").exists()
    assert workplace.run() == 0
    trained = workplace.metrics()["cost"]["trainable_parameters"]
    assert f"{trained:,} of" in out
    workplace.luthier("plan", workplace.write(), "--output", str(workplace.folder / "runs"))
    assert "done already" in capsys.readouterr().out


def stop_once_in_step_21(monkeypatch):
    """SIGTERM comes to the process while it takes its 21st training step, and not again."""
    from luthier.training.trainer import LuthierTrainer

    step, calls = LuthierTrainer.training_step, []

    def stopping(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 21:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments, **options)

    monkeypatch.setattr(LuthierTrainer, "training_step", stopping)


@pytest.mark.parametrize("minutes", [None, 3])
def test_plan_tells_the_step_that_a_stopped_run_goes_on_from(workplace, capsys, monkeypatch, minutes):
    stop_once_in_step_21(monkeypatch)
    workplace.tune.update({"max_minutes": minutes} if minutes else {})
    output = str(workplace.folder / "runs")
    assert workplace.run() == 75
    capsys.readouterr()
    assert workplace.luthier("plan", workplace.write(), "--output", output) == 0
    assert f"00-tune  continues at step 21{'' if minutes else ' of 64'}\n" in capsys.readouterr().out
    left, whole = (plan_recipe(load_recipe("recipe.yaml"), Path(place))[0] for place in (output, "elsewhere"))
    assert (left.reached, whole.reached) == ((21, None if minutes else 64), None)
    workplace.tune["epochs"] = 5
    assert workplace.luthier("plan", workplace.write(), "--output", output) == 0
    assert "00-tune  to do" in capsys.readouterr().out


def test_a_continued_run_says_from_which_step_and_a_finished_one_what_to_do_next(workplace, capsys, monkeypatch):
    stop_once_in_step_21(monkeypatch)
    output = str(workplace.folder / "runs")
    assert workplace.run() == 75
    capsys.readouterr()
    assert workplace.luthier("run", workplace.write(), "--output", output, "--no-report") == 0
    told = capsys.readouterr()
    assert "full seed 13: continues at step 21 of 64, from its newest whole chec" in told.err
    assert re.search(
        r"full seed 13: training loss \d\.\d+, validation accuracy \d\.\d+, validation f1 \d\.\d+\n", told.err
    )
    assert f'next: luthier predict {workplace.run_folder} --text "…"\n' in told.out
    assert workplace.luthier("run", workplace.write(), "--output", output, "--no-report") == 0
    assert "small/00-tune: done already\nsmall/01-evaluate: done already\n" in capsys.readouterr().err


def test_predict_from_text_and_file(workplace, capsys):
    assert workplace.run() == 0
    capsys.readouterr()
    run = str(workplace.run_folder)
    assert workplace.luthier("predict", run, "--text", "a lovely bright film", "--text", "dull and grim") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["label"] for line in lines] == ["positive", "negative"]
    assert sum(lines[0]["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    Path("new.tsv").write_text("text\nclever and warm\n")
    assert workplace.luthier("predict", run, "--file", "new.tsv", "--output", "out.jsonl") == 0
    assert json.loads(Path("out.jsonl").read_text())["label"] == "positive"
    assert workplace.luthier("predict", run, "--text", "x", "--pair", "y") == 3


def test_evaluation_and_prediction_ask_for_the_accelerator(workplace, monkeypatch):
    asked = []
    monkeypatch.setattr(placing, "device", lambda: asked.append("asked") or torch.device("cpu"))
    assert workplace.run() == 0
    assert asked == ["asked"]  # training places its model by itself
    predict_texts(workplace.run_folder, "a lovely bright film")
    assert asked == ["asked"] * 2
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert placing.device().type == "cuda"


def test_predictions_do_not_depend_on_batch_mates(workplace, capsys):
    assert workplace.run() == 0
    from luthier.prediction.texts import predict_texts

    texts = ["a lovely film", "the plot was dull and the actor was tired and the scene was cold", "warm"]
    alone = [predict_texts(workplace.run_folder, [t])[0]["probability"] for t in texts]
    together = [p["probability"] for p in predict_texts(workplace.run_folder, texts)]
    assert alone == pytest.approx(together, abs=1e-5)


def test_init_writes_a_recipe_that_validates_and_runs(workplace, capsys):
    arguments = ["--model", str(workplace.folder / "model"), "--data", str(workplace.folder / "train.tsv")]
    assert workplace.luthier("init", "my.yaml", *arguments, "--method", "bitfit") == 0
    assert workplace.luthier("validate", "my.yaml") == 0
    assert workplace.luthier("init", "my.yaml") == 2
    command = ["my.yaml", "--set", "stages.0.tune.data.max_length=64", "--set", "stages.0.tune.epochs=1"]
    assert workplace.luthier("run", *command, "--quiet") == 0


def test_the_python_entry_point_takes_a_mapping(workplace):
    import luthier

    record = luthier.run(workplace.recipe, output=workplace.folder / "runs")
    assert record.metrics["01-evaluate"]["scores"]["test/accuracy"] > 0.9


ODD_SECRET = "schlüssel \"4711\" 'x' \\ & <密>"


@pytest.mark.parametrize("secret", ["secret-place-4711", ODD_SECRET])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_secrets_stay_out_of_everything_that_is_written(workplace, monkeypatch, capfd, secret, method):
    place = workplace.folder / secret
    place.mkdir()
    for name in ("model", "train.tsv"):
        (workplace.folder / name).rename(place / name)
    monkeypatch.setenv("LUTHIER_TEST_PLACE", secret)
    workplace.recipe["model"] = str(workplace.folder / "${env:LUTHIER_TEST_PLACE}" / "model")
    workplace.tune.update(method=method, epochs=1)
    workplace.tune["data"]["train"] = str(workplace.folder / "${env:LUTHIER_TEST_PLACE}" / "train.tsv")
    recipe = workplace.write()
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    with monkeypatch.context() as records:
        records.setattr(logging, "_logRecordFactory", logging.getLogRecordFactory())
        assert workplace.luthier("plan", recipe, "--output", str(workplace.folder / "runs")) == 0
        assert workplace.luthier("run", recipe, "--output", str(workplace.folder / "runs"), "--verbose") == 0
        assert workplace.luthier("report", str(workplace.run_folder)) == 0
        assert workplace.luthier("predict", str(workplace.run_folder), "--text", "a lovely film") == 0
        (place / "train.tsv").write_text("text\tlabel\n1\t2\t3\n")  # a fault that a look at the columns does not find
        assert workplace.luthier("run", recipe, "--output", str(workplace.folder / "runs"), "--quiet") == 3
    assert (workplace.run_folder / "failed.json").exists()
    for path in workplace.run_folder.rglob("*"):
        if path.is_file():
            assert forms_in(path.read_bytes(), secret) == [], path
    printed = capfd.readouterr()
    assert forms_in(f"{printed.out} {printed.err}".encode(), secret) == []


def test_an_ordinary_word_from_the_environment_leaves_every_key_as_it_is(workplace, monkeypatch):
    (workplace.folder / "data").mkdir()
    (workplace.folder / "train.tsv").rename(workplace.folder / "data" / "train.tsv")
    monkeypatch.setenv("LUTHIER_TEST_PLACE", "data")
    monkeypatch.setenv("LUTHIER_TEST_SPLIT", "validation")
    workplace.tune["epochs"] = 1
    workplace.tune["data"]["train"] = "${env:LUTHIER_TEST_PLACE}/train.tsv"
    workplace.tune["data"]["validation"] = "${env:LUTHIER_TEST_SPLIT}.tsv"
    assert workplace.run("--no-report") == 0
    assert [path for path in workplace.run_folder.rglob("*.[jy]*") if HIDDEN in path.read_text()] == []
    assert workplace.luthier("validate", str(workplace.run_folder / "recipe.yaml")) == 0


@pytest.mark.parametrize("verb", ["list", "doctor", "schema"])
def test_information_verbs(workplace, verb, capsys):
    assert workplace.luthier(verb) == 0
    assert len(capsys.readouterr().out) > 200


def test_brackets_reach_the_user(workplace, capsys):
    assert workplace.luthier("doctor") == 0
    assert "pip install 'luthier[" in capsys.readouterr().out


def test_explain_tells_settings_defaults_and_paper(workplace, capsys):
    assert workplace.luthier("explain", "residual_prompt") == 0
    out = capsys.readouterr().out
    assert "bottleneck" in out
    assert "Residual Prompt Tuning" in out
    assert workplace.luthier("explain", "residual_promt") == 2
    assert "did you mean 'residual_prompt'" in capsys.readouterr().err


def test_a_method_from_outside_the_package_needs_no_edit_here(workplace, monkeypatch):
    (workplace.folder / "my_method.py").write_text(
        "from typing import ClassVar, Literal\n"
        "from luthier.registry import METHODS\n"
        "from luthier.methods.base import TuningMethod\n\n\n"
        "@METHODS.register\n"
        "class HeadBias(TuningMethod):\n"
        "    name: Literal['head_bias'] = 'head_bias'\n"
        "    default_learning_rate: ClassVar[float] = 0.1\n\n"
        "    def apply(self, model, context):\n"
        "        for name, parameter in model.named_parameters():\n"
        "            parameter.requires_grad = name == 'classifier.bias'\n"
        "        return model\n"
    )
    monkeypatch.syspath_prepend(str(workplace.folder))
    workplace.recipe["plugins"] = ["my_method"]
    from luthier.registry import METHODS

    monkeypatch.setattr(METHODS, "_entries", {name: METHODS.get(name) for name in METHODS.names()})
    workplace.tune["method"] = "head_bias"
    assert workplace.run() == 0
    assert workplace.metrics()["cost"]["trainable_parameters"] == 2


def test_a_streamed_run_trains_stops_and_continues_exactly(workplace, monkeypatch):
    import os
    import signal

    from luthier.training.trainer import LuthierTrainer

    workplace.tune["data"].update(streaming=True, labels=["negative", "positive"])
    assert workplace.run() == 2
    workplace.tune.update(max_steps=40, checkpoint_every=4, evaluate_every=10)
    assert workplace.run() == 0
    expected = workplace.metrics()["scores"]
    assert expected["validation/accuracy"] > 0.8
    step, calls = LuthierTrainer.training_step, []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 22:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(LuthierTrainer, "training_step", interrupted)
    command = ["run", workplace.write(), "--quiet", "--no-report", "--output", str(workplace.folder / "other")]
    assert workplace.luthier(*command) == 75
    assert workplace.luthier(*command) == 0
    found = json.loads((workplace.folder / "other" / "small" / "00-tune" / "metrics.json").read_text())["scores"]
    assert found == expected


@pytest.mark.parametrize("method", ["idpg", "unipelt", "bottleneck", "residual_prompt"])
def test_our_own_tuners_train_save_and_predict(workplace, method, capsys):
    workplace.tune.update(method=method, learning_rate=2e-2, epochs=6)
    assert workplace.run() == 0
    log = (workplace.run_folder / "00-tune" / "log.jsonl").read_text().splitlines()
    losses = [line["validation/loss"] for line in map(json.loads, log) if line["event"] == "evaluate"]
    assert len(set(losses)) == len(losses) == 6
    capsys.readouterr()
    assert workplace.luthier("predict", str(workplace.run_folder), "--text", "a lovely bright film") == 0
    assert json.loads(capsys.readouterr().out)["label"] in ("positive", "negative")


def test_checkpoints_of_other_settings_are_never_continued_from(workplace, monkeypatch):
    import os
    import signal

    from luthier.training.trainer import LuthierTrainer

    step, calls = LuthierTrainer.training_step, []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    def command(output):
        return ["run", workplace.write(), "--quiet", "--no-report", "--output", str(workplace.folder / output)]

    monkeypatch.setattr(LuthierTrainer, "training_step", interrupted)
    workplace.tune["learning_rate"] = 1e-4
    stop_at = 0
    assert workplace.luthier(*command("straight")) == 0
    calls, stop_at = [], 10
    assert workplace.luthier(*command("stopped")) == 75
    workplace.tune["learning_rate"], calls, stop_at = 1e-2, [], 30
    assert workplace.luthier(*command("other")) == 75
    late, stopped = (workplace.folder / name / "small" / "00-tune" / "checkpoints" for name in ("other", "stopped"))
    shutil.copytree(late, stopped, dirs_exist_ok=True)
    workplace.tune["learning_rate"], stop_at = 1e-4, 0
    assert workplace.luthier(*command("stopped")) == 0
    ends = [
        json.loads((workplace.folder / name / "small" / "00-tune" / "metrics.json").read_text())["scores"]
        for name in ("straight", "stopped")
    ]
    assert ends[0] == ends[1]
