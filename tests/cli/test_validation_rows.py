"""Which validation rows a tuned model got right, known from the evaluation that chose its weights."""

import os
import signal

import pytest

import luthier
import luthier.training.supervised
from luthier.training.trainer import LuthierTrainer
from tests.cli.conftest import sentences


def right_of_saved_model(workplace) -> str:
    rows = sentences(32, 1)
    guesses = luthier.predict(workplace.run_folder / "00-tune", [text for text, _ in rows])
    return "".join("1" if g["label"] == label else "0" for g, (_, label) in zip(guesses, rows, strict=True))


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({}, 1),
        ({"keep_best": False, "evaluate_every": 7, "max_steps": 12}, 2),
        ({"objective": "temperature_scaling"}, 2),
        ({"method": "head_only", "learning_rate": 0.05}, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("stopped", [False, True])
def test_they_are_those_of_the_saved_model_without_another_pass(workplace, monkeypatch, settings, passes, stopped):
    evaluate, calls = luthier.training.supervised.predict_task, []
    step, steps = LuthierTrainer.training_step, []

    def counting(*args, **kwargs):
        calls.append(1)
        return evaluate(*args, **kwargs)

    def interrupted(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == 11:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(luthier.training.supervised, "predict_task", counting)
    workplace.tune.update({"epochs": 1, "learning_rate": 2e-3} | settings)
    workplace.recipe["stages"].pop()
    if stopped:
        monkeypatch.setattr(LuthierTrainer, "training_step", interrupted)
        assert workplace.run() == 75
    assert workplace.run() == 0
    assert len(calls) == passes
    metrics = workplace.metrics()
    right = metrics["details"]["validation_correct"]
    assert right == right_of_saved_model(workplace)
    assert right.count("1") / 32 == metrics["scores"]["validation/accuracy"]


def test_a_training_that_ends_too_early_and_rows_that_were_trained_on_are_marked(workplace, capsys):
    rows = (workplace.folder / "train.tsv").read_text(encoding="utf8").splitlines(keepends=True)
    for split in ("train", "validation"):
        (workplace.folder / f"{split}.tsv").write_text("".join(rows[:21]), encoding="utf8")
    few = {"max_steps": 3, "evaluate_every": 1, "batch_size": 20, "schedule": "constant", "warmup_ratio": 0}
    workplace.tune.update({"method": "head_only", "learning_rate": 1e-3, **few})
    workplace.recipe["stages"].pop()
    assert workplace.run() == 0
    marks = workplace.metrics()["marks"]
    said = "20 of 20 validation rows stand in the training rows, too: scores on them tell nothing of new text"
    assert marks[0] == said
    assert marks[-2].startswith("not shown to be better than the trivial baseline by accuracy")
    assert marks[-1].startswith("it may be trained too little: ")
    assert marks[-1].endswith("still falling at the last step, 3: train longer, e.g. `max_steps: 6`")
    shown = " ".join(capsys.readouterr().out.split())
    assert said in shown
    assert "It may be trained too little: " in shown
