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
