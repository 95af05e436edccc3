"""The `represent` stage: source tasks give prefixes, prefixes one fixed representation, which light heads read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from luthier.data.settings import DataSettings
from luthier.registry import STAGES
from luthier.representing.settings import FILE_NAME, FILE_NAME_RULE, TaskPrefix
from luthier.settings import Paper, Settings
from luthier.stages.artifacts import MODEL_FIELD, Port, Reference, register_kind
from luthier.stages.base import Stage, StageInputs
from luthier.training.settings import TrainingSettings

register_kind("encoder", "a frozen model with prefixes and light heads", mark="shared_encoder.json")


def _file_name(name: str) -> str:
    if not FILE_NAME.fullmatch(name):
        raise ValueError(f"{name!r} can't be a name here: {FILE_NAME_RULE}")
    return name


Name = Annotated[str, AfterValidator(_file_name)]


class SourceTask(Settings):
    """A task that a prefix is learned on."""

    data: DataSettings | None = Field(None, description="The labelled text that its prefix is trained on.")
    prefix: str | None = Field(
        None,
        description="A prefix that is trained already, in place of `data`: the folder of a run or stage with the "
        "method task_prefix, or a `prefixes/NAME.safetensors` of another encoder.",
    )
    path_fields: ClassVar[tuple[str, ...]] = ("prefix",)
    weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="Share of this prefix among all; 0 leaves it out."
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.data is None) == (self.prefix is None):
            raise ValueError("give `data` to train a prefix, or `prefix` to take a trained one")
        return self


class HeadTask(Settings):
    """A task that reads the representation."""

    data: DataSettings = Field(description="The labelled text that the head is fitted on and scored on.")
    kind: Literal["linear", "mlp"] = Field(
        "linear", description="`linear` is a logistic regression, `mlp` has one hidden layer."
    )
    hidden: int = Field(128, gt=0, description="Width of the hidden layer of `mlp`.")
    l2: float | None = Field(
        None,
        gt=0,
        description="Weight of the squared coefficients; null is chosen by five-fold cross-validation for `linear`, "
        "and is 0.0001 for `mlp`.",
    )
    standardise: bool = Field(True, description="Give every column of the vectors mean 0 and deviation 1 before.")

    @model_validator(mode="after")
    def _data_have_effect(self) -> Self:
        if self.data.max_length is not None:
            raise ValueError("data.max_length would have no effect: the stage's max_length is that of every text")
        if self.kind == "linear" and self.changed("hidden"):
            raise ValueError("`hidden` belongs to `kind: mlp`")
        return self

    def options(self, seed: int) -> dict[str, object]:
        """What the head's `fit` takes."""
        l2 = {} if self.l2 is None else {"l2": self.l2}
        own = {"hidden": self.hidden, "seed": seed} if self.kind == "mlp" else {}
        return {"standardise": self.standardise, **l2, **own}


@STAGES.register
class Represent(TrainingSettings, Stage):
    """Trains one prefix for each source task, combines them, and fits light heads on the representation.

    A prefix is trained once: another recipe with the same model, data and settings finds it again.
    """

    name: ClassVar[str] = "represent"
    summary: ClassVar[str] = "learn one prefix a source task, and fit many light heads on their one representation"
    paper: ClassVar[Paper | None] = TaskPrefix.paper
    ports: ClassVar[Mapping[str, Port]] = {"model": Port(("pretrained", "task"), about="what the prefixes are for")}
    products: ClassVar[Mapping[str, tuple[str, ...]]] = {"model": ("encoder",)}
    runs: ClassVar[str] = "luthier.representing.run:run_representing"
    merges_adapters: ClassVar[bool] = True
    plans: ClassVar[str] = "luthier.representing.run:plan_representing"

    model: Reference = Field(None, description=MODEL_FIELD)
    tasks: dict[Name, SourceTask] = Field(
        default_factory=dict, description="Source tasks by name; none of them leaves the model as it is."
    )
    heads: dict[Name, HeadTask] = Field(
        default_factory=dict, description="Target tasks by name; each gets a light classifier of its own."
    )
    prefix: TaskPrefix = Field(
        default_factory=TaskPrefix, description="Settings of every prefix, as of the method task_prefix."
    )
    combine: Literal["joint", "mean", "concat"] = Field(
        "joint",
        description="`joint` puts all prefixes side by side in one pass; `mean` and `concat` take one pass a prefix.",
    )
    pooling: Literal["first", "last", "mean"] | None = Field(
        None,
        description="Which hidden states make the vector: the first or last token, or the mean over the text; "
        "null is the model's own: last for decoders, first where texts start with a token for all of them, else mean.",
    )
    normalise: bool = Field(False, description="Scale what each pass gives to length 1.")
    max_length: int | None = Field(
        None, gt=0, description="Longest text, in tokens, of the representation; null is the model's limit, or 512."
    )
    representation_batch_size: int = Field(64, gt=0, description="Texts in one forward pass when vectors are computed.")

    @model_validator(mode="after")
    def _has_work(self) -> Self:
        if not self.tasks and not self.heads:
            raise ValueError("give `tasks` to learn prefixes on, `heads` to fit, or both")
        if any(task.data is not None for task in self.tasks.values()):
            return self
        idle = self.changed("prefix", *TrainingSettings.model_fields)
        if self.learning_rate == self.prefix.default_learning_rate:  # as `filled_in` leaves it
            idle.remove("learning_rate")
        if idle:
            named = ", ".join(f"`{name}`" for name in idle)
            raise ValueError(f"{named} would have no effect: no task has `data` that a prefix is trained on")
        if not self.tasks and self.changed("combine"):
            raise ValueError("`combine` would have no effect: there are no `tasks`, so no prefixes")
        return self

    def filled_in(self) -> Self:
        """The settings with the rate that the prefixes will be trained at."""
        rate = self.prefix.default_learning_rate if self.learning_rate is None else self.learning_rate
        return self.model_copy(update={"learning_rate": rate})

    def external_inputs(self, inputs: StageInputs) -> dict[str, str]:
        from luthier.data.sources.fingerprint import source_fingerprint
        from luthier.representing.run import prefix_fingerprint

        found = {f"head {name}": source_fingerprint(head.data) for name, head in self.heads.items()}
        for name, task in self.tasks.items():
            own = source_fingerprint(task.data) if task.data else prefix_fingerprint(str(task.prefix))
            found[f"task {name}"] = own
        return found

    def check(self, inputs: StageInputs) -> None:
        from luthier.representing.run import check_sources

        check_sources(self)
