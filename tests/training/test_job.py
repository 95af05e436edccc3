"""Training: accumulation changes nothing, a stopped run ends as one that never stopped, NaN stops before the update."""

import dataclasses
import itertools
import math
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.amp import GradScaler
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import IterableDataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    TrainerCallback,
    TrainingArguments,
    get_scheduler,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from luthier.errors import DataError, InterruptedRunError, TrainingError
from luthier.storage.jsonlines import read_log
from luthier.tasks.base import task_named
from luthier.training.job import TrainingJob, TrainingRows, total_steps, train, training_arguments
from luthier.training.schedule import share_of_rate
from luthier.training.settings import TrainingSettings
from luthier.training.trainer import TRAINABLE, LuthierTrainer
from luthier.training.validation import Evaluation, Validation
from luthier.training.weights import trainable_state

ROWS = 20
MEASURED = {"seconds": 0, "tokens_per_second": 0, "peak_memory_bytes": 0}


class Sampler:
    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return ROWS

    def __iter__(self):
        return iter(torch.randperm(ROWS, generator=torch.Generator().manual_seed(self.epoch)).tolist())


def tiny_model(dropout: float = 0.1) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return BertForSequenceClassification(config)


def rows() -> list[dict]:
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 50, (ROWS, 6), generator=draw)
    return [{"input_ids": x, "labels": int(x.sum() % 2), "row": i + 1} for i, x in enumerate(ids)]


def collate(batch: list[dict]) -> dict:
    ids = torch.stack([b["input_ids"] for b in batch])
    labels, numbers = (torch.tensor([b[k] for b in batch]) for k in ("labels", "row"))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "row": numbers}


def make_job(folder: Path, model, evaluator=None, **settings) -> TrainingJob:
    defaults = {"epochs": 3, "batch_size": 4, "log_every": 1, "learning_rate": 1e-3}
    return TrainingJob(
        model=model,
        task=task_named("single_sentence"),
        shifted=False,
        data=TrainingRows(rows(), Sampler(), collate),
        settings=TrainingSettings(**defaults | settings),
        groups=[{"params": list(model.parameters()), "lr": 1e-3, "weight_decay": 0.01}],
        folder=folder,
        seed=3,
        validation=Validation(evaluator, "validation/accuracy", True) if evaluator else None,
    )


def run(folder: Path, model, callbacks=(), evaluator=None, **settings):
    return train(make_job(folder, model, evaluator, **settings), callbacks)


def train_accuracy(model) -> Evaluation:
    batch = collate(rows())
    was = model.training
    model.eval()
    with torch.inference_mode():
        right = model(batch["input_ids"]).logits.argmax(1) == batch["labels"]
    model.train(was)
    return Evaluation({"validation/accuracy": right.float().mean().item()}, {"right": right.int().tolist()})


class Trace(TrainerCallback):
    """Keeps the weights after every step."""

    def __init__(self) -> None:
        self.weights = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append(flat(model))


class At(TrainerCallback):
    """Does something after a step."""

    def __init__(self, step: int, action) -> None:
        self.step, self.action = step, action

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action()


class Killed(BaseException):
    pass


def kill() -> None:
    raise Killed


@pytest.mark.parametrize(("batch", "accumulation"), [(4, 2), (2, 4), (1, 8)])
def test_accumulation_changes_nothing_on_the_whole_trajectory(tmp_path: Path, batch: int, accumulation: int):
    whole, split = Trace(), Trace()
    run(tmp_path / "a", tiny_model(0.0), [whole], batch_size=8)
    run(tmp_path / "b", tiny_model(0.0), [split], batch_size=batch, accumulation=accumulation)
    assert len(whole.weights) == len(split.weights) == 9
    for a, b in zip(whole.weights, split.weights, strict=True):
        assert (a - b).abs().max() < 2e-6


def test_workers_change_nothing_on_the_whole_trajectory(tmp_path: Path):
    alone, helped, resumed = Trace(), Trace(), Trace()
    settings = {"accumulation": 2, "checkpoint_every": 2}
    run(tmp_path / "a", tiny_model(), [alone], **settings)
    run(tmp_path / "b", tiny_model(), [helped], workers=2, **settings)
    with pytest.raises(Killed):
        run(tmp_path / "c", tiny_model(), [At(4, kill)], workers=2, **settings)
    run(tmp_path / "c", tiny_model(), [resumed], workers=1, **settings)
    whole = torch.stack(alone.weights)
    assert torch.equal(whole, torch.stack(helped.weights))
    assert torch.equal(whole[2:], torch.stack(resumed.weights))


