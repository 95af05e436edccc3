"""Several models in one job: parts run any of them, frozen ones stay, stops and accumulation change nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from luthier.errors import TrainingError
from luthier.objectives.part import CleanLoss, Part
from luthier.objectives.step import Step
from luthier.robustness.settings import RoastSettings
from luthier.tasks.base import task_named
from luthier.training.job import TrainingJob, TrainingRows, train
from luthier.training.settings import TrainingSettings
from luthier.training.trainer import PARTS, TRAINABLE
from tests.robustness import tiny
from tests.training.test_job import At, Killed, Trace, kill

ROWS = 12
WEIGHT = 0.7


class Edge(Part):
    """WEIGHT * mean KL(teacher || learner), for one direction of a distillation graph."""

    def __init__(self, teacher: str, learner: str) -> None:
        self.teacher, self.learner = teacher, learner
        self.name = f"{teacher} to {learner}"

    def loss(self, step: Step) -> Tensor:
        target, learned = step.of(self.teacher).rows.detach(), step.of(self.learner).rows
        divergence = F.kl_div(learned.log_softmax(-1), target.log_softmax(-1), reduction="sum", log_target=True)
        return WEIGHT * step.over_examples(divergence, len(learned), "mean")


class OwnLoss(Part):
    """The task loss of another model than the main one."""

    def __init__(self, model: str) -> None:
        self.model = model

    def loss(self, step: Step) -> Tensor:
        return step.of(self.model).loss


class Order(torch.utils.data.Sampler):
    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return ROWS

    def __iter__(self) -> Any:
        return iter(torch.randperm(ROWS, generator=torch.Generator().manual_seed(self.epoch)).tolist())


def numbered(batch: list[dict[str, Any]]) -> dict[str, Tensor]:
    return tiny.collate(batch) | {"row": torch.tensor([row["row"] for row in batch])}


ROW_LIST = [{**row, "row": i} for i, row in enumerate(tiny.Rows(ROWS).rows)]
SETTINGS = {"batch_size": 4, "epochs": 2, "log_every": 1, "warmup_ratio": 0, "schedule": "constant"}


def small_teacher(*, frozen: bool, dropout: float = 0.0) -> nn.Module:
    """Other weights than the main model's."""
    teacher = tiny.bert(dropout)
    with torch.no_grad():
        for p in teacher.parameters():
            p.mul_(1.5)
    return teacher.requires_grad_(not frozen)


def job(
    folder: Path, model: nn.Module, others: dict[str, nn.Module], parts: list[Part], **settings: Any
) -> TrainingJob:
    trained = [p for m in (model, *others.values()) for p in m.parameters() if p.requires_grad]
    return TrainingJob(
        model=model,
        task=task_named("single_sentence"),
        shifted=False,
        data=TrainingRows(ROW_LIST, Order(), numbered),
        settings=TrainingSettings(**SETTINGS | settings),
        groups=[{"params": trained, "lr": 1e-3, "weight_decay": 0.01}],
        folder=folder,
        seed=3,
        parts=parts,
        other_models=others,
    )


def roast_under(*edges: Part) -> list[Part]:
    return [*RoastSettings(resample="step").parts(), *edges]


def two_way() -> list[Part]:
    return roast_under(OwnLoss("peer"), Edge("peer", "model"), Edge("model", "peer"))


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(p, second.get_parameter(n)) for n, p in first.named_parameters())


def steps(count: int) -> Any:
    """The batches of the first steps."""
    order, seen = Order(), 0
    for epoch in range(count):
        order.set_epoch(epoch)
        for batch in DataLoader(ROW_LIST, batch_size=4, sampler=order, collate_fn=numbered):
            batch.pop("row")
            yield batch
            seen += 1
            if seen == count:
                return


