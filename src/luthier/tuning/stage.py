"""The `tune` stage: a model, labelled text and a method give a tuned model."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, create_model

from luthier.registry import METHODS, OBJECTIVES, STAGES, import_folder, one_of
from luthier.stages.base import Kind, Stage, StageInputs
from luthier.training.supervised_settings import SupervisedSettings

import_folder("luthier.tuning.stock")


@STAGES.register
class Tune(SupervisedSettings, Stage):
    """Trains a model on labelled text with one method."""

    name: ClassVar[str] = "tune"
    summary: ClassVar[str] = "train a model on labelled text, with any tuning method"
    takes: ClassVar[tuple[Kind, ...]] = ("pretrained", "task")
    gives: ClassVar[Kind | None] = "task"
    scores_by_step: ClassVar[bool] = True
    runs: ClassVar[str] = "luthier.training.supervised:train_supervised"
    plans: ClassVar[str] = "luthier.training.supervised:plan_supervised"

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

    def external_inputs(self, inputs: StageInputs) -> dict[str, str]:
        from luthier.data.sources.fingerprint import source_fingerprint
        from luthier.storage.one_version import file_fingerprint

        files = [path for path in self.method.files() if path.is_file()]
        return {"data": source_fingerprint(self.data)} | {f"file {path}": file_fingerprint(path) for path in files}
