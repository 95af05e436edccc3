"""What an evaluation suite looks at, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.data.schemas import LabelKind
from luthier.errors import DataError
from luthier.evaluation.meters import CostMeter
from luthier.progress import track
from luthier.report.sections import Section
from luthier.settings import Paper, Settings

if TYPE_CHECKING:
    from luthier.data.settings import DataSettings
    from luthier.data.task_data import TaskData
    from luthier.evaluation.baselines import Baseline
    from luthier.evaluation.prediction import Predictions
    from luthier.evaluation.scoring import TaskResult
    from luthier.models.artifacts import ModelCard
    from luthier.models.settings import ModelSettings


@dataclass
class Subject:
    """A model with the data it is judged on.

    Attributes:
        model, tokenizer, card: as loaded from an artefact.
        task: the data, with its labels and metric names.
        split: the split that is scored.
        batch_size: rows in one forward pass.
        seed: of bootstrap draws.
        folder: of the model's artefact.
        too_long: what happens to rows that are too long, `error` or `truncate`.
        prior: what the labels of the training rows tell of any row; see `Task.prior`.
        untuned: the model that this one was made from, where its scores are to stand beside; else None.
        meter: measures the pass that `predictions` come from.
    """

    model: Any
    tokenizer: Any
    card: ModelCard
    task: TaskData
    split: str
    batch_size: int
    seed: int
    folder: Path
    too_long: str = "error"
    prior: Mapping[str, Any] = field(default_factory=dict)
    untuned: ModelSettings | None = None
    meter: CostMeter = field(default_factory=CostMeter)

    @property
    def schema(self) -> str:
        return str(self.task.schema.name)

    @cached_property
    def rows(self) -> Any:
        """The encoded rows of the split."""
        return self.encode(self.task, self.split)

    @cached_property
    def predictions(self) -> Predictions:
        """The model's outputs on the split, computed once for all suites."""
        rows = self.rows
        with self.meter:
            return self.predict(rows)

    def result(self, draws: int = 1000) -> TaskResult:
        """The task's scores, with their intervals and the trivial baseline beside them.

        Args:
            draws: of the bootstrap.
        """
        from luthier.evaluation.scoring import task_result

        arguments = (self.predictions, self.task, self.split, self.rows)
        return task_result(*arguments, prior=self.prior, unigram=self._unigram(), draws=draws)

    def _unigram(self) -> Predictions | None:
        """What the shares of tokens in the first training rows give, where text itself is learned and there are any."""
        from luthier.evaluation.unigram import predicted_tokens
        from luthier.tasks.base import task_of

        kind: Any = task_of(self.task)
        shares = self.token_shares()
        if shares is None:
            return None
        shifted = kind.predicts_next_token(self.model.config)
        return predicted_tokens(shares, self.rows, self.predictions, shifted=shifted)

    def token_shares(self) -> Any:
        """(V,) log-share of every token in the first training rows; None where no text itself is learned, or there are
        no training rows."""
        from luthier.evaluation.unigram import MOST_ROWS, log_shares
        from luthier.tasks.base import task_of

        train: Any = self.task.splits.get("train")
        if not task_of(self.task).language or self.task.form is not None or not getattr(train, "column_names", None):
            return None
        some = train.select(range(min(MOST_ROWS, len(train))))
        task = replace(self.task, splits={"train": some})
        encoded = self.encode(task, "train", too_long="truncate")
        return log_shares(encoded["labels"], self.model.get_input_embeddings().weight.shape[0])

    def encode(self, task: TaskData, split: str, *, named: str | None = None, too_long: str | None = None) -> Any:
        """Encode a split of any data as the model was trained to see it; without a text form of its own, it is posed
        in that of the data that are judged on.

        Args:
            task: the data.
            split: of it.
            named: what messages call the rows.
            too_long: what happens to rows that are too long; None is what happens to those that are judged on.
        """
        from luthier.data.batches.encoding import encode
        from luthier.models.inspect import is_encoder_decoder, model_max_length

        if task.form is None and self.task.form is not None:
            task = replace(task, form=self.task.form)
        encoded = encode(
            task,
            self.tokenizer,
            max_length=self.card.max_length or model_max_length(self.model.config, self.tokenizer) or 512,
            reserved=self.card.reserved_tokens,
            too_long=too_long or self.too_long,
            encoder_decoder=is_encoder_decoder(self.model.config),
            splits=(split,),
            named=named,
        )
        return encoded[split]

    def predict(self, rows: Any) -> Predictions:
        """Run the model over encoded rows, with a progress bar."""
        with track(f"evaluating on {self.split}", len(rows)) as bar:
            return self.forward(rows, bar.update)

    def forward(self, rows: Any, on_batch: Callable[[int], None] | None = None) -> Predictions:
        """Run the model over encoded rows."""
        from luthier.evaluation.prediction import predict_task

        return predict_task(self.model, rows, self.task, self.tokenizer, batch_size=self.batch_size, on_batch=on_batch)


