"""Options that are written once, as a configuration and a recipe read them."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import pytest
from pydantic import Field

from luthier.methods import TuningMethod
from luthier.methods.options import Options, like, option, setting


@dataclass(init=False, repr=False, eq=False)
class Knobs(Options):
    """The options of an invented tuner."""

    rank: int = option(8, "Rank r; None would be False.", ge=1)
    share: float | None = option(None, "Share kept. None is all.", gt=0, lt=1)
    sides: list[Literal["left", "right"]] = option(["left"], "Sides.")
    init: Literal["normal", "zero"] = option("normal", "First weights.")

    def check(self) -> None:
        super().check()
        if self.init == "zero" and self.rank == 1:
            raise ValueError("init zero needs a rank above 1")


@dataclass
class Base:
    """Stands where PEFT's configuration does."""

    task: str | None = field(default=None)


@dataclass
class KnobsConfig(Knobs, Base):
    start: Literal["normal", "zero"] = like(Knobs, "init", default="zero")
    extra: str = field(default="")

    def __post_init__(self) -> None:
        self.check()


class Method(Knobs, TuningMethod):
    """A recipe's method."""

    name: Literal["knobs"] = "knobs"
    summary: ClassVar[str] = "invented"
    rank: int = setting(Knobs, "rank", default=4)
    rate: float = Field(1.0, description="Rate.")


class Narrower(Method):
    """A method below another one."""

    init: Literal["normal", "zero"] = setting(Knobs, "init", default="zero")


def test_a_configuration_has_every_option_as_an_argument() -> None:
    assert list(inspect.signature(KnobsConfig).parameters) == [
        *("task", "rank", "share", "sides", "init", "start", "extra")
    ]
    config = KnobsConfig("x", rank=2)
    assert (config.task, config.rank, config.sides, config.start) == ("x", 2, ["left"], "zero")
    assert KnobsConfig().sides is not KnobsConfig().sides
    assert {f.name: f.metadata["help"] for f in fields(KnobsConfig) if "help" in f.metadata} == {
        "rank": "Rank r; None would be False.",
        "share": "Share kept. None is all.",
        "sides": "Sides.",
        "init": "First weights.",
        "start": "First weights.",
    }


def test_a_recipe_has_the_same_texts_types_and_limits() -> None:
    properties = Method.model_json_schema()["properties"]
    assert list(properties) == ["name", "rank", "share", "sides", "init", "rate"]
    assert properties["rank"] == {
        "default": 4,
        "description": "Rank r; null would be false.",
        "minimum": 1,
        "title": "Rank",
        "type": "integer",
    }
    assert properties["share"]["description"] == "Share kept. Null is all."
    assert properties["sides"]["items"]["enum"] == ["left", "right"]
    assert Method().model_dump() == {
        "name": "knobs",
        "rank": 4,
        "share": None,
        "sides": ["left"],
        "init": "normal",
        "rate": 1.0,
    }


def test_a_class_below_keeps_what_the_one_above_changed() -> None:
    narrower = Narrower()
    assert (narrower.rank, narrower.init, narrower.share) == (4, "zero", None)
    assert Narrower.model_fields["rank"].description == "Rank r; null would be false."
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Narrower(rank=0)


def test_option_values_are_the_options_and_copies() -> None:
    method = Method(sides=["right"])
    values = method.option_values()
    assert values == {"rank": 4, "share": None, "sides": ["right"], "init": "normal"}
    assert values["sides"] is not method.sides


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 0}, "rank is 0, but must be at least 1"),
        ({"share": 1.0}, "share is 1.0, but must be below 1"),
        ({"share": 0.0}, "share is 0.0, but must be above 0"),
        ({"sides": ["up"]}, "sides has 'up', but knows only left, right"),
        ({"sides": []}, "sides is empty"),
        ({"init": "one"}, "init is 'one', but must be one of normal, zero"),
        ({"init": None}, "init is None, but must be one of normal, zero"),
        ({"init": "zero", "rank": 1}, "init zero needs a rank above 1"),
    ],
)
def test_both_refuse_the_same_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KnobsConfig(**values)
    with pytest.raises(ValueError, match=next(iter(values))):
        Method(**values)


def test_an_option_under_another_name_is_checked_under_it() -> None:
    with pytest.raises(ValueError, match="start is 'one', but must be one of normal, zero"):
        KnobsConfig(start="one")  # type: ignore[arg-type]
