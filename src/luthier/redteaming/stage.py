"""The `redteam` stage: a causal model gives one that resists more attacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pydantic import Field

from luthier.redteaming.settings import PAPER, MartSettings
from luthier.registry import STAGES
from luthier.settings import Paper
from luthier.stages.artifacts import MODEL_FIELD, Port, Reference
from luthier.stages.base import MODEL, Stage, StageInputs

ADVERSARY = "adversary_model"
_SPEAKS = ("", "causal_lm")
_JUDGE = Port(("task", "pretrained"), about="the model of a judge, where an earlier stage trained it")


@STAGES.register
class Redteam(MartSettings, Stage):
    """Trains a language model to withstand attacks that an adversary writes and is trained to write, round by round.

    For models that are yours, to make them safer: every prompt and answer stays in the run's folder, and nothing of it
    is printed.
    """

    name: ClassVar[str] = "redteam"
    summary: ClassVar[str] = "make a language model resist harmful requests: attack, judge, select, train, in rounds"
    paper: ClassVar[Paper | None] = PAPER
    ports: ClassVar[Mapping[str, Port]] = {
        MODEL: Port(("pretrained",), about="the target; a causal language model"),
        ADVERSARY: Port(("pretrained",), optional=True, about="what the adversary starts from; else the target's twin"),
        "judges.NAME": Port(("task", "pretrained"), optional=True, about="a judge's model, written as `stages.N`"),
    }
    products: ClassVar[Mapping[str, tuple[str, ...]]] = {MODEL: ("pretrained",)}
    runs: ClassVar[str] = "luthier.redteaming.run:run_redteaming"
    merges_adapters: ClassVar[bool] = True
    plans: ClassVar[str] = "luthier.redteaming.planning:plan_redteaming"

    model: Reference = Field(None, description=MODEL_FIELD)
    adversary_model: Reference = Field(
        None, description="What the adversary starts from, written as `model` is; null is the target's twin."
    )

    @classmethod
    def resolved(cls) -> type[Stage]:
        built: type[Stage] = cls.with_methods("Redteam", __name__)
        return built

    def takes(self) -> dict[str, Port]:
        """The target, and the adversary where the recipe names one."""
        found = {MODEL: self.ports[MODEL]}
        if self.adversary_model is not None:
            found[ADVERSARY] = Port(self.ports[ADVERSARY].kinds, about=self.ports[ADVERSARY].about)
        return found | {f"judges.{role}": _JUDGE for role in self.judges_of_stages()}

    def place_of(self, port: str) -> tuple[str, ...]:
        return (*port.split("."), "model") if port.startswith("judges.") else (port,)

    def misfit(self, kinds: Mapping[str, str], data: Any, language_head: Callable[[str], str]) -> str:
        for port in (MODEL, ADVERSARY):
            head = language_head(port) if port in kinds else ""
            if head not in _SPEAKS:
                return f"it attacks a model that writes text from left to right, and `{port}` has the head {head}"
        return ""

    def with_judges(self, inputs: StageInputs) -> Redteam:
        """The stage with the models that earlier stages of the run trained as judges."""
        judges = {
            role: getattr(self.judges, role).model_copy(update={"model": inputs.artifacts[f"judges.{role}"].model})
            for role in self.judges_of_stages()
        }
        return self.model_copy(update={"judges": self.judges.model_copy(update=judges)})

    def external_inputs(self, inputs: StageInputs) -> dict[str, str]:
        from luthier.redteaming.inputs import fingerprints

        return fingerprints(self)

    def check(self, inputs: StageInputs) -> None:
        from luthier.redteaming.checking import check_redteaming

        check_redteaming(self)
