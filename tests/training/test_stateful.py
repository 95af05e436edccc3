"""Rows that know where they are: a stopped run reads nothing again, and ends as one that never stopped."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset
from transformers import TrainerCallback

from luthier.errors import TrainingError
from luthier.storage.jsonlines import read_log
from luthier.training.job import TrainingJob, TrainingRows, train
from luthier.training.weights import trainable_state
from tests.training.test_job import (
    At,
    Killed,
    Trace,
    collate,
    kill,
    last_lines,
    make_job,
    rows,
    run,
    tiny_model,
    train_accuracy,
)


class Counted(IterableDataset[dict[str, Any]]):
    """Rows in an order that its own generator draws, one after another; counts those that it reads."""

    def __init__(self) -> None:
        self.rows, self.read = rows(), 0
        self.draw = torch.Generator().manual_seed(5)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            self.read += 1
            yield self.rows[int(torch.randint(len(self.rows), (), generator=self.draw))]

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.draw.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.draw.set_state(state["generator"])


def streamed_job(folder: Path, model: Any, **settings: Any) -> TrainingJob:
    job = make_job(folder, model, train_accuracy, max_steps=12, **settings)
    return dataclasses.replace(job, data=TrainingRows(Counted(), None, collate))


@pytest.mark.parametrize("step", [2, 5, 8, 11])
@pytest.mark.parametrize("settings", [{"batch_size": 4}, {"batch_size": 2, "accumulation": 3}])
def test_a_killed_run_reads_nothing_again_and_ends_as_one_never_killed(tmp_path: Path, step: int, settings: Any):
    settings = {**settings, "checkpoint_every": 3, "evaluate_every": 4, "log_every": 2}
    straight, resumed = tiny_model(), tiny_model()
    whole = streamed_job(tmp_path / "a", straight, **settings)
    expected = train(whole)
    with pytest.raises(Killed):
        train(streamed_job(tmp_path / "b", tiny_model(), **settings), [At(step, kill)])
    job = streamed_job(tmp_path / "b", resumed, **settings)
    found = train(job)
    assert (found.steps, found.scores, found.details) == (12, expected.scores, expected.details)
    for name, value in trainable_state(straight).items():
        assert torch.equal(value, trainable_state(resumed)[name]), name
    assert last_lines(tmp_path / "a") == last_lines(tmp_path / "b")
    per_step = settings["batch_size"] * settings.get("accumulation", 1)
    assert whole.data.rows.read == 12 * per_step
    assert job.data.rows.read == (12 - (step - 1) // 3 * 3) * per_step


class KilledOnceSaved(TrainerCallback):
    """Ends a run when a checkpoint of that step is whole."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            kill()


@pytest.mark.parametrize("evaluate_every", ["epoch", 3])
def test_a_run_killed_after_its_last_checkpoint_takes_no_further_step(tmp_path: Path, evaluate_every: Any):
    settings = {"max_steps": 7, "checkpoint_every": 7, "evaluate_every": evaluate_every}
    straight, resumed, steps = tiny_model(), tiny_model(), Trace()
    expected = run(tmp_path / "a", straight, evaluator=train_accuracy, **settings)
    with pytest.raises(Killed):
        run(tmp_path / "b", tiny_model(), [KilledOnceSaved(7)], evaluator=train_accuracy, **settings)
    found = run(tmp_path / "b", resumed, [steps], evaluator=train_accuracy, **settings)
    assert not steps.weights
    assert (found.steps, found.best_step, found.scores) == (7, expected.best_step, expected.scores)
    assert last_lines(tmp_path / "a") == last_lines(tmp_path / "b")
    for name, value in trainable_state(straight).items():
        assert torch.equal(value, trainable_state(resumed)[name]), name


def test_the_epochs_of_rows_without_an_end_are_the_share_of_all_steps(tmp_path: Path):
    with pytest.raises(Killed):
        train(streamed_job(tmp_path, tiny_model(), checkpoint_every=3), [At(5, kill)])
    train(streamed_job(tmp_path, tiny_model(), checkpoint_every=3))
    logged = {line["step"]: line["epoch"] for line in read_log(tmp_path / "log.jsonl") if line["event"] == "log"}
    assert logged == {step: step / 12 for step in range(1, 13)}


def test_a_checkpoint_of_another_number_of_processes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched:
        patched.setattr("luthier.training.trainer.world_size", lambda: 2)
        with pytest.raises(Killed):
            train(streamed_job(tmp_path, tiny_model(), checkpoint_every=3), [At(5, kill)])
    told = r"(?s)the checkpoint is of a run of 2 processes, and this one has 1.*torchrun --nproc_per_node 2"
    with pytest.raises(TrainingError, match=told):
        train(streamed_job(tmp_path, tiny_model(), checkpoint_every=3))


def test_a_checkpoint_without_a_position_is_refused(tmp_path: Path):
    with pytest.raises(Killed):
        run(tmp_path, tiny_model(), [At(5, kill)], max_steps=12, checkpoint_every=3)
    with pytest.raises(TrainingError, match="does not say where its training rows go on"):
        train(streamed_job(tmp_path, tiny_model(), checkpoint_every=3))


def test_rows_without_order_or_state_are_no_training_rows():
    with pytest.raises(TypeError, match="state_dict"):
        TrainingRows(iter(rows()), None, collate)


def test_the_seed_of_a_run_decides_on_the_order_of_a_stream(tmp_path: Path):
    from types import SimpleNamespace

    from luthier.data.loading import load_data
    from luthier.data.settings import DataSettings
    from luthier.training.supervised import training_rows
    from tests.models.builders import BERT_TOKENS, build_tokenizer

    file = tmp_path / "train.tsv"
    file.write_text("text\tlabel\n" + "".join(f"text {number}\t{'ab'[number % 2]}\n" for number in range(40)))

    def order(seed: int, subset_seed: int = 0) -> list[str]:
        data = DataSettings(train=str(file), streaming=True, labels=["a", "b"], buffer=20, subset_seed=subset_seed)
        rows = {"train": load_data(data, splits=("train",)).splits["train"]}
        stage = SimpleNamespace(batch_size=4, workers=0, data=data)
        prepared = SimpleNamespace(rows=rows, schema="single_sentence", tokenizer=build_tokenizer(**BERT_TOKENS))
        return [row["text"] for row in itertools.islice(training_rows(stage, prepared, seed).rows, 40)]

    orders = [order(13), order(17), order(13, subset_seed=1)]
    assert orders[0] == order(13)
    assert len({tuple(one) for one in orders}) == 3
    assert all(sorted(one) == sorted(orders[0]) for one in orders)