def test_rows_without_workers_refuse_them(tmp_path: Path):
    job = make_job(tmp_path, tiny_model(), max_steps=2, workers=2)

    class Endless(IterableDataset):
        def __iter__(self):
            return itertools.cycle(rows())

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    with pytest.raises(TrainingError, match="come one after another, from Endless, which has no workers"):
        train(dataclasses.replace(job, data=TrainingRows(Endless(), None, collate)))


def dies(batch: list[dict]) -> dict:
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return collate(batch)


def test_a_worker_that_is_killed_is_told(tmp_path: Path):
    job = make_job(tmp_path, tiny_model(), workers=1)
    with pytest.raises(TrainingError, match=r"(?s)a worker that makes rows ready ended.*fix: where memory"):
        train(dataclasses.replace(job, data=TrainingRows(rows(), Sampler(), dies)))


@pytest.mark.parametrize("step", [1, 3, 5, 7, 10, 14])
@pytest.mark.parametrize("every", ["epoch", 3])
def test_a_killed_run_ends_bit_for_bit_as_one_never_killed(tmp_path: Path, step: int, every):
    settings = {"checkpoint_every": every, "log_every": 2}
    straight = tiny_model()
    expected = run(tmp_path / "a", straight, evaluator=train_accuracy, **settings)
    with pytest.raises(Killed):
        run(tmp_path / "b", tiny_model(), [At(step, kill)], evaluator=train_accuracy, **settings)
    resumed = tiny_model()
    found = run(tmp_path / "b", resumed, evaluator=train_accuracy, **settings)
    assert dataclasses.replace(found, **MEASURED) == dataclasses.replace(expected, **MEASURED)
    assert found.details == train_accuracy(resumed).details
    for name, value in trainable_state(straight).items():
        assert torch.equal(value, trainable_state(resumed)[name]), name
    assert last_lines(tmp_path / "a") == last_lines(tmp_path / "b")


def last_lines(folder: Path) -> dict:
    kept = {}
    for record in read_log(folder / "log.jsonl"):
        if record["event"] in ("log", "evaluate"):
            kept[record["event"], record["step"]] = {k: v for k, v in record.items() if k != "time"}
    return kept


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [2, 4, 5])
def test_a_signal_leaves_one_checkpoint_and_the_next_call_continues(tmp_path: Path, number: int, step: int):
    straight, resumed = tiny_model(), tiny_model()
    run(tmp_path / "a", straight, evaluator=train_accuracy)
    stopper = At(step, lambda: os.kill(os.getpid(), number))
    with pytest.raises(InterruptedRunError, match=f"step {step + 1} of 15"):
        run(tmp_path / "b", tiny_model(), [stopper], evaluator=train_accuracy)
    assert len(list((tmp_path / "b").glob("checkpoint-*"))) == 1
    run(tmp_path / "b", resumed, evaluator=train_accuracy)
    for name, value in trainable_state(straight).items():
        assert torch.equal(value, trainable_state(resumed)[name]), name


def test_a_stopped_run_goes_on_with_its_own_labels_only(tmp_path: Path):
    def train_with(labels: list[str], *callbacks):
        return train(dataclasses.replace(make_job(tmp_path, tiny_model()), labels=labels), callbacks)

    with pytest.raises(Killed):
        train_with(["no", "yes"], At(12, kill))
    with pytest.raises(DataError, match="trained for are 'no', 'yes', and those of the data 'yes', 'no'"):
        train_with(["yes", "no"])
    assert train_with(["no", "yes"]).steps == 15


