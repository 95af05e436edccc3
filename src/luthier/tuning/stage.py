"""The `tune` stage: a model, labelled text and a method give a tuned model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, create_model, model_validator

from luthier.data.settings import DataSettings
from luthier.registry import METHODS, OBJECTIVES, STAGES, import_folder, one_of
from luthier.stages import Kind, Stage, StageInputs, StageOutputs, StagePlan
from luthier.training.settings import TrainingSettings
from luthier.tuning.method import TuningMethod

import_folder("luthier.tuning.methods")


@STAGES.register
class Tune(TrainingSettings, Stage):
    """Trains a model on labelled text with one method."""

    name: ClassVar[str] = "tune"
    summary: ClassVar[str] = "train a model on labelled text, with any tuning method"
    takes: ClassVar[tuple[Kind, ...]] = ("pretrained", "task")
    gives: ClassVar[Kind | None] = "task"

    data: DataSettings = Field(description="The labelled text: a set's name, or a mapping with sources and columns.")
    train_head: bool = Field(
        True, description="false freezes the task head at its first, random values, as some published baselines do."
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

    @classmethod
    def resolved(cls) -> type[Stage]:
        method = (
            one_of(METHODS),
            Field("lora", description="Tuning method: its name, or a mapping with its settings."),
        )
        fields: dict[str, Any] = {"method": method}
        if OBJECTIVES.names():
            about = "Training objective: its name, or a mapping with its settings; null is the task's own loss."
            fields["objective"] = (one_of(OBJECTIVES) | None, Field(None, description=about))
        built = create_model("Tune", __base__=cls, __module__=__name__, **fields)
        return built

    @model_validator(mode="after")
    def _method_allows_the_settings(self) -> Self:
        if self.gradient_checkpointing and not getattr(self.method, "supports_gradient_checkpointing", True):
            raise ValueError(f"{self.method.name} does not work with gradient_checkpointing: leave one of them out")
        return self

    def external_inputs(self, inputs: StageInputs) -> dict[str, str]:
        from luthier.data.fingerprint import source_fingerprint
        from luthier.one_version import file_fingerprint

        files = [path for path in self.method.files() if path.is_file()]
        return {"data": source_fingerprint(self.data)} | {f"file {path}": file_fingerprint(path) for path in files}

    def plan(self, inputs: StageInputs) -> StagePlan:
        from luthier.tuning.run import plan_tuning

        return plan_tuning(self, inputs)

    def run(self, inputs: StageInputs, folder: Path) -> StageOutputs:
        from luthier.tuning.run import run_tuning

        return run_tuning(self, inputs, folder)

    def rate(self) -> float:
        """The peak learning rate: the recipe's, or the method's own."""
        method: TuningMethod = self.method
        return self.learning_rate if self.learning_rate is not None else method.default_learning_rate
