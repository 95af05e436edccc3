"""Training objectives through the command line, under full and parameter-efficient tuning."""

import json

import pytest


@pytest.mark.parametrize("objective", ["roast", "r_drop", "temperature_scaling"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_an_objective_trains_with_any_method(workplace, objective, method):
    workplace.tune.update(objective=objective, method=method, learning_rate={"full": 5e-3, "lora": 5e-2}[method])
    assert workplace.run() == 0
    assert workplace.metrics("01-evaluate")["scores"]["test/accuracy"] > 0.5
    assert workplace.metrics()["scores"]["validation/accuracy"] > 0.5


def test_a_stopped_roast_run_ends_as_one_never_stopped(workplace, monkeypatch):
    import os
    import signal

    from luthier.training.trainer import LuthierTrainer

    workplace.tune.update(objective={"name": "roast", "resample": "step"}, checkpoint_every=3)
    assert workplace.run() == 0
    expected = workplace.metrics()["scores"]
    step = LuthierTrainer.training_step
    calls = []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 11:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(LuthierTrainer, "training_step", interrupted)
    recipe = workplace.write()
    command = ["run", recipe, "--quiet", "--no-report", "--output", str(workplace.folder / "other")]
    assert workplace.luthier(*command) == 75
    assert workplace.luthier(*command) == 0
    found = json.loads((workplace.folder / "other" / "small" / "00-tune" / "metrics.json").read_text())["scores"]
    assert found == expected


def test_the_scores_after_temperature_scaling_are_those_of_the_saved_model(workplace):
    workplace.tune.update(objective="temperature_scaling", method="full", learning_rate=5e-3)
    workplace.recipe["stages"][1]["evaluate"] = {"suites": ["task"], "split": "validation"}
    assert workplace.run() == 0
    saved = workplace.metrics("01-evaluate")["scores"]["validation/loss"]
    assert workplace.metrics()["details"]["objective"]["temperature"] != pytest.approx(1.0, abs=1e-3)
    assert workplace.metrics()["scores"]["validation/loss"] == pytest.approx(saved, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("command", ["plan", "run"])
def test_what_an_objective_needs_is_checked_before_training(workplace, capsys, command):
    workplace.tune.update(objective="temperature_scaling", method="full")
    del workplace.tune["data"]["validation"]
    assert workplace.luthier(command, workplace.write(), "--output", str(workplace.folder / "runs")) == 3
    assert "temperature_scaling needs a validation split" in capsys.readouterr().err
