"""What a trained stage tells of itself is what was done."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from luthier.training.job import TrainingResult
from luthier.training.telling import told_of_choice, told_of_training
from luthier.training.validation import Evaluation, Validation
from tests.training.test_job import make_job, tiny_model

STAGE = {"evaluate_every": "epoch", "keep_best": True}


def told(score: float) -> dict[str, Any]:
    validation = Validation(lambda model: Evaluation(), "validation/accuracy", True)
    result = TrainingResult(30, 20, {"validation/accuracy": score}, {}, 1.0, 1, 1.0)
    return told_of_choice(SimpleNamespace(**STAGE), SimpleNamespace(validation=validation), result)


def test_a_score_that_never_was_a_number_chose_nothing():
    assert told(0.5) == {"step": 20, "by": "validation/accuracy", "higher": True}
    assert told(float("nan")) == {
        "step": 20,
        "by": None,
        "why": "validation/accuracy was never a finite number",
    }


@pytest.mark.parametrize("processes", [1, 3])
def test_rows_of_a_step_are_those_of_all_processes(tmp_path: Path, monkeypatch, processes: int):
    from luthier.training.supervised_settings import SupervisedSettings

    job = make_job(tmp_path, tiny_model(), batch_size=4)
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    stage = SupervisedSettings.model_construct(
        **{
            name: field.get_default(call_default_factory=True)
            for name, field in SupervisedSettings.model_fields.items()
        }
    )
    method = SimpleNamespace(default_learning_rate=1e-3, model_dump=lambda mode: {"name": "full"})
    data = SimpleNamespace(streaming=False)
    stage = stage.model_copy(update={"data": data, "method": method, "batch_size": 4, "accumulation": 2})
    task = SimpleNamespace(schema=SimpleNamespace(name="pair"), columns={}, summary={})
    prepared = SimpleNamespace(rows={"train": range(48)}, task=task, max_length=8)
    training = told_of_training(stage, prepared, job, TrainingResult(6, 6, {}, {}, 1.0, 1, 1.0))["training"]
    assert training["rows_per_step"] == 8 * processes
    assert training["planned_steps"] == 3 * 6 // processes
