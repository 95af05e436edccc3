"""Training that updates rows of the embeddings late: it ends as one that updates all of them at every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from luthier.errors import ModelError, TrainingError
from luthier.language_modeling.row_updates import update_by_rows
from luthier.language_modeling.rows import output_embeddings
from luthier.language_modeling.settings import LanguageTrainingSettings
from luthier.training.job import TrainingJob, train
from luthier.training.row_gradient import row_gradient_of
from luthier.training.trainer import LuthierTrainer
from luthier.training.weights import trainable_state
from tests.language_modeling.models import CAUSAL, MASKED, made
from tests.language_modeling.test_training import KillAt, KilledError, close, curve, job_of

# Few tokens a step of 67.
SETTINGS: dict[str, Any] = {"samples": 3, "batch_size": 1, "max_steps": 50, "evaluate_every": 20, "weight_decay": 0.1}
SETTINGS |= {"learning_rate": 1e-3, "max_grad_norm": 0.5, "warmup_ratio": 0.2, "checkpoint_every": 10}


class Norms(TrainerCallback):
    """Notes the gradient's norm before it is clipped, and what rows are late when a checkpoint is written."""

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.late: list[int] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "grad_norm" in (logs or {}):
            self.norms.append(logs["grad_norm"])

    def on_save(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        for one in optimizer.state.values():
            if "reached" in one:
                self.late.append(int((one["reached"] < state.global_step).sum()))


@pytest.mark.parametrize("kind", ["bert", "llama"], ids=["tied", "untied"])
def test_it_trains_as_updates_of_all_rows_do(tmp_path: Path, kind: str):
    jobs, seen = [], []
    for by_rows in (False, True):
        jobs.append(job_of(tmp_path / str(by_rows), kind=kind, row_updates=by_rows, **SETTINGS))
        seen.append(Norms())
        embeddings = jobs[-1].model.get_input_embeddings().weight
        assert (row_gradient_of(embeddings) is not None) == by_rows
        result = train(jobs[-1], [seen[-1]])
        assert row_gradient_of(embeddings) is None
        assert embeddings.grad is None or not by_rows
        if not by_rows:
            expected = result
    assert (output_embeddings(jobs[1].model).weight is jobs[1].model.get_input_embeddings().weight) == (kind == "bert")
    assert result.best_step == expected.best_step
    assert result.scores == pytest.approx(expected.scores, rel=1e-4)
    close(jobs[0].model, jobs[1].model, 1e-5)
    assert curve(tmp_path / "True") == pytest.approx(curve(tmp_path / "False"), abs=1e-4)
    assert seen[1].norms == pytest.approx(seen[0].norms, rel=1e-3)
    assert max(seen[0].norms) > 0.5
    assert not seen[0].late
    assert max(seen[1].late) > 10
    assert seen[1].late[-1] == 0


def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path):
    settings: dict[str, Any] = {**SETTINGS, "dropout": True, "max_steps": 24, "evaluate_every": 11}
    straight = job_of(tmp_path / "a", row_updates=True, **settings)
    expected = train(straight)
    with pytest.raises(KilledError):
        train(job_of(tmp_path / "b", row_updates=True, **settings), [KillAt(23)])
    other = job_of(tmp_path / "b", row_updates=True, **settings)
    assert train(other).scores == expected.scores
    for name, value in trainable_state(straight.model).items():
        assert torch.equal(value, trainable_state(other.model)[name]), name
    assert curve(tmp_path / "a") == curve(tmp_path / "b")
    again = job_of(tmp_path / "b", row_updates=True, **settings)
    assert train(again).scores == expected.scores
    for name, value in trainable_state(straight.model).items():
        assert torch.equal(value, trainable_state(again.model)[name]), name


def test_without_evaluations_what_it_ends_with_has_all_steps(tmp_path: Path):
    settings = {**SETTINGS, "evaluate_every": "never", "max_grad_norm": 0.0, "accumulation": 2, "max_steps": 12}
    jobs = [job_of(tmp_path / str(by_rows), row_updates=by_rows, **settings) for by_rows in (False, True)]
    for job in jobs:
        train(job)
    close(jobs[0].model, jobs[1].model, 1e-5)


def test_a_gradient_that_is_not_finite_is_told_with_the_name_of_the_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    job = job_of(tmp_path, row_updates=True, **SETTINGS)
    real = LuthierTrainer._clip_grad_norm

    def spoiled(trainer: LuthierTrainer, model: Any) -> Any:
        rows = row_gradient_of(job.model.get_input_embeddings().weight)
        assert rows is not None
        rows.add(torch.tensor([7]), torch.full((1, 16), torch.inf))
        return real(trainer, model)

    monkeypatch.setattr(LuthierTrainer, "_clip_grad_norm", spoiled)
    with pytest.raises(TrainingError, match=r"gradient is not finite at step 1; first seen in .*word_embeddings"):
        train(job)


def refused(kind: str = "bert", *, samples: int | None = 3, model: Any = None, **more: Any) -> TrainingJob | None:
    settings = LanguageTrainingSettings(corpus={"train": "none.txt"}, length=16, **more)
    given = model or made({**MASKED, **CAUSAL}[kind])
    assert update_by_rows(given, settings, samples, None) is False
    update_by_rows(given, settings, samples, True)
    return None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"samples": None}, "over all 67 tokens"),
        ({"samples": 67}, "over all 67 tokens"),
        ({"precision": "float16"}, "scaler"),
        ({"correct_bias": False}, "correct_bias"),
        ({"adam_betas": [0.99, 0.9]}, "adam_betas"),
        ({"weight_decay": 1e3, "learning_rate": 1.0}, "below 1"),
    ],
)
def test_what_can_not_be_updated_by_rows_is_refused(given: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("luthier.language_modeling.row_updates.FROM_TOKENS", 1)
    with pytest.raises(ModelError, match=told):
        refused(**given)


def test_models_that_can_not_be_updated_by_rows_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("luthier.language_modeling.row_updates.FROM_TOKENS", 1)
    shared = made(MASKED["bert"])
    shared.extra = torch.nn.Embedding(67, 16)
    shared.extra.weight = shared.get_input_embeddings().weight
    with pytest.raises(ModelError, match="extra reads the embeddings too"):
        refused(model=shared)
    with pytest.raises(ModelError, match="single precision"):
        refused(model=made(MASKED["bert"]).to(torch.bfloat16))
    frozen = made(MASKED["bert"])
    frozen.get_input_embeddings().weight.requires_grad_(False)
    with pytest.raises(ModelError, match="not trained"):
        refused(model=frozen)
    monkeypatch.setattr("luthier.language_modeling.row_updates.world_size", lambda: 2)
    with pytest.raises(ModelError, match="one process"):
        refused()


def test_it_is_chosen_where_there_are_many_tokens(monkeypatch: pytest.MonkeyPatch):
    settings = LanguageTrainingSettings(corpus={"train": "none.txt"}, length=16)
    assert not update_by_rows(made(MASKED["bert"]), settings, 3, None)
    monkeypatch.setattr("luthier.language_modeling.row_updates.FROM_TOKENS", 67)
    assert update_by_rows(made(MASKED["bert"]), settings, 3, None)
    assert not update_by_rows(made(MASKED["bert"]), settings, 3, False)
