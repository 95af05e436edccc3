"""The `tune` stage: a model, labelled text and a method give a tuned model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import Field, create_model, model_validator

from luthier.data.stated import is_language
from luthier.errors import RecipeError
from luthier.evaluation.fit import check_patience, may_have
from luthier.methods.base import TuningMethod
from luthier.registry import METHODS, OBJECTIVES, STAGES, import_folder, one_of
from luthier.stages.artifacts import MODEL_FIELD, Port, Reference
from luthier.stages.base import MODEL, Stage, StageInputs
from luthier.stages.presets import Preset, register_preset
from luthier.training.same_method import check_same_method, saved_whole
from luthier.training.supervised_settings import SupervisedSettings

import_folder("luthier.tuning.stock")
COMPARED = (
    "head_only",
    "bitfit",
    "lora",
    "prefix",
    "prompt",
    "residual_prompt",
    "idpg",
    "bottleneck",
    "unipelt",
    "full",
)
register_preset(Preset("tuning", stage="tune", field="method", parts=COMPARED))


@STAGES.register
class Tune(SupervisedSettings, Stage):
    """Trains a model on labelled text with one method."""

    name: ClassVar[str] = "tune"
    summary: ClassVar[str] = "train a model on labelled text, with any tuning method"
    ports: ClassVar[Mapping[str, Port]] = {"model": Port(("pretrained", "task"), about="what is trained on")}
    products: ClassVar[Mapping[str, tuple[str, ...]]] = {"model": ("task", "pretrained")}
    scores_by_step: ClassVar[bool] = True
    merges_adapters: ClassVar[bool] = True
    beside_merging: ClassVar[str] = ", or train its adapter on with `continue_adapter: true`"
    runs: ClassVar[str] = "luthier.training.supervised:train_supervised"
    plans: ClassVar[str] = "luthier.training.planning:plan_supervised"

    model: Reference = Field(None, description=MODEL_FIELD)

    @model_validator(mode="after")
    def _patience_has_scores(self) -> Self:
        check_patience(self.patience, self.data)
        return self

    def gives(self) -> dict[str, str]:
        """A task model; of text without labels a language model, which is pretrained for what comes after."""
        return {"model": "pretrained" if is_language(self.data) else "task"}

    def follow(self, before: Stage) -> None:
        method = getattr(before, "method", None)
        if not self.continue_adapter:
            super().follow(before)
        elif isinstance(method, TuningMethod) and (why := saved_whole(method)):
            raise RecipeError(why, fix=f"leave `continue_adapter` out, or take {self.method.name} in the earlier stage")
        elif isinstance(method, TuningMethod):
            check_same_method(self.method, method.model_dump(mode="json"), before.name)

    def check(self, inputs: StageInputs) -> None:
        """Look for the adapter to go on from, where it is from outside, and at the rows of a later stage."""
        artifact = inputs.artifacts[MODEL]
        if self.continue_adapter and not artifact.key and not artifact.stands_in:
            from luthier.training.continuing import adapter_to_continue

            adapter_to_continue(self, artifact.model)
        if inputs.waits:
            from luthier.training.preparing import checked_rows

            checked_rows(self)

    def may_validate(self, data: Any) -> bool:
        return self.evaluate_every != "never" and may_have("validation", self.data)

    def language_head(self, name: str, before: str, *, read: bool) -> str:
        """Text is learned from left to right, whatever the model was built for."""
        return "causal_lm" if before == "masked_lm" and is_language(self.data) else before

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

        return {"data": source_fingerprint(self.data)} | self.method.file_fingerprints()
