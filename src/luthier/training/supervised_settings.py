"""Settings of supervised training: data, method, objective, and how they are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from luthier.data.settings import DataSettings
from luthier.errors import RecipeError
from luthier.methods.base import TuningMethod
from luthier.tasks.base import task_named
from luthier.training.same_method import saved_whole
from luthier.training.settings import TrainingSettings, by_steps_where_left_out


class SupervisedSettings(TrainingSettings):
    """Training on labelled text with one method."""

    without_effect_on_results: ClassVar[frozenset[str]] = TrainingSettings.without_effect_on_results | {
        "cache_gigabytes"
    }
    data: DataSettings = Field(description="The labelled text: a set's name, or a mapping with sources and columns.")
    train_head: bool = Field(
        True, description="false freezes the task head at its first, random values, as some published baselines do."
    )
    head: dict[str, Any] = Field(
        default_factory=dict,
        description="Settings of the task's head, for tasks whose head has some: `luthier explain TASK` lists them.",
    )
    continue_adapter: bool = Field(
        False,
        description="The model is an adapter that the same method made: train it on, with its task head. false merges "
        "an adapter that can be merged into its base and starts the method afresh on the result, and refuses others.",
    )
    cache_trunk: bool = Field(
        True,
        description="Compute the frozen part below everything that is trained once and keep its outputs on disk, where "
        "there is such a part: under `head_only` and adapters that begin above the first layers.",
    )
    cache_gigabytes: float = Field(
        10.0, gt=0, description="What these outputs may take, of all runs together; the least recently used go first."
    )
    method: Any = None
    objective: Any = None

    @model_validator(mode="before")
    @classmethod
    def _streams_have_no_epochs(cls, given: Any) -> Any:
        data = given.get("data") if isinstance(given, Mapping) else None
        streaming = data.get("streaming") if isinstance(data, Mapping) else getattr(data, "streaming", False)
        return by_steps_where_left_out(given) if streaming else given

    @model_validator(mode="after")
    def _method_allows_the_settings(self) -> Self:
        method: TuningMethod | None = self.method
        if self.gradient_checkpointing and method is not None and not method.supports_gradient_checkpointing:
            raise ValueError(f"{method.name} does not work with gradient_checkpointing: leave one of them out")
        if self.continue_adapter and method is not None and (why := saved_whole(method)):
            raise ValueError(f"{why}: leave it out, and training begins with that model")
        return self

    @model_validator(mode="after")
    def _head_has_the_settings(self) -> Self:
        if self.head and self.data.task is not None:
            try:
                task_named(self.data.task).settings_of_head(self.head)
            except RecipeError as error:
                raise ValueError(f"head: {error.what}") from error
        return self

    def rate(self) -> float:
        """The peak learning rate: the recipe's, or the method's own."""
        method: TuningMethod = self.method
        return self.learning_rate if self.learning_rate is not None else method.default_learning_rate

    def filled_in(self) -> Self:
        """The settings with the rate that will be used."""
        return self.model_copy(update={"learning_rate": self.rate()})
