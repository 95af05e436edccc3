"""What a stage is: it takes artefacts and gives artefacts, each a folder on disk.

Nothing here imports torch; a stage imports it inside `run` and `plan`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from luthier.errors import RecipeError
from luthier.models.settings import ModelSettings
from luthier.report.sections import plain_sections
from luthier.settings import Paper, Settings
from luthier.stages.artifacts import Artifact, Port
from luthier.storage.steps import Workspace

MODEL = "model"


@dataclass(frozen=True)
class StageInputs:
    """What a stage starts from.

    Attributes:
        artifacts: port -> what it gets; an optional port that gets nothing is left out.
        seed: of the run.
        data: settings of the data that the stage before was run on, or that the saved model was trained on, for stages
            that default to it.
        key: of the stage (`luthier.runs.keys.stage_key`); empty in a dry run. What a stopped run left behind under
            another key belongs to other settings.
        workspace: for pieces of the stage's work that are kept by themselves; None in a dry run.
        waits: whether other stages run first. What doesn't wait finds by itself, at once, what is wrong with its rows.
        trained_on: settings of the data that a stage of this run trains the model on; None where none does.
    """

    artifacts: Mapping[str, Artifact]
    seed: int
    data: Any = None
    key: str = ""
    workspace: Workspace | None = None
    waits: bool = False
    trained_on: Any = None

    @property
    def model(self) -> ModelSettings:
        """The model of the port `model`."""
        return self.artifacts[MODEL].model

    @property
    def kind(self) -> str:
        """Kind of the artefact of the port `model`."""
        return self.artifacts[MODEL].kind

    @property
    def stands_in(self) -> bool:
        """Whether an artefact is not there yet, and the model that it will be made from stands in for it."""
        return any(artifact.stands_in for artifact in self.artifacts.values())

    def with_model(self, model: ModelSettings) -> StageInputs:
        """These inputs with another model in the port `model`."""
        return replace(self, artifacts={**self.artifacts, MODEL: replace(self.artifacts[MODEL], settings=model)})


@dataclass
class StageOutputs:
    """What a stage leaves behind.

    Attributes:
        metrics: content of `metrics.json`, see `metrics_record`.
        artifacts: name -> folder of everything that it gives; an artefact called NAME lies in `NAME` in its folder.
    """

    metrics: dict[str, Any]
    artifacts: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class StagePlan:
    """What a dry run tells about a stage.

    Attributes:
        facts: label -> value, in the order they are shown.
        seconds: estimate of the run time, or None where nothing can be said.
        memory_bytes: estimate of the peak memory, or None.
    """

    facts: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None
    memory_bytes: int | None = None


class Stage(Settings):
    """Settings of one stage of a recipe, and how to run it. Registered with `@STAGES.register`."""

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    paper: ClassVar[Paper | None] = None
    # Everything that a stage of this name can take and give, whatever its settings; documentation shows it.
    ports: ClassVar[Mapping[str, Port]] = {MODEL: Port(("pretrained", "task"))}
    products: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    # Whether its log tells the validation score of the model step by step, so that a search can end it early.
    scores_by_step: ClassVar[bool] = False
    # Whether it merges an adapter that it is given into its base, to go on from the result.
    merges_adapters: ClassVar[bool] = False
    # What else a recipe may do where an adapter can't be merged, behind the advice to train another.
    beside_merging: ClassVar[str] = ""
    # "module:function", imported when the stage runs: `runs(stage, inputs, folder)` and `plans(stage, inputs)`.
    runs: ClassVar[str] = ""
    plans: ClassVar[str] = ""

    @classmethod
    def resolved(cls) -> type[Stage]:
        """The class with every registered part in its unions; called after discovery."""
        return cls

    def filled_in(self) -> Self:
        """The stage with every value that its other settings decide, as it is written beside its results."""
        return self

    def takes(self) -> dict[str, Port]:
        """The artefacts that a stage with these settings takes, by the names of its ports.

        The port `model` gets the newest model that the stages before give, or that of the recipe. A settings field of
        a port's name (`luthier.stages.artifacts.Reference`) lets a recipe name what the port gets; any other port than
        `model` needs one.
        """
        return dict(self.ports)

    def place_of(self, port: str) -> tuple[str, ...]:
        """The keys of the settings that lead to the reference of a port; by default the field of the port's name."""
        return (port,)

    def reference(self, port: str) -> ModelSettings | None:
        """What the recipe names for a port, or None."""
        found: Any = self
        for key in self.place_of(port):
            if isinstance(found, Mapping):
                found = found.get(key)
            else:
                found = getattr(found, key) if key in type(found).model_fields else None
            if found is None:
                return None
        return cast(ModelSettings, found)

    def gives(self) -> dict[str, str]:
        """The artefacts that it gives: name -> kind."""
        return {name: kinds[0] for name, kinds in self.products.items()}

    def language_head(self, name: str, before: str, *, read: bool) -> str:
        """The head that a model of the stage has as a language model, or would get by its type: `masked_lm`,
        `causal_lm`, `seq2seq_lm`, or empty where that can't be told.

        Args:
            name: of the artefact that it gives.
            before: the same of the model that this one is made from.
            read: whether transformers may be asked, which takes seconds; else settings alone tell.
        """
        return before

    def misfit(self, kinds: Mapping[str, str], data: Any, language_head: Callable[[str], str]) -> str:
        """Why the stage can't work on such artefacts, told before anything runs; empty where it can.

        Args:
            kinds: port -> kind of what it gets.
            data: settings of the data of the stage before, or None.
            language_head: port -> the head that what it gets has as a language model; empty where that is not known.
        """
        return ""

    def follow(self, before: Stage) -> None:
        """Find why the stage can't go on from the model of an earlier one, told by the settings of both before anything
        runs.

        Raises:
            RecipeError: it can't.
        """
        method: Any = getattr(before, "method", None)
        if self.merges_adapters and not getattr(method, "merges", True):
            raise RecipeError(
                f"what {method.name} trains can't be merged into its base, so nothing can be built on top of it",
                fix=f"take another method in the earlier stage{self.beside_merging}",
            )

    def may_validate(self, data: Any) -> bool:
        """Whether its main score may be one on validation rows, as far as settings tell.

        Args:
            data: settings of the data of the stage before, or None.
        """
        return True

    def external_inputs(self, inputs: StageInputs) -> dict[str, str]:
        """Fingerprints of everything the stage reads beside the model, for its key."""
        return {}

    def check(self, inputs: StageInputs) -> None:
        """Find what is wrong with the stage's own data before any stage runs; the model may not be there yet.

        Raises:
            DataError, RecipeError: what `run` would raise.
        """

    def check_processes(self, processes: int) -> None:
        """Find what does not go with the number of processes of the run, before any stage runs.

        Raises:
            RecipeError: the stage needs more of them.
        """

    def plan(self, inputs: StageInputs) -> StagePlan:
        """The dry run."""
        plan: StagePlan = _named(self.plans)(self, inputs) if self.plans else StagePlan()
        return plan

    def run(self, inputs: StageInputs, folder: Path) -> StageOutputs:
        """Do the work inside `folder`, which may hold what an earlier, stopped call left there."""
        if not self.runs:
            raise TypeError(f"{type(self).__name__} names nothing that runs it")
        outputs: StageOutputs = _named(self.runs)(self, inputs, folder)
        return outputs


