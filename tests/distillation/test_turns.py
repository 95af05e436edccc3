"""Models that are updated one after another: against a loop by hand, and what must change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from luthier.distillation import DistillationTrainer, Edge
from luthier.distillation.curves import NodeCost, operations_of_each
from luthier.errors import ModelError, TrainingError
from luthier.robustness.settings import RoastSettings
from luthier.training.checkpoints import newest_whole
from tests.distillation.test_language import KINDS, MASKED, collate, rows
from tests.distillation.test_training import BOTH, Save, Seen, assert_same, groups, kl, models, trainer
from tests.robustness import tiny
from tests.training.test_job import At, Killed, Trace, kill

TURNS: dict[str, Any] = {"update": "alternating"}


@pytest.mark.parametrize("first", ["s", "l"])
@pytest.mark.parametrize("most", [1.0, 0.01])
def test_turns_are_those_of_deep_mutual_learning(tmp_path: Path, first: str, most: float) -> None:
    """Update one, compute the outputs of both again, update the other. A large epsilon lets the size of gradients
    count."""
    order = [first, "l" if first == "s" else "s"]
    nodes, expected = ({name: found[name] for name in order} for found in (models(), models()))
    seen = Seen()
    settings = {"max_grad_norm": most, "adam_epsilon": 0.1}
    trainer(tmp_path, nodes, BOTH, data_collator=seen, **settings, **TURNS).train()

    optimisers = {n: torch.optim.AdamW(groups(m), lr=1e-3, eps=0.1) for n, m in expected.items()}
    for batch in seen.batches[:6]:
        for name, optimiser in optimisers.items():
            out = {n: model(**batch) for n, model in expected.items()}
            teacher = next(n for n in order if n != name)
            (out[name].loss + kl(out[teacher].logits, out[name].logits)).backward()
            nn.utils.clip_grad_norm_(expected[name].parameters(), most)
            optimiser.step()
            optimiser.zero_grad()
    for name, model in nodes.items():
        assert_same(model, expected[name])
        assert all(p.requires_grad for p in model.parameters())


def test_language_models_take_turns_as_by_hand(tmp_path: Path) -> None:
    def both() -> dict[str, nn.Module]:
        return {"l": KINDS["masked_lm"](32, 1), "s": KINDS["masked_lm"](16, 0)}

    nodes, expected, edges = both(), both(), [Edge(teacher="l", student="s", weight=2.0), BOTH[1]]
    args = tiny.arguments(tmp_path, max_steps=2, per_device_train_batch_size=8, max_grad_norm=0.0, weight_decay=0.0)
    more: dict[str, Any] = {"train_dataset": rows("masked_lm"), "data_collator": collate, "task": "masked_lm"}
    DistillationTrainer(nodes, edges, args=args, **more, **TURNS).train()

    batch = collate(rows("masked_lm"))
    counted = batch["labels"] != MASKED
    optimisers = {n: torch.optim.AdamW(m.parameters(), lr=1e-3, weight_decay=0.0) for n, m in expected.items()}
    for _ in range(2):
        for name, teacher, weight in (("l", "s", 1.0), ("s", "l", 2.0)):
            out = {n: m(batch["input_ids"], batch["attention_mask"]).logits[counted] for n, m in expected.items()}
            (F.cross_entropy(out[name], batch["labels"][counted]) + weight * kl(out[teacher], out[name])).backward()
            optimisers[name].step()
            optimisers[name].zero_grad()
    for name, model in nodes.items():
        assert_same(model, expected[name])


def test_accumulation_changes_nothing(tmp_path: Path) -> None:
    def trajectory(size: int, accumulation: int) -> list[Tensor]:
        trace = Trace()
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        trainer(tmp_path, models(double=True), BOTH, callbacks=[trace], **settings, **TURNS).train()
        return trace.weights

    whole, *others = trajectory(8, 1), trajectory(4, 2), trajectory(1, 8)
    for split in others:
        assert len(whole) == len(split) == 6
        for a, b in zip(whole, split, strict=True):
            assert (a - b).abs().max() < 1e-6


def test_a_killed_run_goes_on_exactly(tmp_path: Path) -> None:
    edges = [Edge(teacher="l", student="s", weight={"kind": "linear", "start": 4, "end": 1}), BOTH[1]]
    straight, resumed = models(0.1), models(0.1)
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, **TURNS}
    trainer(tmp_path / "a", straight, edges, **settings).train()
    stopped = trainer(tmp_path / "b", models(0.1), edges, callbacks=[Save(3), At(3, kill)], **settings)
    with pytest.raises(Killed):
        stopped.train()
    going_on = trainer(tmp_path / "b", resumed, edges, **settings)
    going_on.train(resume_from_checkpoint=str(newest_whole(tmp_path / "b")))
    for name, model in straight.items():
        assert all(torch.equal(p, resumed[name].get_parameter(n)) for n, p in model.named_parameters()), name


def test_the_loss_that_is_told_is_that_of_all_turns(tmp_path: Path) -> None:
    """At a rate of 0 nothing moves, so that both orders compute the same losses."""
    told = []
    for update in ("simultaneous", "alternating"):
        made = trainer(tmp_path / update, models(), BOTH, learning_rate=0.0, logging_steps=1, update=update)
        made.train()
        told.append([line["loss"] for line in made.state.log_history if "loss" in line])
    assert len(told[0]) == 6
    assert told[0] == pytest.approx(told[1], rel=1e-5)


def test_a_step_in_which_nobody_learns_moves_nothing(tmp_path: Path) -> None:
    """A student without a hard loss, before its edge begins."""
    edges, trace = [Edge(teacher="l", student="s", start_step=2)], Trace()
    nodes = models(frozen="l")
    before = tiny.weights(nodes["s"])
    trainer(tmp_path, nodes, edges, hard_weights={"s": 0.0}, max_steps=4, callbacks=[trace]).train()
    start = torch.cat([value.flatten() for value in before.values()])
    moved = [bool((weights[: len(start)] != start).any()) for weights in trace.weights]
    assert moved == [False, False, True, True]


def test_graphs_that_can_t_take_turns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the edge l to s moves two"):
        trainer(tmp_path, models(), [Edge(teacher="l", student="s", stop_gradient=False)], **TURNS)
    with pytest.raises(TrainingError, match="an objective acts in every pass"):
        trainer(tmp_path, models(), BOTH, main_parts=RoastSettings().parts(), **TURNS)


def test_twins_are_refused_unless_something_tells_them_apart(tmp_path: Path) -> None:
    def twins(dropout: float = 0.0) -> dict[str, nn.Module]:
        return {"s": tiny.bert(dropout), "l": tiny.bert(dropout)}

    with pytest.raises(ModelError, match="l and s begin with the same weights and have no dropout"):
        trainer(tmp_path, twins(), BOTH)
    for changes in (TURNS, {"learning_rates": {"s": 1e-2}}, {"hard_weights": {"s": 2.0}}):
        nodes = twins()
        trainer(tmp_path, nodes, BOTH, max_steps=2, **changes).train()
        assert any(not torch.equal(p, nodes["l"].get_parameter(n)) for n, p in nodes["s"].named_parameters())
    trainer(tmp_path, twins(0.1), BOTH)


def test_turns_cost_a_pass_more_for_each_edge() -> None:
    costs = {"l": NodeCost(6.0, frozen=False), "s": NodeCost(4.0, frozen=False), "t": NodeCost(1.0, frozen=True)}
    edges = [*BOTH, Edge(teacher="t", student="s"), Edge(teacher="t", student="l")]
    assert operations_of_each(costs, edges) == {"l": 18 + 12 + 1, "s": 18 + 12 + 1, "t": 1}
    assert operations_of_each(costs, edges, alternating=True) == {"l": 30 + 10 + 2, "s": 30 + 10 + 2, "t": 1}
    one_way = operations_of_each(costs, BOTH[:1], alternating=True)
    assert (one_way["l"], one_way["s"]) == (18, 12 + 18 + 6)
