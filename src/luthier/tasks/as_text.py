"""A task that is posed as text: a language model reads a prompt and answers with the text of a label."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.data.text_form import REPLIES, TextForm
from luthier.tasks.base import Row, Task
from luthier.tasks.language import LanguageTask

if TYPE_CHECKING:
    from torch import nn

    from luthier.data.batches.encoders import Encoded, Encoder
    from luthier.data.task_data import TaskData
    from luthier.models.card import ModelCard
    from luthier.tasks.running.judged import Judged
    from luthier.tasks.running.predicting import Predictions


class TextPosable(Task):
    """A task that can be posed as text: it has `prompt_columns`."""

    def posed_as(self, form: TextForm) -> Task:
        return AsText(self, form)


class AsText(LanguageTask):
    """Another task in a text form. It learns like prompts with responses, and is judged and told like the other.

    Args:
        task: what is asked.
        form: the prompt, and the text of each label.
    """

    name: str  # type: ignore[misc]
    summary: str  # type: ignore[misc]
    columns: tuple[str, ...]  # type: ignore[misc]
    metrics: tuple[str, ...]  # type: ignore[misc]
    form: TextForm
    gives_probabilities: bool  # type: ignore[misc]

    def __init__(self, task: Task, form: TextForm) -> None:
        self.task, self.form = task, form
        self.gives_probabilities = task.gives_probabilities and form.scoring == "likelihood"
        for attribute in _ITS_OWN:
            setattr(self, attribute, getattr(task, attribute))

    @property
    def fed_as(self) -> str:
        return REPLIES

    def encode(self, columns: Mapping[str, Sequence[Any]], encoder: Encoder) -> Encoded:
        from luthier.data.batches.label_text import encode_label_texts

        return encode_label_texts(columns, encoder)

    def predict(
        self,
        model: nn.Module,
        rows: Any,
        tokenizer: Any,
        *,
        batch_size: int = 64,
        on_batch: Callable[[int], None] | None = None,
    ) -> Predictions:
        from luthier.tasks.running.label_scoring import predict_labels

        return predict_labels(model, rows, self.form, self.name, tokenizer, batch_size=batch_size, on_batch=on_batch)

    def judge(self, predictions: Predictions, data: TaskData, examples: Any, rows: Any) -> Judged | None:
        return self.task.judge(predictions, data, examples, rows)

    def own_metrics(self) -> Mapping[str, Callable[[Any, Any], float]]:
        return self.task.own_metrics()

    def prior(self, data: TaskData) -> dict[str, Any]:
        return self.task.prior(data)

    def by_prior(self, prior: Mapping[str, Any], predictions: Predictions, data: TaskData) -> Predictions | None:
        return self.task.by_prior(prior, predictions, data)

    def told_prior(self, prior: Mapping[str, Any]) -> str:
        return self.task.told_prior(prior)

    def describe(self, predictions: Predictions, rows: Sequence[Row], encoded: Any, card: ModelCard) -> list[Row]:
        if predictions.guesses is None:
            return self.task.describe(predictions, rows, encoded, card)
        pairs = zip(rows, predictions.guesses, predictions.extras["texts"], strict=True)
        return [self.shown(row) | {"label": self._label(guess), "response": text} for row, guess, text in pairs]

    def _label(self, guess: Any) -> str | None:
        labels = self.form.labels
        return labels[int(guess)] if labels and int(guess) >= 0 else None

    def answer_rows(
        self, model: nn.Module, tokenizer: Any, card: ModelCard, rows: list[Row], *, longest: int, batch_size: int = 64
    ) -> list[Row]:
        return Task.answer_rows(self, model, tokenizer, card, rows, longest=longest, batch_size=batch_size)


_ITS_OWN = ("name", "summary", "columns", "optional", "label_column", "label_kind", "metrics", "learned")