def _named(place: str) -> Callable[..., Any]:
    module, _, function = place.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def metrics_record(
    stage: str,
    *,
    scores: Mapping[str, float] | None = None,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    baselines: Mapping[str, Mapping[str, Any]] | None = None,
    marks: Sequence[str] = (),
    about: Mapping[str, str] | None = None,
    primary: str | None = None,
    cost: Mapping[str, float] | None = None,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of a stage's `metrics.json`.

    Args:
        stage: its name.
        scores: `split/metric` -> value, as fractions or natural units.
        intervals: 95 % intervals for some of the scores.
        baselines: for some of the scores what answering every row alike comes to, `luthier.evaluation.baselines`.
        marks: what a reader must not miss of a model that learned nothing, in words.
        about: for some of the scores what their names leave out.
        primary: the score a table shows first.
        cost: trainable_parameters, total_parameters, bytes_on_disk, seconds, peak_memory_bytes, tokens_per_second.
        details: anything more, in JSON's types; `sections` in it may hold a `luthier.report.Section`.
    """
    return {
        "stage": stage,
        "scores": dict(scores or {}),
        "intervals": {k: list(v) for k, v in (intervals or {}).items()},
        "baselines": {k: dict(v) for k, v in (baselines or {}).items()},
        "marks": list(marks),
        "about": dict(about or {}),
        "primary": primary,
        "cost": dict(cost or {}),
        "details": plain_sections(details or {}),
    }