def test_a_signal_in_the_last_evaluation_stops_there_and_the_next_call_has_only_to_finish(tmp_path: Path):
    straight, resumed, asked = tiny_model(), tiny_model(), []
    expected = run(tmp_path / "a", straight, evaluator=train_accuracy)

    def interrupted(model):
        asked.append(1)
        if len(asked) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return train_accuracy(model)

    with pytest.raises(InterruptedRunError, match="step 15 of 15; the newest checkpoint is checkpoint-15"):
        run(tmp_path / "b", tiny_model(), evaluator=interrupted, checkpoint_every=100)
    found = run(tmp_path / "b", resumed, evaluator=interrupted, checkpoint_every=100)
    assert len(asked) == 3
    assert (found.scores, found.best_step, found.steps) == (expected.scores, expected.best_step, expected.steps)
    for name, value in trainable_state(straight).items():
        assert torch.equal(value, trainable_state(resumed)[name]), name


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_nan_in_the_loss_names_step_and_rows_and_updates_nothing(tmp_path: Path, precision: str):
    model = tiny_model()

    def poison() -> None:
        model.classifier.bias.data.fill_(float("nan"))

    with pytest.raises(TrainingError, match="the loss is not finite at step 3") as caught:
        run(tmp_path, model, [At(2, poison)], precision=precision)
    assert "training rows" in str(caught.value)
    assert ("use precision: float32" in str(caught.value)) == (precision != "float32")


class PoisonedRow(torch.nn.Module):
    """Classifies by one weight a word; a word of 0 gives NaN."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = torch.nn.Embedding(50, 2)

    def forward(self, input_ids, attention_mask=None):
        logits = self.words(input_ids).sum(1)
        poisoned = (input_ids == 0).any(1, keepdim=True)
        return SequenceClassifierOutput(logits=torch.where(poisoned, torch.full_like(logits, float("nan")), logits))


def test_nan_in_one_of_the_accumulated_batches_names_the_rows_of_that_batch(tmp_path: Path):
    model = PoisonedRow()
    job = make_job(tmp_path, model, batch_size=4, accumulation=5)
    job.data.rows[6]["input_ids"][0] = 0
    before = model.words.weight.detach().clone()
    order = list(job.data.sampler)
    start = order.index(6) // 4 * 4
    rows_of_batch = ", ".join(str(i + 1) for i in order[start : start + 4])
    with pytest.raises(TrainingError, match="the loss is not finite at step 1") as caught:
        train(job)
    assert f"training rows {rows_of_batch}:" in str(caught.value)
    assert torch.equal(model.words.weight, before)


class Readings(TorchDispatchMode):
    """Counts how often numbers are read out of a tensor, for which an accelerator has to be waited for."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


class ReadingsOfSteps(TrainerCallback):
    """Counts the readings of every optimiser step, from when its batches are there to the logging."""

    def __init__(self, monkeypatch) -> None:
        self.readings, self.counts, self.lists = Readings(), [], 0
        tolist = torch.Tensor.tolist

        def counting(tensor):
            self.lists += 1
            return tolist(tensor)

        monkeypatch.setattr(torch.Tensor, "tolist", counting)

    def on_step_begin(self, args, state, control, **kwargs):
        self.readings.count = self.lists = 0
        self.readings.__enter__()

    def on_step_end(self, args, state, control, **kwargs):
        self.readings.__exit__(None, None, None)
        self.counts.append(self.readings.count + self.lists)


@pytest.mark.parametrize("accumulation", [1, 5])
@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_numbers_are_read_from_the_device_once_a_step(tmp_path: Path, monkeypatch, accumulation, max_grad_norm):
    counted = ReadingsOfSteps(monkeypatch)
    settings = {"batch_size": 2, "accumulation": accumulation, "max_grad_norm": max_grad_norm}
    run(tmp_path, PoisonedRow(), [counted], **settings)
    assert counted.counts == [1] * (30 // accumulation)


def test_inf_in_a_gradient_stops_before_the_update(tmp_path: Path):
    model = tiny_model()
    model.classifier.weight.register_hook(lambda grad: torch.full_like(grad, float("inf")))
    before = model.classifier.bias.detach().clone()
    with pytest.raises(TrainingError, match=r"the gradient is not finite at step 1; first seen in classifier.weight"):
        run(tmp_path, model)
    assert torch.equal(model.classifier.bias, before)


@pytest.mark.parametrize(("enabled", "step"), [(False, 1), (True, 4)])
def test_a_loss_scaler_does_not_skip_for_ever(tmp_path: Path, monkeypatch, enabled: bool, step: int):
    made = LuthierTrainer.create_accelerator_and_postprocess

    def with_scaler(self) -> None:
        made(self)
        self.accelerator.scaler = GradScaler("cpu", enabled=enabled)

    monkeypatch.setattr(LuthierTrainer, "create_accelerator_and_postprocess", with_scaler)
    monkeypatch.setattr("luthier.training.trainer.MOST_SKIPPED", 3)
    model = tiny_model()
    model.classifier.weight.register_hook(lambda grad: torch.full_like(grad, float("inf")))
    before = model.classifier.bias.detach().clone()
    with pytest.raises(TrainingError, match=f"the gradient is not finite at step {step}; first seen in classifier.wei"):
        run(tmp_path, model)
    assert torch.equal(model.classifier.bias, before)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="the machine has an accelerator")