@dataclass
class SuiteResult:
    """Scores of one suite, and what the page shows beside them. Names carry no split; the stage adds it.

    Attributes:
        scores, intervals: by name.
        baselines: the trivial baseline beside the scores that have one.
        untuned: scores of the model that the judged one was made from, where the suite asks it itself.
        marks: what a reader must not miss of a model that learned nothing, in words.
        about: score -> what its name leaves out.
        cost: by name.
        details: in JSON's types.
        sections: of the page.
    """

    scores: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    baselines: dict[str, Baseline] = field(default_factory=dict)
    untuned: dict[str, float] = field(default_factory=dict)
    marks: list[str] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    sections: list[Section] = field(default_factory=list)


class Suite(Settings):
    """One view on a model. Registered with `@SUITES.register`.

    Attributes:
        label_kinds: the kinds of labels that it fits, None for text that is learned itself; or None for every task.
        needs_probabilities: whether it takes the probabilities of classes or choices.
        language_heads: of a model without the head of a task, the language-model heads that it can judge; None for all.
        runs_first: whether it runs before the others, as one does that measures the pass whose outputs all of them use.
    """

    name: str
    summary: ClassVar[str] = ""
    paper: ClassVar[Paper | None] = None
    label_kinds: ClassVar[tuple[LabelKind | None, ...] | None] = None
    needs_probabilities: ClassVar[bool] = False
    language_heads: ClassVar[tuple[str, ...] | None] = ("causal_lm", "seq2seq_lm")
    runs_first: ClassVar[bool] = False

    def scored(self) -> list[str]:
        """What its scores are of, in words; no two suites of a stage score the same."""
        return [f"the suite {self.name}"]

    def sources(self) -> list[DataSettings]:
        """Data that the suite reads beside the evaluated split; they are part of the stage's key."""
        return []

    def external_inputs(self) -> dict[str, str]:
        """Other files that the suite reads, by name, with their digests; they are part of the stage's key."""
        return {}

    def planned(self, texts: Sequence[str], tokenizer: Any) -> dict[str, str]:
        """What a dry run tells of the suite, for one of plain text.

        Args:
            texts: that would be judged.
            tokenizer: of the model.
        """
        return {}

    def fewest_rows(self) -> tuple[int, str]:
        """How many rows the evaluated split has to have, and the setting that asks for them; 0 where any will do."""
        return 0, ""

    def check_count(self, named: str, rows: int) -> None:
        """Raises:
        DataError: rows, of what is named so, are too few.
        """
        fewest, setting = self.fewest_rows()
        if rows < fewest:
            raise DataError(
                f"{named} has {rows} rows, and `{setting}` needs {fewest}",
                fix=f"give more rows, or leave `{setting}` out",
            )

    def check(self, data: DataSettings) -> None:
        """Find what is wrong with the suite's own data before anything is trained.

        Args:
            data: settings of the data that are judged on.

        Raises:
            DataError, RecipeError: what `run` would raise.
        """

    def run(self, subject: Subject) -> SuiteResult:
        """Judge the subject."""
        raise TypeError(f"{type(self).__name__} does not define run()")

    @classmethod
    def shown(cls, details: Any) -> list[Section]:
        """What the page of a run shows of what the suite left under its own name in `details`."""
        return []

    @classmethod
    def across(cls, found: Mapping[str, Sequence[Any]], baseline: str) -> list[Section]:
        """What the suite tells about several models together, as sections of a comparison's page.

        Args:
            found: line of the comparison -> what the suite left under its own name in `details`, once for every seed.
            baseline: the line that the others are compared with.
        """
        return []