@pytest.mark.parametrize("frozen", [True, False])
def test_an_edge_trains_as_an_independent_loop_does(tmp_path: Path, frozen: bool) -> None:
    student, other = tiny.bert(), small_teacher(frozen=frozen)
    edges = [Edge("peer", "model")] if frozen else [OwnLoss("peer"), Edge("peer", "model"), Edge("model", "peer")]
    train(job(tmp_path, student, {"peer": other}, [CleanLoss(), *edges]))

    a, b = tiny.bert(), small_teacher(frozen=frozen)
    both = [p for m in (a, b) for p in m.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(both, lr=1e-3, weight_decay=0.01)
    for batch in steps(6):
        one, two = a(**batch), b(**batch)
        log_a, log_b = one.logits.log_softmax(-1), two.logits.log_softmax(-1)
        loss = one.loss + WEIGHT * F.kl_div(log_a, log_b.detach(), reduction="batchmean", log_target=True)
        if not frozen:
            loss = loss + two.loss + WEIGHT * F.kl_div(log_b, log_a.detach(), reduction="batchmean", log_target=True)
        loss.backward()
        nn.utils.clip_grad_norm_(both, 1.0)
        optimiser.step()
        optimiser.zero_grad()
    for mine, theirs in ((student, a), (other, b)):
        for name, p in mine.named_parameters():
            torch.testing.assert_close(p, theirs.get_parameter(name), atol=2e-6, rtol=1e-5)


def test_a_frozen_model_under_roast_stays_as_it_is_and_is_in_no_checkpoint(tmp_path: Path) -> None:
    student, teacher = tiny.bert(dropout=0.1), small_teacher(frozen=True, dropout=0.5)
    before, modes = tiny.weights(teacher), []
    teacher.register_forward_hook(lambda m, *_: modes.append((m.training, torch.is_grad_enabled())))
    train(job(tmp_path, student, {"teacher": teacher}, roast_under(Edge("teacher", "model"))))
    assert all(torch.equal(p, before[n]) for n, p in teacher.named_parameters())
    assert modes == [(False, False)] * 6
    checkpoint = next(tmp_path.glob("checkpoint-*"))
    saved = load_file(checkpoint / TRAINABLE)
    assert set(saved) == {f"model.{name}" for name, _ in student.named_parameters()}
    alone = tiny.bert(dropout=0.1)
    train(job(tmp_path / "alone", alone, {}, roast_under()))
    assert not same(student, alone)
    assert set(load_file(next((tmp_path / "alone").glob("checkpoint-*")) / TRAINABLE)) == set(tiny.weights(alone))


def test_an_edge_of_no_weight_changes_no_bit_of_roast(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tests.training.test_models.WEIGHT", 0.0)
    alone, taught = tiny.bert(dropout=0.1), tiny.bert(dropout=0.1)
    train(job(tmp_path / "a", alone, {}, roast_under()))
    train(job(tmp_path / "b", taught, {"teacher": small_teacher(frozen=True)}, roast_under(Edge("teacher", "model"))))
    assert same(alone, taught)


@pytest.mark.parametrize("frozen", [True, False])
def test_accumulation_changes_nothing_for_several_models(tmp_path: Path, frozen: bool) -> None:
    def trajectory(size: int, accumulation: int) -> list[Tensor]:
        trace = Trace()
        roast = RoastSettings(mask_rule="random", init_noise=0, lambda_kl=1.0).parts()
        edges = [Edge("peer", "model")] if frozen else [OwnLoss("peer"), Edge("peer", "model"), Edge("model", "peer")]
        model, peer = tiny.bert().double(), small_teacher(frozen=frozen).double()
        settings = {"batch_size": size, "accumulation": accumulation, "epochs": 4, "max_grad_norm": 0}
        train(job(tmp_path / str(size), model, {"peer": peer}, [*roast, *edges], **settings), [trace])
        return trace.weights

    whole, split = trajectory(4, 2), trajectory(8, 1)
    assert len(whole) == len(split) == 8
    for a, b in zip(whole, split, strict=True):
        assert (a - b).abs().max() < 1e-6


@pytest.mark.parametrize("every", ["epoch", 2])
@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_killed_job_of_two_models_ends_bit_for_bit_as_one_never_killed(tmp_path: Path, step: int, every: Any) -> None:
    def models() -> tuple[nn.Module, dict[str, nn.Module]]:
        others = {"peer": small_teacher(frozen=False, dropout=0.1), "teacher": small_teacher(frozen=True, dropout=0.1)}
        return tiny.bert(dropout=0.1), others

    def parts() -> list[Part]:
        return [*two_way(), Edge("teacher", "model")]

    (straight, with_it), (resumed, with_that) = models(), models()
    train(job(tmp_path / "a", straight, with_it, parts(), checkpoint_every=every))
    with pytest.raises(Killed):
        train(job(tmp_path / "b", *models(), parts(), checkpoint_every=every), [At(step, kill)])
    train(job(tmp_path / "b", resumed, with_that, parts(), checkpoint_every=every))
    assert same(straight, resumed)
    assert same(with_it["peer"], with_that["peer"])


@pytest.mark.parametrize("change", ["part added", "part removed", "all removed"])
def test_a_checkpoint_goes_on_with_the_parts_that_it_was_made_with(tmp_path: Path, change: str) -> None:
    def peer() -> dict[str, nn.Module]:
        return {"peer": small_teacher(frozen=True)}

    first = [CleanLoss(), Edge("peer", "model")]
    later = {"part added": [*first, Edge("peer", "model")], "part removed": [CleanLoss()], "all removed": []}
    with pytest.raises(Killed):
        train(job(tmp_path, tiny.bert(), peer(), first, checkpoint_every=1), [At(3, kill)])
    assert torch.load(next(tmp_path.glob("checkpoint-*")) / PARTS)["parts"] == ["CleanLoss", "peer to model"]
    with pytest.raises(TrainingError, match="trained with the parts CleanLoss, peer to model, and this run has"):
        train(job(tmp_path, tiny.bert(), peer(), later[change], checkpoint_every=1))


@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_a_gradient_that_is_not_finite_is_named_with_its_model(tmp_path: Path, max_grad_norm: float) -> None:
    peer = small_teacher(frozen=False)
    peer.classifier.bias.register_hook(lambda grad: torch.full_like(grad, float("inf")))
    with pytest.raises(TrainingError, match=r"first seen in peer\.classifier\.bias"):
        train(job(tmp_path, tiny.bert(), {"peer": peer}, two_way(), max_grad_norm=max_grad_norm))


def test_gradient_checkpointing_and_bfloat16_reach_every_trained_model(tmp_path: Path) -> None:
    model, others = tiny.bert(), {"peer": small_teacher(frozen=False), "teacher": small_teacher(frozen=True)}
    kinds = {}
    for name, one in {"model": model, **others}.items():
        linear = one.bert.encoder.layer[0].attention.self.query
        linear.register_forward_hook(lambda m, a, out, name=name: kinds.update({name: out.dtype}))
    parts = [CleanLoss(), OwnLoss("peer"), Edge("teacher", "model")]
    train(job(tmp_path, model, others, parts, gradient_checkpointing=True, precision="bfloat16", max_steps=1))
    assert kinds == dict.fromkeys(("model", "peer", "teacher"), torch.bfloat16)
    recomputed = {n: m.is_gradient_checkpointing for n, m in {"model": model, **others}.items()}
    assert recomputed == {"model": True, "peer": True, "teacher": False}