def test_a_precision_that_a_cpu_would_leave_out_is_refused(tmp_path: Path):
    with pytest.raises(TrainingError, match="`precision: float16` is for accelerators"):
        run(tmp_path, tiny_model(), precision="float16")


def test_patience_stops_early_and_the_best_weights_come_back(tmp_path: Path):
    scores = iter([0.5, 0.9, 0.4, 0.3, 0.2])
    seen = []

    def scorer(model) -> Evaluation:
        seen.append(model.classifier.bias.detach().clone())
        return Evaluation({"validation/accuracy": next(scores)})

    model = tiny_model()
    result = run(tmp_path, model, evaluator=scorer, epochs=5, patience=2)
    assert (result.best_step, result.steps) == (10, 20)
    assert torch.equal(model.classifier.bias, seen[1])


@pytest.mark.parametrize(("scores", "steps", "best"), [([0.5, math.nan, math.nan], 15, 5), ([math.nan] * 2, 10, 10)])
def test_a_score_that_is_no_number_is_no_better_one(tmp_path: Path, scores: list[float], steps: int, best: int):
    result = run(tmp_path, tiny_model(), evaluator=scripted(scores, []), epochs=5, patience=2)
    assert (result.steps, result.best_step) == (steps, best)


def test_a_score_may_be_a_number_of_numpy(tmp_path: Path):
    scores = [np.float32(0.5), np.float32(0.25), torch.tensor(0.125)]
    result = run(tmp_path, tiny_model(), evaluator=scripted(scores, []))
    assert result.scores == {"validation/accuracy": 0.5}


def scripted(scores: list[float], seen: list):
    """An evaluator that gives these scores and keeps a copy of a weight of each model it scored."""
    left = iter(scores)

    def scorer(model) -> Evaluation:
        seen.append(model.classifier.bias.detach().clone())
        return Evaluation({"validation/accuracy": next(left)}, {"weight": seen[-1].tolist()})

    return scorer


@pytest.mark.parametrize(("keep_best", "step"), [(True, 5), (False, 15)])
def test_scores_and_details_are_those_of_the_weights_that_the_model_ends_with(tmp_path: Path, keep_best, step):
    model, scores = tiny_model(), {5: 0.9, 10: 0.1, 15: 0.2}
    with pytest.raises(Killed):
        run(tmp_path, tiny_model(), [At(11, kill)], scripted(list(scores.values()), []), keep_best=keep_best)
    result = run(tmp_path, model, evaluator=scripted([0.2], []), keep_best=keep_best)
    assert (result.best_step, result.scores) == (step, {"validation/accuracy": scores[step]})
    assert result.details == {"weight": model.classifier.bias.tolist()}


def test_the_best_weights_are_those_of_the_best_score_though_a_killed_run_had_found_better_ones(tmp_path: Path):
    before, after = [], []
    settings = {"evaluate_every": 2, "checkpoint_every": 3, "epochs": 2}
    with pytest.raises(Killed):
        run(tmp_path, tiny_model(), [At(5, kill)], scripted([0.5, 0.9], before), **settings)
    model = tiny_model()
    result = run(tmp_path, model, evaluator=scripted([0.1] * 4, after), **settings)
    assert (result.best_step, result.scores["validation/accuracy"]) == (2, 0.5)
    assert torch.equal(model.classifier.bias, before[0])


@pytest.mark.parametrize(("losses", "step"), [([0.7, 0.07, 0.5], 10), ([0.07, 0.7, 0.07], 5)])
def test_of_equal_scores_the_one_with_the_lower_loss_is_kept(tmp_path: Path, losses: list[float], step: int):
    left = iter(losses)
    result = run(
        tmp_path,
        tiny_model(),
        evaluator=lambda _: Evaluation({"validation/accuracy": 0.5, "validation/loss": next(left)}),
    )
    assert (result.best_step, result.scores["validation/loss"]) == (step, 0.07)


