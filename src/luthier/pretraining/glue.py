"""The `glue` stage: finished models, each fine-tuned by itself on every task of GLUE that is at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, create_model, model_validator

from luthier.data.settings import DataSettings
from luthier.data.stated import is_language
from luthier.errors import Refusals
from luthier.registry import METHODS, STAGES, one_of
from luthier.settings import Paper
from luthier.stages.artifacts import MODEL_FIELD, Port, Reference
from luthier.stages.base import MODEL, Stage, StageInputs
from luthier.training.settings import TrainingSettings

# The tasks in the order of the usual table, and their names in data sets.
GLUE = {
    "cola": "CoLA",
    "mnli": "MNLI",
    "mrpc": "MRPC",
    "qnli": "QNLI",
    "qqp": "QQP",
    "rte": "RTE",
    "sst2": "SST-2",
    "stsb": "STS-B",
    "wnli": "WNLI",
}
# Those under `LUTHIER_DATA`: the split that is trained on, and that which is scored.
AT_HAND = {
    "cola": ("train", "validation"),
    "mrpc": ("train", "test"),
    "qnli": ("train", "validation"),
    "rte": ("train", "validation"),
    "sst2": ("train", "validation"),
    "wnli": ("train", "validation"),
}
TaskName = Literal["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli"]
_KINDS = ("pretrained", "task")


def _name(name: str) -> str:
    if not name.isidentifier() or not name.isascii():
        raise ValueError(f"{name!r} becomes a folder: give it letters, digits and underscores")
    return name


Name = Annotated[str, AfterValidator(_name)]


@STAGES.register
class Glue(TrainingSettings, Stage):
    """Fine-tunes every model on every task, with several seeds, and tells the scores of all in one table.

    A fine-tuning is done once: a stopped stage goes on, and another recipe with the same model, data and settings finds
    it again. Trained weights are not kept.
    """

    name: ClassVar[str] = "glue"
    summary: ClassVar[str] = "fine-tune finished models on the tasks of GLUE, and compare their means"
    paper: ClassVar[Paper | None] = Paper(
        title="GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding",
        authors="Wang, Singh, Michael, Hill, Levy, Bowman",
        venue="ICLR 2019",
        url="https://arxiv.org/abs/1804.07461",
    )
    ports: ClassVar[Mapping[str, Port]] = {MODEL: Port(_KINDS, optional=True, about="what is scored, without `models`")}
    runs: ClassVar[str] = "luthier.pretraining.glue_run:run_glue"
    plans: ClassVar[str] = "luthier.pretraining.glue_run:plan_glue"

    model: Reference = Field(None, description=MODEL_FIELD.replace("to start from", "to score"))
    models: dict[Name, Reference] = Field(
        default_factory=dict,
        description="Several models by the names of their lines, as `{large: stages.0, small: stages.0.small}`; each "
        "as `model` takes it.",
    )
    baseline: str | None = Field(None, description="The line of `models` that the others are compared with.")
    tasks: list[TaskName] | None = Field(None, description="Tasks of GLUE; null takes all that `source` has.")
    more: dict[Name, DataSettings] = Field(
        default_factory=dict,
        description="Further tasks by the names of their columns, as `{sick: {source: data:sick}}`: each a set's name, "
        "or a mapping with sources and columns.",
    )
    source: Literal["data", "hub"] = Field(
        "data",
        description="`data` takes the sets under `LUTHIER_DATA`, which are CoLA, MRPC, QNLI (a part), RTE, SST-2 and "
        "WNLI; `hub` takes all nine from the Hugging Face Hub.",
    )
    seeds: int = Field(3, gt=0, description="Fine-tunings of each model on each task; a score is their median.")
    learning_rates: list[Annotated[float, Field(gt=0)]] = Field(
        default_factory=list,
        description="Rates that are tried for each model and task; the best median counts. Empty takes "
        "`learning_rate`.",
    )
    examples: int | None = Field(None, gt=0, description="Training rows that are drawn of each task; null takes all.")
    evaluation_limit: int | None = Field(None, gt=0, description="Rows that are scored; null takes all.")
    max_length: int = Field(128, gt=0, description="Longest text in tokens; what is longer is cut.")
    batch_size: int = Field(32, gt=0, description="Examples in one forward pass.")
    keep_best: bool = Field(
        False,
        description="Score the weights of the best evaluation in place of the last step's; they are chosen on the rows "
        "that are scored, so that all scores come out a little too high.",
    )
    method: Any = None

    @classmethod
    def resolved(cls) -> type[Stage]:
        about = "Tuning method: its name, or a mapping with its settings."
        return create_model(
            "Glue", __base__=cls, __module__=__name__, method=(one_of(METHODS), Field("full", description=about))
        )

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if not self.chosen():
            raise ValueError("there is no task: name some in `tasks`, or give your own as `more`")
        if clash := sorted(set(self.more) & set(GLUE)):
            raise ValueError(f"`more` has {clash[0]!r}, which is a task of GLUE: name it in `tasks`, or otherwise")
        if self.models and self.model is not None:
            raise ValueError("`model` and `models` both say what is scored: keep one of them")
        missing = [name for name, reference in self.models.items() if reference is None]
        if missing:
            raise ValueError(f"the model {missing[0]!r} has no reference, such as `stages.0`")
        if self.baseline is not None and self.baseline not in self.models:
            raise ValueError(f"`baseline` names {self.baseline!r}, which is none of {', '.join(self.models) or 'none'}")
        if self.learning_rates and self.learning_rate is not None:
            raise ValueError("`learning_rate` and `learning_rates` both say the rate: keep one of them")
        absent = [GLUE[task] for task in self.tasks or () if self.source == "data" and task not in AT_HAND]
        if absent:
            raise ValueError(f"{absent[0]} is not among the sets under LUTHIER_DATA: take `source: hub`")
        if len(set(self.learning_rates)) < len(self.learning_rates):
            raise ValueError("`learning_rates` has a rate twice, which would count its fine-tunings twice")
        if self.evaluate_every == "never":
            raise ValueError("`evaluate_every: never` would leave no scores: give steps, or `epoch`")
        for name, data in self.more.items():
            if is_language(data):
                raise ValueError(f"`more.{name}` has no labels: models are compared by scores of labelled tasks")
            cut = data.validation_fraction is not None or data.validation_examples is not None
            if data.source is None and data.validation is None and not cut:
                raise ValueError(f"`more.{name}` has no rows to score: give it `validation` or `validation_fraction`")
        for name in ("patience", "max_minutes"):
            if getattr(self, name) is not None:
                raise ValueError(f"`{name}` has no effect: every fine-tuning has as many steps, and ends with the last")
        return self

    def chosen(self) -> list[str]:
        """The tasks, in the order of the table."""
        at_hand = list(AT_HAND) if self.source == "data" else list(GLUE)
        wanted = at_hand if self.tasks is None else self.tasks
        return [*(task for task in GLUE if task in wanted), *self.more]

    def data_of(self, task: str) -> DataSettings:
        """The rows of a task; what is scored stands in its validation split."""
        if task in self.more:
            return self.more[task].model_copy(update=self._limits(self.more[task]))
        name = f"data:{task}" if self.source == "data" else f"glue/{task}"
        train, scored = AT_HAND[task] if self.source == "data" else ("train", "validation")
        settings = self._limits()
        if scored == "validation":
            return DataSettings(source=name, **settings)
        return DataSettings(train=f"{name}#{train}", validation=f"{name}#{scored}", **settings)

    def _limits(self, own: DataSettings | None = None) -> dict[str, Any]:
        """What is taken of a task's rows, where its own settings don't say it."""
        own = own or DataSettings.model_construct()
        examples = self.examples if own.per_class is None else None
        wanted = {"max_length": self.max_length, "examples": examples, "evaluation_limit": self.evaluation_limit}
        found = {key: value for key, value in wanted.items() if value is not None and not own.changed(key)}
        return found | {"too_long": "truncate"}

    def rates(self) -> list[float]:
        """Learning rates that are tried."""
        own: float = self.method.default_learning_rate if self.learning_rate is None else self.learning_rate
        return list(self.learning_rates) or [own]

    # -- the contract of a stage ---------------------------------------------------------------------------

    def takes(self) -> dict[str, Port]:
        if not self.models:
            return {MODEL: Port(_KINDS, about=self.ports[MODEL].about)}
        return {f"models.{name}": Port(_KINDS, about=f"the model of the line {name}") for name in self.models}

    def place_of(self, port: str) -> tuple[str, ...]:
        return (MODEL,) if port == MODEL else ("models", port.partition(".")[2])

    def external_inputs(self, inputs: StageInputs) -> dict[str, str]:
        from luthier.data.sources.fingerprint import source_fingerprint

        found = {f"data of {task}": source_fingerprint(self.data_of(task)) for task in self.chosen()}
        return found | self.method.file_fingerprints()

    def check(self, inputs: StageInputs) -> None:
        from luthier.data.loading import load_data

        refusals = Refusals()
        for task in self.chosen():
            with refusals.next():
                load_data(self.data_of(task))
        refusals.raise_all()
