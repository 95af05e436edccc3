"""The contract of a task: what its examples are, and all that differs between tasks when a model learns and answers.

Nothing here imports torch; tasks import it inside their methods. A task is registered with `@TASKS.register`.

Shapes: B examples, N rows, T tokens, C classes or choices.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from pydantic import ValidationError

from luthier.data.schemas import SCHEMAS, TaskSchema
from luthier.errors import RecipeError, nearest
from luthier.models.head_kinds import peft_task_type
from luthier.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from luthier.data.batches.collating import Padding
    from luthier.data.task_data import TaskData
    from luthier.data.text_form import TextForm
    from luthier.models.card import ModelCard
    from luthier.models.head_kinds import Head
    from luthier.report.sections import Section
    from luthier.tasks.running.judged import Judged
    from luthier.tasks.running.predicting import Predictions

Row = dict[str, Any]
_SHOWN = ("text", "text_pair", "question", "context", "choices")


class Task(TaskSchema):
    """One kind of task.

    Attributes:
        summary: what a model does, in a few words.
        head: which head of a model serves it, by its registered name (`luthier.models.head_kinds`).
        head_settings: `module:Class` of the settings that the head has, empty where it has none.
        language: whether the text itself is learned, by a language model's own head.
        targets: entries of a batch that are learned, and kept from the model.
        one_pass: whether the model sees each row as one text, so that what a frozen trunk gives can be kept by row.
        one_output: whether the outputs of all rows have one shape, and each has one label.
        gives_probabilities: whether the softmax of a row's logits are the probabilities of its classes or choices.
        form: how the task is posed as text, or None.
    """

    summary: ClassVar[str] = ""
    head: ClassVar[Head | None] = None
    head_settings: ClassVar[str] = ""
    language: ClassVar[bool] = False
    targets: ClassVar[tuple[str, ...]] = ("labels",)
    one_pass: ClassVar[bool] = True
    one_output: ClassVar[bool] = True
    gives_probabilities: ClassVar[bool] = False
    form: TextForm | None = None

    # -- the model -----------------------------------------------------------------------------------------

    def head_on(self, config: Any) -> Head:
        """The head that the task needs on a model with this configuration."""
        if self.head is None:
            raise TypeError(f"{type(self).__name__} names no head")
        return self.head

    def peft_type(self, config: Any) -> str:
        """PEFT's task type on a model with this configuration."""
        return peft_task_type(self.head_on(config))

    def head_arguments(self, labels: Sequence[str]) -> dict[str, Any]:
        """What a new head has to know, as arguments of `luthier.models.artifacts.load_model`."""
        return {"labels": list(labels)} if labels else {}

    def settings_of_head(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Checked settings of the task's head, as further fields of the model's configuration.

        Raises:
            RecipeError: the head has no such settings.
        """
        if not self.head_settings:
            raise RecipeError(f"the head of {self.name} has no settings", fix="leave `head` out")
        made = settings_class(self.head_settings)
        try:
            checked = made.model_validate(dict(settings))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            guess = nearest(key, list(made.model_fields))
            hint = f"did you mean {guess!r}?" if guess and key not in made.model_fields else f"correct `{key}`"
            raise RecipeError(f"`{key}` of the head of {self.name}: {first['msg']}; {hint}") from error
        return checked.model_dump(include=set(settings))

    def predicts_next_token(self, config: Any) -> bool:
        """Whether the model's output at position t is scored against the label at t + 1."""
        return False

    # -- training ------------------------------------------------------------------------------------------

    def collate(self, rows: Sequence[Mapping[str, Any]], padding: Padding) -> dict[str, Tensor]:
        from luthier.data.batches.collating import padded_inputs, padded_labels

        return padded_inputs(rows, padding) | padded_labels(rows, padding)

    def items(self, batch: Mapping[str, Any], *, shifted: bool = False) -> float:
        """How many labelled items a batch holds, or what they weigh, which the loss of an optimiser step is divided by.

        Args:
            batch: collated, with what is learned.
            shifted: whether position t predicts token t + 1.
        """
        from luthier.tasks.running.losses import labels_that_count

        return labels_that_count(batch["labels"], shifted=shifted)

    def logits(self, outputs: Any) -> Any:
        """What of a model's outputs the loss takes."""
        return outputs.logits

    def loss(self, logits: Any, batch: Mapping[str, Any], *, items: float, shifted: bool = False) -> Tensor:
        """The summed loss of a batch divided by `items`, a scalar in float32.

        Args:
            logits: (B, C), or (B, P + T, C) with P prompt positions in front where tokens are labelled.
            batch: as in `items`.
            items: of the whole optimiser step.
            shifted: as in `items`.
        """
        from luthier.tasks.running.losses import label_loss

        return label_loss(logits, batch["labels"], shifted=shifted) / items

    # -- answers -------------------------------------------------------------------------------------------

    def predict(
        self,
        model: nn.Module,
        rows: Any,
        tokenizer: Any,
        *,
        batch_size: int = 64,
        on_batch: Callable[[int], None] | None = None,
    ) -> Predictions:
        """What a model answers for encoded rows; see `luthier.tasks.running.predicting.predict_rows`."""
        from luthier.data.batches.collating import make_collator
        from luthier.tasks.running.predicting import predict_rows

        shifted = self.predicts_next_token(model.config)
        collator = make_collator(self, tokenizer)
        return predict_rows(model, rows, collator, self, batch_size=batch_size, shifted=shifted, on_batch=on_batch)

    def outputs(self, out: Any, batch: Mapping[str, Any], *, shifted: bool) -> Iterator[dict[str, Any]]:
        """What is kept of each of B rows: `logits`; `label`, or None; `nll`, its summed negative log-likelihood; and
        `items`, how many labels that is over.

        Args:
            out: what the model returned.
            batch: without `row`; with what is learned, or without.
            shifted: whether position t predicts token t + 1.
        """
        raise TypeError(f"{type(self).__name__} does not define outputs()")

    def judge(self, predictions: Predictions, data: TaskData, examples: Any, rows: Any) -> Judged | None:
        """Gold labels and the model's answers, in the form that the task's metrics take; None where the text itself
        is learned, which is scored by its likelihood.

        Args:
            predictions: of the model.
            data: with the names of labels and metrics.
            examples: rows in canonical columns.
            rows: the same ones, encoded.
        """
        raise TypeError(f"{type(self).__name__} does not define judge()")

    def settle(self, model: nn.Module, data: TaskData, rows: Any, tokenizer: Any, *, batch_size: int = 64) -> Row:
        """Choose what is chosen for a trained model on its validation rows, such as thresholds, and put it into the
        model.

        Args:
            model: trained, with the best weights.
            data: with the split `validation`.
            rows: that split, encoded.
            tokenizer: of the model.
            batch_size: rows in one forward pass.

        Returns:
            What was chosen, in JSON's types, for `details` in metrics.json; empty where the model is as it was.
        """
        return {}

    def own_metrics(self) -> Mapping[str, Callable[[Any, Any], float]]:
        """Name -> (gold, guess) -> score, of metrics that `luthier.evaluation.metrics` lacks."""
        return {}

    def sections(
        self, predictions: Predictions, data: TaskData, split: str, rows: Any, config: Any
    ) -> list[Section] | None:
        """What the page shows of the answers, beside the scores; None shows what `luthier.evaluation.breakdown` finds.

        Args:
            predictions: of the model.
            data: with the names of labels, and all splits.
            split: that was predicted.
            rows: its encoded rows.
            config: of the model.
        """
        return None

    def own_statistics(self, judged: Judged) -> Mapping[str, Callable[[Any], Any]]:
        """Name -> (D, N) how often each of N questions is drawn -> (D,) scores, of metrics of its own that can be had
        for many draws at once; the others are computed draw by draw."""
        return {}

    # -- what is known without a look at the rows ------------------------------------------------------------

    def prior(self, data: TaskData) -> dict[str, Any]:
        """What the labels of the training rows tell about any row, in JSON's types; see
        `luthier.tasks.running.priors`. Empty where there are none, or they tell nothing of other rows."""
        return {}

    def by_prior(self, prior: Mapping[str, Any], predictions: Predictions, data: TaskData) -> Predictions | None:
        """What would be predicted for the rows of some predictions by the prior alone; None where it tells nothing."""
        return None

    def told_prior(self, prior: Mapping[str, Any]) -> str:
        """What is always answered by the prior, in words: "always 'negative'"."""
        return ""

    # -- answers in words ------------------------------------------------------------------------------------

    def describe(self, predictions: Predictions, rows: Sequence[Row], encoded: Any, card: ModelCard) -> list[Row]:
        """What is told about each row: what the model was shown of it, and its answer, ready for JSON.

        Args:
            predictions: of the model.
            rows: canonical columns, and `row`.
            encoded: the same rows.
            card: of the model, with the names of its labels.
        """
        raise TypeError(f"{type(self).__name__} does not define describe()")

    def shown(self, row: Row) -> Row:
        """What the model is shown of a row."""
        names = dict.fromkeys((*_SHOWN, *self.columns, *self.optional))
        return {name: row[name] for name in names if row.get(name) is not None}

    def row_of_text(self, column: str, text: str, number: int) -> Row | None:
        """A row whose only column holds a text that the user gave; None where a text can't stand for it.

        Args:
            column: the canonical column.
            text: what the user gave.
            number: of the text, from 1, for messages.

        Raises:
            DataError: the text can't be read as such a row.
        """
        return {column: text} if column in ("text", "prompt") else None

    def answer_rows(
        self, model: nn.Module, tokenizer: Any, card: ModelCard, rows: list[Row], *, longest: int, batch_size: int = 64
    ) -> list[Row]:
        """Answer rows with a saved model, one `describe`d answer for each, in their order.

        Args:
            model, tokenizer, card: of the saved model.
            rows: canonical columns, and `row`, from 1 in their order.
            longest: tokens that the model may be shown.
            batch_size: rows in one forward pass.
        """
        from luthier.data.batches.encoding import encode_rows
        from luthier.models.inspect import is_encoder_decoder
        from luthier.progress import track

        encoded = encode_rows(
            rows,
            self.name,
            tokenizer,
            max_length=longest,
            reserved=card.reserved_tokens,
            too_long="truncate",
            encoder_decoder=is_encoder_decoder(model.config),
            form=self.form,
        )
        with track("predicting", len(encoded)) as bar:
            predictions = self.predict(model, encoded, tokenizer, batch_size=batch_size, on_batch=bar.update)
        return self.describe(predictions, rows, encoded, card)


def settings_class(place: str) -> type[Settings]:
    """The class that `module:Class` names."""
    module, _, name = place.partition(":")
    found: type[Settings] = getattr(importlib.import_module(module), name)
    return found


def task_named(name: str, form: TextForm | None = None) -> Task:
    """The task of that name, posed as text where there is a form.

    Raises:
        RecipeError: there is none; names the nearest one.
    """
    schema = SCHEMAS[name]
    return cast(Task, schema if form is None else schema.posed_as(form))


def task_of(data: TaskData) -> Task:
    """The task of checked examples, as a model meets it."""
    return cast(Task, data.kind)
