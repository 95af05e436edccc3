"""Parts as a run holds them: one main loss, and a checkpoint that knows whose state it has."""

from typing import Any

import pytest
import torch
from transformers import Trainer

from luthier.errors import TrainingError
from luthier.objectives.mixin import STATE, ObjectiveMixin
from luthier.objectives.part import CleanLoss, Part
from luthier.objectives.part_list import PartList
from luthier.registry import OBJECTIVES
from luthier.robustness.settings import RoastSettings
from tests.robustness import tiny


class Counter(Part):
    """Counts the updates."""

    def __init__(self, name: str = "") -> None:
        self.name, self.count = name, 0

    def after_update(self, trainer: Any) -> None:
        self.count += 1

    def state_dict(self, trainer: Any) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


@pytest.mark.parametrize("name", sorted(OBJECTIVES.names()))
def test_one_part_of_every_objective_gives_the_main_loss(name: str) -> None:
    parts = OBJECTIVES.get(name)().parts()
    assert sum(part.gives_main_loss for part in parts) == 1
    assert len(PartList([*parts, Counter()])) == len(parts) + 1


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([Counter()], "of the parts Counter, none would give the main loss"),
        ([CleanLoss(), Counter(), CleanLoss()], "CleanLoss and CleanLoss 2 would give the main loss"),
    ],
)
def test_a_run_without_one_main_loss_is_refused(parts: list[Part], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        PartList(parts)


def test_state_goes_back_to_the_part_that_gave_it() -> None:
    given = PartList([CleanLoss(), Counter(), Counter("edge"), Counter()])
    for number, part in enumerate(given):
        part.count = number
    taken = PartList([CleanLoss(), Counter(), Counter("edge"), Counter()])
    taken.load_state_dict(given.state_dict(None))
    assert [part.count for part in list(taken)[1:]] == [1, 2, 3]
    assert given.names == ["CleanLoss", "Counter", "edge", "Counter 2"]


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ([CleanLoss()], "this run has the parts CleanLoss\n"),
        ([CleanLoss(), Counter(), Counter()], "this run has the parts CleanLoss, Counter, Counter 2"),
        ([Counter(), CleanLoss()], "this run has the parts Counter, CleanLoss"),
        ([], "this run has no parts"),
    ],
)
def test_parts_that_came_went_or_moved_are_noticed(now: list[Part], told: str) -> None:
    saved = PartList([CleanLoss(), Counter()]).state_dict(None)
    with pytest.raises(TrainingError, match=f"was trained with the parts CleanLoss, Counter, and {told}"):
        PartList(now).load_state_dict(saved)


def test_state_that_an_earlier_version_stored_by_place_is_taken() -> None:
    parts = PartList([CleanLoss(), Counter()])
    parts.load_state_dict({"1": {"count": 5}})
    assert parts[1].count == 5


def test_a_plain_trainer_refuses_the_checkpoint_of_other_parts(tmp_path: Any) -> None:
    def trainer(objective: Any, steps: int) -> Trainer:
        cls = type("Tested", (ObjectiveMixin, Trainer), {})
        arguments = tiny.arguments(tmp_path, save_strategy="steps", save_steps=1, max_steps=steps)
        rows = tiny.Rows(8)
        return cls(tiny.bert(), arguments, tiny.collate, rows, objective=objective)

    trainer(RoastSettings(), 1).train()
    checkpoint = str(tmp_path / "checkpoint-1")
    assert torch.load(f"{checkpoint}/{STATE}", weights_only=True)["parts"] == ["TwoBranches", "SelectiveTraining"]
    with pytest.raises(TrainingError, match="this run has the parts CleanLoss"):
        trainer("wcons", 2).train(resume_from_checkpoint=checkpoint)
    trainer(RoastSettings(), 2).train(resume_from_checkpoint=checkpoint)
