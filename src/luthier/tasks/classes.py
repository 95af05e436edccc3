"""Tasks in which every row has one of several classes, or one of its own choices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.data.schemas import IGNORED, LabelKind
from luthier.tasks.as_text import TextPosable
from luthier.tasks.base import Row

if TYPE_CHECKING:
    from luthier.data.batches.encoders import Encoded, Encoder
    from luthier.data.task_data import TaskData
    from luthier.models.card import ModelCard
    from luthier.models.head_kinds import Head
    from luthier.tasks.running.judged import Judged
    from luthier.tasks.running.predicting import Predictions


class ClassTask(TextPosable):
    """What tasks of one class a text share."""

    label_column: ClassVar[str | None] = "label"
    label_kind: ClassVar[LabelKind | None] = "class"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1")
    scored_as: ClassVar[str | None] = "regression"
    streamed: ClassVar[bool] = True
    head: ClassVar[Head | None] = "sequence_classification"
    gives_probabilities: ClassVar[bool] = True

    def metrics_for(self, labels: Sequence[str]) -> tuple[str, ...]:
        of_two = len(labels) == 2 and self.metrics == ClassTask.metrics
        return ("accuracy", "f1") if of_two else self.metrics

    def encode(self, columns: Mapping[str, Sequence[Any]], encoder: Encoder) -> Encoded:
        from luthier.data.batches.encoders import encode_texts

        return encode_texts(columns, encoder)

    def outputs(self, out: Any, batch: Mapping[str, Any], *, shifted: bool) -> Iterator[dict[str, Any]]:
        from torch.nn import functional as F

        from luthier.tasks.running.predicting import sequence_outputs

        logits, labels = out.logits.float(), batch.get("labels")
        logits = logits.reshape(len(batch["input_ids"]), -1)
        losses = None
        if labels is not None:
            losses = F.cross_entropy(logits, labels.reshape(-1), reduction="none", ignore_index=IGNORED)
        return sequence_outputs(logits, labels, losses)

    def judge(self, predictions: Predictions, data: TaskData, examples: Any, rows: Any) -> Judged | None:
        from luthier.tasks.running.judged import judged_classes

        return judged_classes(predictions, examples, tuple(data.metrics))

    def prior(self, data: TaskData) -> dict[str, Any]:
        from luthier.tasks.running.priors import prior_of_classes, training_labels

        return prior_of_classes(training_labels(data.splits, "label"), data.labels)

    def by_prior(self, prior: Mapping[str, Any], predictions: Predictions, data: TaskData) -> Predictions | None:
        from luthier.tasks.running.priors import class_scores, predicted_classes

        scores = None if predictions.labels is None else class_scores(prior, data.labels)
        return None if scores is None else predicted_classes(scores, predictions)

    def told_prior(self, prior: Mapping[str, Any]) -> str:
        return f"always {max(prior['shares'], key=prior['shares'].get)!r}"

    def describe(self, predictions: Predictions, rows: Sequence[Row], encoded: Any, card: ModelCard) -> list[Row]:
        names = card.labels or [str(i) for i in range(predictions.logits.shape[1])]
        return [self.shown(row) | _classified(p, names) for row, p in zip(rows, predictions.probabilities, strict=True)]


def _classified(probabilities: Any, names: list[str]) -> dict[str, Any]:
    best = int(probabilities.argmax())
    shares = {name: round(float(p), 6) for name, p in zip(names, probabilities, strict=False)}
    return {
        "label": names[best],
        "probability": round(float(probabilities[best]), 6),
        "probabilities": shares,
    }
