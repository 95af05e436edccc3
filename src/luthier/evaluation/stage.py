"""The `evaluate` stage: a tuned model and suites give scores with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, create_model, field_validator

from luthier.data.settings import DataSettings
from luthier.data.stated import learns_text, stated_task
from luthier.errors import RecipeError
from luthier.evaluation.fit import head_misfit, language_misfit, suites_misfit, task_misfit
from luthier.registry import STAGES, SUITES, import_folder, one_of
from luthier.stages.artifacts import MODEL_FIELD, Port, Reference
from luthier.stages.base import Stage, StageInputs

import_folder("luthier.evaluation.suites")


@STAGES.register
class Evaluate(Stage):
    """Judges the model by one suite after another."""

    name: ClassVar[str] = "evaluate"
    summary: ClassVar[str] = "judge the model: task scores, calibration, cost, robustness"
    ports: ClassVar[Mapping[str, Port]] = {
        "model": Port(("task", "pretrained"), about="what is judged; a pretrained one as a language model")
    }
    runs: ClassVar[str] = "luthier.evaluation.run:run_evaluation"
    plans: ClassVar[str] = "luthier.evaluation.run:plan_evaluation"

    model: Reference = Field(None, description=MODEL_FIELD.replace("to start from", "to judge"))

    suites: Any = None
    data: DataSettings | None = Field(
        None,
        description="The data to judge on; null takes that of the stage before, else that which the saved model names.",
    )
    split: Literal["auto", "train", "validation", "test"] = Field(
        "auto", description="Which split: auto is test where there is one, else validation."
    )
    batch_size: int = Field(64, gt=0, description="Rows in one forward pass.")
    untuned: bool = Field(
        True,
        description="Whether the scores of a tuned language model stand beside those that it had before, on the same "
        "rows; costs a second pass over them.",
    )

    @field_validator("suites")
    @classmethod
    def _scores_apart(cls, suites: Any) -> Any:
        scored = [what for suite in suites or () for what in suite.scored()]
        if (twice := next((what for what in scored if scored.count(what) > 1), None)) is not None:
            raise ValueError(
                f"{twice} stands there twice, and scores of one name can't be told apart: keep one of them"
            )
        return suites

    @classmethod
    def resolved(cls) -> type[Stage]:
        about = "Suites by name, or mappings with their settings."
        suite: Any = one_of(SUITES)
        field: Any = (list[suite], Field(default_factory=lambda: ["task"], description=about, min_length=1))
        return create_model("Evaluate", __base__=cls, __module__=__name__, suites=field)

    def external_inputs(self, inputs: StageInputs) -> dict[str, str]:
        from luthier.data.sources.fingerprint import source_fingerprint

        sources = [self.data or inputs.data, *(s for suite in self.suites for s in suite.sources())]
        found = {f"data {number}": source_fingerprint(s) for number, s in enumerate(sources) if s is not None}
        for number, suite in enumerate(self.suites):
            found |= {f"{suite.name} {number} {name}": digest for name, digest in suite.external_inputs().items()}
        return found

    def misfit(self, kinds: Mapping[str, str], data: Any, language_head: Callable[[str], str]) -> str:
        data = self.data or data
        if data is None:
            return "there is no data to judge on: give its `data`"
        if kinds["model"] != "pretrained":
            return task_misfit(self.suites) or suites_misfit(stated_task(data), self.suites)
        if data.as_text:
            return head_misfit(self.suites, language_head("model"))
        return language_misfit(stated_task(data), self.suites, language_head("model"))

    def follow(self, before: Stage) -> None:
        trained = getattr(before, "data", None)
        if self.data is None or not isinstance(trained, DataSettings) or trained.as_text or self.data.as_text:
            return
        task, judged = stated_task(trained), stated_task(self.data)
        if task is None or judged is None or task == judged or (learns_text(task) and learns_text(judged)):
            return
        raise RecipeError(
            f"its model is trained for the task {task}, and the data to judge on are of the task {judged}",
            fix="give data of the same task, or leave `data` out, which takes that of the training",
        )

    def may_validate(self, data: Any) -> bool:
        data = self.data or data
        return self.split == "validation" or (self.split == "auto" and getattr(data, "test", None) is None)

    def check(self, inputs: StageInputs) -> None:
        data = self.data or inputs.data
        if data is not None:
            from luthier.evaluation.run import check_before

            check_before(self, data, inputs)
        for suite in self.suites if data is not None else ():
            suite.check(data)
        if inputs.kind == "pretrained":
            from luthier.evaluation.run import check_language

            check_language(self, inputs)
