"""One text or two a row, with a number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.data.schemas import LabelKind
from luthier.registry import TASKS
from luthier.tasks.as_text import TextPosable
from luthier.tasks.base import Row

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.data.batches.collating import Padding
    from luthier.data.batches.encoders import Encoded, Encoder
    from luthier.data.task_data import TaskData
    from luthier.models.card import ModelCard
    from luthier.models.head_kinds import Head
    from luthier.tasks.running.judged import Judged
    from luthier.tasks.running.predicting import Predictions


@TASKS.register
class Regression(TextPosable):
    """Gives texts a score: (B, 1) logits, learned by their squared error."""

    name: ClassVar[str] = "regression"
    summary: ClassVar[str] = "texts, or pairs of them, with a number each"
    columns: ClassVar[tuple[str, ...]] = ("text",)
    optional: ClassVar[tuple[str, ...]] = ("text_pair",)
    label_column: ClassVar[str | None] = "label"
    label_kind: ClassVar[LabelKind | None] = "score"
    metrics: ClassVar[tuple[str, ...]] = ("pearson", "spearman")
    prompt_columns: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    streamed: ClassVar[bool] = True
    head: ClassVar[Head | None] = "sequence_classification"

    def head_arguments(self, labels: Sequence[str]) -> dict[str, Any]:
        return {"regression": True, "num_labels": 1}

    def encode(self, columns: Mapping[str, Sequence[Any]], encoder: Encoder) -> Encoded:
        from luthier.data.batches.encoders import encode_texts

        return encode_texts(columns, encoder)

    def collate(self, rows: Sequence[Mapping[str, Any]], padding: Padding) -> dict[str, Tensor]:
        from luthier.data.batches.collating import padded_inputs, padded_labels

        return padded_inputs(rows, padding) | padded_labels(rows, padding, numbers=True)

    def loss(self, logits: Any, batch: Mapping[str, Any], *, items: float, shifted: bool = False) -> Tensor:
        from luthier.tasks.running.losses import squared_error

        return squared_error(logits, batch["labels"]) / items

    def outputs(self, out: Any, batch: Mapping[str, Any], *, shifted: bool) -> Iterator[dict[str, Any]]:
        from torch.nn import functional as F

        from luthier.tasks.running.predicting import sequence_outputs

        logits, labels = out.logits.float(), batch.get("labels")
        logits = logits.reshape(len(batch["input_ids"]), -1)
        losses = None
        if labels is not None:
            losses = F.mse_loss(logits[:, 0], labels.float().reshape(-1), reduction="none")
        return sequence_outputs(logits, labels, losses)

    def judge(self, predictions: Predictions, data: TaskData, examples: Any, rows: Any) -> Judged | None:
        from luthier.tasks.running.judged import Judged

        return Judged(predictions.labels.astype(float), predictions.logits[:, 0])

    def prior(self, data: TaskData) -> dict[str, Any]:
        from luthier.tasks.running.priors import prior_of_numbers, training_labels

        return prior_of_numbers(training_labels(data.splits, "label"))

    def by_prior(self, prior: Mapping[str, Any], predictions: Predictions, data: TaskData) -> Predictions | None:
        from luthier.tasks.running.priors import predicted_numbers

        if "mean" not in prior or predictions.labels is None:
            return None
        return predicted_numbers(float(prior["mean"]), predictions)

    def told_prior(self, prior: Mapping[str, Any]) -> str:
        return f"always the mean {prior['mean']:.4g}"

    def describe(self, predictions: Predictions, rows: Sequence[Row], encoded: Any, card: ModelCard) -> list[Row]:
        pairs = zip(rows, predictions.logits, strict=True)
        return [self.shown(row) | {"score": float(logits[0])} for row, logits in pairs]