def test_best_weights_that_no_checkpoint_refers_to_are_swept(tmp_path: Path):
    def best_files() -> set[str]:
        return {path.name for path in tmp_path.glob("*best-*")}

    kept = []
    looks = [At(step, lambda: kept.append(best_files())) for step in (3, 5, 7, 9)]
    settings = {"evaluate_every": 2, "checkpoint_every": 6, "epochs": 2}
    scores = [0.1, 0.2, 0.3, 0.4, 0.35]
    (tmp_path / "best-99.safetensors").touch()
    (tmp_path / ".writing-best-99.safetensors").touch()
    run(tmp_path, tiny_model(), looks, scripted(scores, []), **settings)
    named = [{f"best-{step}.safetensors" for step in steps} for steps in ([2], [4], [6], [6, 8])]
    assert kept == named


def test_changed_best_weights_are_not_loaded_and_the_same_command_mends_them(tmp_path: Path):
    def flip() -> None:
        path = tmp_path / "best-5.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    scores = [0.9, 0.1, 0.1]
    with pytest.raises(TrainingError, match="best weights changed after they were written") as caught:
        run(tmp_path, tiny_model(), [At(14, flip)], scripted(scores, []))
    assert "best-5.safetensors" in str(caught.value)
    model, seen = tiny_model(), []
    assert run(tmp_path, model, evaluator=scripted(scores, seen)).best_step == 5
    assert torch.equal(model.classifier.bias, seen[0])


@pytest.mark.parametrize("stop", [7, 12])
def test_weights_are_written_once_where_the_best_are_those_of_the_checkpoint(tmp_path: Path, stop: int):
    scores = {5: 0.1, 10: 0.2, 15: 0.1}
    straight, resumed = tiny_model(), tiny_model()
    run(tmp_path / "a", straight, evaluator=scripted(list(scores.values()), []), keep_best=False)
    with pytest.raises(Killed):
        run(tmp_path / "b", tiny_model(), [At(stop, kill)], scripted(list(scores.values()), []), keep_best=False)
    checkpoint = next((tmp_path / "b").glob("checkpoint-*"))
    assert "optimizer.pt" in {path.name for path in checkpoint.iterdir()}
    assert not (checkpoint / TRAINABLE).exists()
    left = [score for step, score in scores.items() if step > stop]
    run(tmp_path / "b", resumed, evaluator=scripted(left, []), keep_best=False)
    assert torch.equal(flat(straight), flat(resumed))


def test_the_last_checkpoint_has_no_optimiser_and_is_of_that_training_only(tmp_path: Path):
    model, again = tiny_model(), tiny_model()
    run(tmp_path, model)
    assert not list(tmp_path.glob("checkpoint-15/optimizer*"))
    assert run(tmp_path, again).steps == 15
    assert torch.equal(flat(model), flat(again))
    with pytest.raises(TrainingError, match=r"ended at step 15 already(?s:.*)a directory of its own"):
        run(tmp_path, tiny_model(), epochs=4)


