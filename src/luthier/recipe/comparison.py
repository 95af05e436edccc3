"""What a recipe can compare: a grid over its keys, the field of tuning methods under one budget, or a search."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from luthier.errors import RecipeError
from luthier.registry import METHODS
from luthier.settings import Settings
from luthier.stages.presets import preset_named

logger = logging.getLogger(__name__)
Prefer = Literal["parameters", "seconds"]
_SEEDS = 2**32
# Where between the ends of a range a number is tried that is no end, no half and no third of it.
_BETWEEN = 0.382


class TuningPreset(Settings):
    """The field of tuning methods under one budget and over several seeds, and a recommendation."""

    name: str = Field("tuning", description="Which preset: `tuning`, or one that an installed package brings.")
    methods: list[Any] | None = Field(
        None,
        min_length=1,
        description="Tuning methods: their names, or mappings with their settings; null takes those that the preset "
        "names.",
    )
    seeds: int | list[int] = Field(
        3, description="How many seeds, counted from the recipe's own, or which. One seed can tell nothing."
    )
    steps: int | None = Field(
        None, gt=0, description="Optimiser steps of every run, which see the same batches; null keeps the recipe's own."
    )
    minutes: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Minutes that every run may train, evaluations included, in place of steps.",
    )
    prefer: Prefer = Field(
        "parameters",
        description="Which is recommended of the methods that can't be told from the best: the one with the fewest "
        "trained parameters, or the one that took the fewest seconds.",
    )

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            return preset_named(name).name
        except RecipeError as error:
            raise ValueError(str(error)) from None

    @field_validator("methods")
    @classmethod
    def _methods_exist(cls, methods: list[Any] | None) -> list[Any] | None:
        checked: list[Any] = []
        for method in methods or ():
            settings = {"name": method} if isinstance(method, str) else method
            if not isinstance(settings, dict) or "name" not in settings:
                raise ValueError(f"{method!r} is neither a method's name nor a mapping with its name")
            try:
                one = METHODS.get(str(settings["name"])).model_validate(settings)
            except RecipeError as error:
                raise ValueError(str(error)) from None
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, (settings["name"], *first["loc"])))
                raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
            if one in checked:
                raise ValueError(f"{settings['name']} stands there twice with the same settings")
            checked.append(one)
        return methods

    @field_validator("seeds")
    @classmethod
    def _seeds_count(cls, seeds: int | list[int]) -> int | list[int]:
        given = seeds if isinstance(seeds, list) else [seeds]
        if not given or (isinstance(seeds, int) and seeds < 1) or len(set(given)) < len(given):
            raise ValueError("give how many seeds, at least 1, or a list of different ones")
        if isinstance(seeds, list) and (wrong := [seed for seed in seeds if not 0 <= seed < _SEEDS]):
            raise ValueError(f"{wrong[0]} is no seed: they go from 0 to {_SEEDS - 1}")
        return seeds

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.steps and self.minutes:
            raise ValueError("give steps or minutes: there is one budget")
        return self

    def parts(self) -> list[Any]:
        """The methods that are compared."""
        return list(preset_named(self.name).parts) if self.methods is None else self.methods

    def seed_list(self, first: int) -> list[int]:
        """The seeds, counted from `first` where only their number is given."""
        if isinstance(self.seeds, list):
            return self.seeds
        return [(first + number) % _SEEDS for number in range(self.seeds)]


class Range(Settings):
    """Numbers between two ends: whole ones where both ends are whole."""

    low: int | float = Field(description="Lower end, included.")
    high: int | float = Field(description="Upper end, included; with `step`, where steps from the lower end reach it.")
    log: bool = Field(False, description="Spread evenly over the orders of magnitude.")
    step: int | float | None = Field(
        None, gt=0, description="Distance of neighbouring numbers; null takes all between."
    )

    @model_validator(mode="after")
    def _ends_in_order(self) -> Self:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low has to be below high, not {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a range over orders of magnitude has to lie above 0, and low is {self.low}")
        if self.log and self.step is not None:
            raise ValueError("give log or step")
        if self.whole and isinstance(self.step, float):
            raise ValueError("the ends are whole numbers, so step has to be one too")
        if self.step is not None and self.step > self.high - self.low:
            raise ValueError(f"step is larger than the range, so that {self.low} alone would be tried")
        return self

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def top(self) -> int | float:
        """The highest number that is tried."""
        if self.step is None:
            return self.high
        low, high, step = (Decimal(str(number)) for number in (self.low, self.high, self.step))
        top = low + (high - low) // step * step
        return int(top) if self.whole else float(top)

    def tried(self) -> list[int | float]:
        """Both ends, and a number between them that is no whole one where such may be drawn."""
        if self.whole:
            return [self.low, self.top]
        between = self.low + (_BETWEEN * (self.high - self.low) if self.step is None else self.step)
        short = float(f"{between:.6g}")
        return [self.low, short if self.low < short < self.high else between, self.top]


class SearchSettings(Settings):
    """A search over recipe keys by validation score, with Optuna (`pip install 'luthier[search]'`)."""

    space: dict[str, list[Any] | Range] = Field(
        min_length=1,
        description="Dotted recipe keys with the values to choose from, or `{low, high}` with `log` or `step`.",
    )
    trials: int = Field(20, gt=0, description="Runs in all, those of an earlier, stopped search included.")
    sampler: Literal["tpe", "random"] = Field(
        "tpe", description="What is tried next: by a model of the trials so far (tpe), or drawn (random)."
    )
    pruner: Literal["median", "none"] = Field(
        "median",
        description="median ends a trial whose best validation score so far is worse than the median that the trials "
        "which ran to their end had at the same step, once there are five of these. Where several stages of the recipe "
        "train, none is ended.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the sampler.")

    @field_validator("space")
    @classmethod
    def _choices_differ(cls, space: dict[str, list[Any] | Range]) -> dict[str, list[Any] | Range]:
        refuse_repeats({key: values for key, values in space.items() if isinstance(values, list)})
        return space

    def extras(self) -> Mapping[str, str]:
        """Searches are run by Optuna, the extra `search`."""
        return {"search": ""}

    def ends(self) -> dict[str, list[Any]]:
        """The choices of every key, or the two ends of its range."""
        return {key: among if isinstance(among, list) else [among.low, among.top] for key, among in self.space.items()}

    def tried(self) -> dict[str, list[Any]]:
        """The choices of every key, or numbers of its range: see `Range.tried`."""
        return {key: among if isinstance(among, list) else among.tried() for key, among in self.space.items()}


class CompareSettings(Settings):
    """A grid: every combination of the listed values is run, and one table compares them. Or a preset, or a search."""

    over: dict[str, list[Any]] = Field(
        default_factory=dict,
        description="Dotted recipe keys with the values to try: `stages.0.tune.method: [lora, full]`, "
        "`seed: [13, 17]`.",
    )
    preset: Annotated[
        TuningPreset | None,
        BeforeValidator(
            lambda v: {"name": v} if isinstance(v, str) else v,
            json_schema_input_type=str | TuningPreset | None,
        ),
    ] = Field(
        None,
        description="`tuning`: the field of tuning methods with their own learning rates under one budget, and a "
        "recommendation; or a mapping with its settings. It fills in `over`, where more keys may stand.",
    )
    search: SearchSettings | None = Field(
        None, description="A search in place of a grid; it chooses by validation score."
    )
    baseline: str | None = Field(
        None, description="Which value the differences are taken to; null takes the first row of the grid."
    )

    @field_validator("over")
    @classmethod
    def _values_differ(cls, over: dict[str, list[Any]]) -> dict[str, list[Any]]:
        refuse_repeats(over)
        return over

    @model_validator(mode="after")
    def _something_to_compare(self) -> Self:
        if not (self.over or self.preset or self.search):
            raise ValueError("there is nothing to compare: give over, preset or search")
        if self.search and (self.over or self.preset):
            raise ValueError("search stands alone: leave over and preset out, or put their keys into its space")
        return self

    @property
    def chooses(self) -> bool:
        """Whether the comparison ends with a choice by validation score."""
        return self.preset is not None or self.search is not None


def refuse_repeats(over: dict[str, list[Any]]) -> None:
    """Raises ValueError where a key has no value, or one twice."""
    for key, values in over.items():
        if not values:
            raise ValueError(f"give at least one value for {key}")
        if any(_are_one(a, b) for i, a in enumerate(values) for b in values[:i]):
            raise ValueError(f"{key} lists a value twice")


def _are_one(a: Any, b: Any) -> bool:
    """Whether two values are the same one, or the same as they are written, as 1 and "1" are: their cells would be of
    one name."""
    if type(a) is type(b):
        return bool(a == b)
    return all(isinstance(one, int | float | str) for one in (a, b)) and str(a) == str(b)


def varied_by(preset: TuningPreset, stages: Sequence[str]) -> tuple[int | None, str]:
    """The number of the stage that a preset varies, and the recipe's key for that; None where no stage is of its kind.

    Args:
        stages: the names of the recipe's stages.
    """
    about = preset_named(preset.name)
    place = max((number for number, name in enumerate(stages) if name == about.stage), default=None)
    return place, f"stages.{place}.{about.stage}.{about.field}"


def filled_in(preset: TuningPreset, stages: Sequence[str], seed: int) -> dict[str, list[Any]]:
    """What a preset fills in under `compare.over` of a recipe with stages of these names."""
    return {varied_by(preset, stages)[1]: preset.parts(), "seed": preset.seed_list(seed)}


def with_preset(data: dict[str, Any], preset: TuningPreset, seed: int) -> dict[str, Any]:
    """A recipe's data with the grid that its preset stands for, its budget, and the methods' own learning rates.

    Args:
        data: of a recipe, its `compare` block included. It is changed.
        preset: of that block.
        seed: of the recipe.

    Raises:
        RecipeError: there is no stage of the preset's kind, or `over` has other methods or seeds than the preset.
    """
    about = preset_named(preset.name)
    names = [next(iter(stage), "") for stage in data["stages"]]
    place, _ = varied_by(preset, names)
    if place is None:
        raise RecipeError(
            f"the preset varies the {about.field} of the {about.stage} stage, and the recipe has none", fix="add one"
        )
    over = data["compare"].setdefault("over", {})
    for key, values in filled_in(preset, names, seed).items():
        if over.setdefault(key, values) != values:
            raise RecipeError(
                f"compare.over.{key} is not what the preset fills in there",
                fix="give methods and seeds in the preset alone: `preset: {methods: [...], seeds: 3}`",
            )
    data["compare"]["over"] = {key: over[key] for key in sorted(over, key=lambda key: key == "seed")}
    stage = data["stages"][place][about.stage]
    if stage.get("learning_rate") is not None:
        logger.warning(
            "stages.%d.%s.learning_rate is set aside: the preset gives every method its own learning rate",
            place,
            about.stage,
        )
    stage["learning_rate"] = None
    if preset.steps or preset.minutes:
        stage |= {"max_steps": preset.steps, "max_minutes": preset.minutes}
    return data
