"""Schedules against their equations, and what a recipe may write."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from luthier.distillation.edge import Edge
from luthier.distillation.parts import Term
from luthier.distillation.schedules import Schedule


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"start": 4}, lambda x: 4),
        ({"kind": "linear", "start": 4, "end": 1}, lambda x: 4 - 3 * x),
        ({"kind": "linear", "start": 4, "end": 1, "until": 0.5}, lambda x: 4 + (1 - 4) * min(1, x / 0.5)),
        ({"kind": "linear", "start": 0, "end": 2}, lambda x: 2 * x),
        ({"kind": "cosine", "start": 4, "end": 1}, lambda x: 2.5 + 1.5 * math.cos(math.pi * x)),
        ({"kind": "exponential", "start": 4, "end": 1}, lambda x: 4 * 0.25**x),
        ({"kind": "step", "start": 4, "end": 1, "until": 0.3}, lambda x: 4 if x < 0.3 else 1),
        ({"kind": "inherit"}, lambda x: 1 - x),
        ({"kind": "inherit", "until": 0.44}, lambda x: max(0, 1 - x / 0.44)),
    ],
)
def test_values(settings: dict[str, Any], expected: Any) -> None:
    schedule = Schedule(**settings)
    for step in range(101):
        assert schedule.at(step / 100) == pytest.approx(expected(step / 100), abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "linear"}, "give `end`"),
        ({"end": 1}, "a constant stays at `start`"),
        ({"until": 0.5}, "a constant stays at `start`"),
        ({"kind": "inherit", "start": 2}, "leave start out"),
        ({"kind": "exponential", "start": 1, "end": 0}, "above 0"),
        ({"kind": "step", "end": 1}, "a step at the end of the run changes nothing"),
        ({"kind": "linear", "end": 1, "until": 0}, "greater than 0"),
        ({"start": -1}, "greater than or equal to 0"),
        ({"begin": 1}, "Extra inputs"),
    ],
)
def test_what_would_have_no_effect_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Schedule(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"student": "a"}, "can't learn from itself"),
        ({"temperature": 0}, "has to be above 0"),
        ({"temperature": {"kind": "linear", "start": 2, "end": 0}}, "has to be above 0"),
        ({"temperature": {"kind": "inherit"}}, "is a schedule of weights"),
        ({"scale_by_t2": True}, "no effect at temperature 1"),
        ({"start_step": 5, "teacher_stop_step": 5}, "not behind start_step"),
        ({"weight": 0}, "the edge has weight 0"),
    ],
)
def test_edges_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Edge(**{"teacher": "a", "student": "b", **settings})


def test_an_edge_is_there_between_its_steps() -> None:
    edge = Edge(teacher="a", student="b", weight=0.5, start_step=2, teacher_stop_step=5)
    assert [edge.weight_at(step, step / 10) for step in range(7)] == [0, 0, 0.5, 0.5, 0.5, 0, 0]


def test_a_number_stays_a_number_when_an_edge_is_written_and_read_again() -> None:
    edge = Edge(teacher="a", student="b", weight=4, temperature={"kind": "linear", "start": 4, "end": 1})
    written = edge.model_dump(mode="json")
    assert written["weight"] == 4
    assert written["temperature"] == {"kind": "linear", "start": 4, "end": 1}
    assert Edge.model_validate(written) == edge


def test_a_row_that_only_fills_a_pass_is_not_told() -> None:
    class Two(Term):
        def value(self, step: Any) -> torch.Tensor:
            return torch.tensor(2.0)

    term, models = Two("a"), {"a": torch.nn.Linear(1, 1)}
    for weight in (1.0, 0.0):
        term.loss(SimpleNamespace(weight=weight, models=models))  # type: ignore[arg-type]
    assert term.mean(1) == 2.0