def flat(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_optimiser_takes_the_settings_betas_and_epsilon_and_one_kernel_where_it_can(tmp_path: Path):
    seen = []

    class Look(TrainerCallback):
        def on_train_begin(self, args, state, control, optimizer=None, **kwargs):
            group = optimizer.param_groups[0]
            seen.append((tuple(group["betas"]), group["eps"], group["fused"]))

    run(tmp_path / "a", tiny_model(), [Look()], max_steps=1)
    run(tmp_path / "b", tiny_model(), [Look()], max_steps=1, adam_betas=[0.8, 0.98], adam_epsilon=1e-6)
    assert seen == [((0.9, 0.999), 1e-8, True), ((0.8, 0.98), 1e-6, True)]


@pytest.mark.parametrize("settings", [{"adam_betas": [0.9, 1.0]}, {"adam_betas": [0.9]}, {"adam_epsilon": 0}])
def test_betas_and_epsilon_that_adam_does_not_take(settings: dict):
    with pytest.raises(ValidationError, match=next(iter(settings))):
        TrainingSettings(**settings)


def test_nothing_trainable_is_an_error(tmp_path: Path):
    job = make_job(tmp_path, tiny_model())
    job.groups = [{"params": [], "lr": 1e-3}]
    with pytest.raises(TrainingError, match="nothing is trainable"):
        train(job)


def test_gradient_checkpointing_changes_no_weight(tmp_path: Path):
    plain, recomputed = tiny_model(0.0), tiny_model(0.0)
    run(tmp_path / "a", plain)
    run(tmp_path / "b", recomputed, gradient_checkpointing=True)
    for name, value in trainable_state(plain).items():
        assert torch.allclose(value, trainable_state(recomputed)[name], atol=1e-6), name
    assert recomputed.config.use_cache is plain.config.use_cache is True


@pytest.mark.parametrize(("there", "used"), [(0, 0), (1, 1), (4, 1)])
def test_a_machine_with_more_accelerators_puts_no_more_rows_into_a_step(tmp_path: Path, monkeypatch, there, used):
    made = TrainingArguments.__post_init__

    def on_another_machine(self) -> None:
        made(self)
        self._n_gpu = there

    monkeypatch.setattr(TrainingArguments, "__post_init__", on_another_machine)
    arguments = training_arguments(make_job(tmp_path, tiny_model(), batch_size=4))
    assert (arguments.n_gpu, arguments.train_batch_size) == (used, 4)


@pytest.mark.parametrize(("precision", "mixed"), [("float32", "no"), ("bfloat16", "bf16"), ("float16", "fp16")])
@pytest.mark.parametrize("launched", ["no", "bf16", "fp16"])
def test_the_recipe_decides_on_the_precision(tmp_path: Path, monkeypatch, precision: str, mixed: str, launched: str):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    assert training_arguments(make_job(tmp_path, tiny_model(), precision=precision)).mixed_precision == mixed


def test_steps_are_counted_as_the_trainer_counts_them(tmp_path: Path):
    settings = {"batch_size": 3, "accumulation": 2, "epochs": 2}
    assert run(tmp_path, tiny_model(), **settings).steps == total_steps(TrainingSettings(**settings), ROWS)


@pytest.fixture
def step_clock(monkeypatch):
    """A clock on which every optimiser step takes six seconds."""
    monkeypatch.setattr(LuthierTrainer, "seconds", property(lambda self: max(6.0 * self.state.global_step, 0.1)))


@pytest.mark.parametrize(
    ("settings", "steps", "evaluated"),
    [
        ({"max_minutes": 1.2}, 12, [5, 10, 12]),
        ({"max_minutes": 1.2, "evaluate_every": 8}, 12, [8, 12]),
        ({"max_minutes": 1.2, "max_steps": 7}, 7, [5, 7]),
        ({"max_minutes": 0.5, "epochs": 1, "evaluate_every": 5}, 5, [5]),
    ],
    ids=str,
)
def test_a_time_limit_ends_training_with_an_evaluation(tmp_path: Path, step_clock, settings, steps, evaluated):
    result = run(tmp_path, tiny_model(), evaluator=train_accuracy, **settings)
    assert result.steps == steps
    log = read_log(tmp_path / "log.jsonl")
    assert [line["step"] for line in log if line["event"] == "evaluate"] == evaluated


def test_under_a_time_limit_the_rate_falls_with_the_time(tmp_path: Path, step_clock):
    run(tmp_path, tiny_model(), max_minutes=2, warmup_ratio=0.25)
    rates = [line["learning_rate"] for line in read_log(tmp_path / "log.jsonl") if "learning_rate" in line]
    # The rate of a step is set at the end of the one before, when the clock has not yet counted that one.
    assert rates[2:] == pytest.approx([1e-3 * min(step / 5, (20 - step) / 15) for step in range(1, 19)], rel=1e-6)


def test_a_killed_run_under_a_time_limit_uses_only_what_time_is_left(tmp_path: Path, step_clock):
    with pytest.raises(Killed):
        run(tmp_path, tiny_model(), [At(8, kill)], max_minutes=1.2, checkpoint_every=3)
    result = run(tmp_path, tiny_model(), max_minutes=1.2, checkpoint_every=3)
    assert result.steps == 12


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant_with_warmup"])
def test_the_schedule_has_the_shape_of_the_trainers_own(kind: str):
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    stock = get_scheduler(kind, optimiser, num_warmup_steps=3, num_training_steps=12)
    for step in range(12):
        assert share_of_rate(kind, 3 / 12, step / 12) == pytest.approx(stock.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        stock.step()
