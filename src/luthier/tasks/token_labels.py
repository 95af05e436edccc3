"""Words with a label each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.data.schemas import LabelKind
from luthier.registry import TASKS
from luthier.tasks.base import Row
from luthier.tasks.words import TaskOnWords

if TYPE_CHECKING:
    from luthier.data.batches.encoders import Encoded, Encoder
    from luthier.data.task_data import TaskData
    from luthier.models.card import ModelCard
    from luthier.models.head_kinds import Head
    from luthier.tasks.running.judged import Judged
    from luthier.tasks.running.predicting import Predictions

# No entity, or a part of one: BIO, BIOES and BILOU.
_ENTITY = re.compile(r"O|[BIESLU](-.*)?")


@TASKS.register
class TokenLabels(TaskOnWords):
    """Labels words: (B, T, C) logits, of which those at the first sub-word of each word count."""

    name: ClassVar[str] = "token_labels"
    summary: ClassVar[str] = "words with a label each"
    label_column: ClassVar[str | None] = "tags"
    label_kind: ClassVar[LabelKind | None] = "classes"
    metrics: ClassVar[tuple[str, ...]] = ("seqeval_f1",)
    guess_rank: ClassVar[int | None] = 10
    head: ClassVar[Head | None] = "token_classification"

    def check_row(self, row: Mapping[str, Any]) -> list[tuple[str, str]]:
        if "tags" in row and len(row["tags"]) != len(row["tokens"]):
            return [("tags", f"has {len(row['tags'])} labels for {len(row['tokens'])} words")]
        return []

    def metrics_for(self, labels: Sequence[str]) -> tuple[str, ...]:
        """F1 of entities where the labels mark them, word by word else: seqeval would take any first letter for a mark,
        so that parts of speech would be joined, and confused ones be right."""
        return self.metrics if all(map(_ENTITY.fullmatch, labels)) else ("word_accuracy",)

    def encode(self, columns: Mapping[str, Sequence[Any]], encoder: Encoder) -> Encoded:
        from luthier.data.batches.encoders import encode_words

        return encode_words(columns, encoder)

    def outputs(self, out: Any, batch: Mapping[str, Any], *, shifted: bool) -> Iterator[dict[str, Any]]:
        from luthier.tasks.running.predicting import token_scores

        labels = batch.get("labels")
        logits = out.logits.float()[:, -batch["input_ids"].shape[1] :]
        for i, mask in enumerate(batch["attention_mask"].bool()):
            scores = token_scores(logits[i][mask], None if labels is None else labels[i][mask])
            yield {"logits": logits[i][mask].cpu().numpy()} | scores

    def judge(self, predictions: Predictions, data: TaskData, examples: Any, rows: Any) -> Judged | None:
        from luthier.tasks.running.judged import judged_tags

        return judged_tags(predictions, data.labels)

    def prior(self, data: TaskData) -> dict[str, Any]:
        from luthier.tasks.running.priors import prior_of_classes, training_labels

        return prior_of_classes([tag for row in training_labels(data.splits, "tags") for tag in row], data.labels)

    def by_prior(self, prior: Mapping[str, Any], predictions: Predictions, data: TaskData) -> Predictions | None:
        from luthier.tasks.running.priors import class_scores, predicted_tags

        scores = class_scores(prior, data.labels)
        return None if scores is None else predicted_tags(scores, predictions)

    def told_prior(self, prior: Mapping[str, Any]) -> str:
        return f"always {max(prior['shares'], key=prior['shares'].get)!r}"

    def describe(self, predictions: Predictions, rows: Sequence[Row], encoded: Any, card: ModelCard) -> list[Row]:
        names, described = card.labels or [], []
        for row, logits, starts in zip(rows, predictions.logits, encoded["word_starts"], strict=True):
            labels = [names[int(logits[start].argmax())] if start >= 0 else None for start in starts]
            described.append(self.shown(row) | {"labels": labels})
        return described
