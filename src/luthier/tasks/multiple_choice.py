"""A text with choices, of which one is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.data.schemas import LabelKind
from luthier.registry import TASKS
from luthier.tasks.classes import ClassTask

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.data.batches.collating import Padding
    from luthier.data.batches.encoders import Encoded, Encoder
    from luthier.data.task_data import TaskData
    from luthier.models.head_kinds import Head
    from luthier.tasks.running.predicting import Predictions


@TASKS.register
class MultipleChoice(ClassTask):
    """Picks one of a row's own choices: (B, C, T) inputs and (B, C) logits."""

    name: ClassVar[str] = "multiple_choice"
    summary: ClassVar[str] = "texts with choices, one of which is right"
    columns: ClassVar[tuple[str, ...]] = ("context", "choices")
    label_kind: ClassVar[LabelKind | None] = "choice"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    prompt_columns: ClassVar[tuple[str, ...]] = ("choices", "context")
    guess_rank: ClassVar[int | None] = 30
    scored_as: ClassVar[str | None] = None
    streamed: ClassVar[bool] = False
    head: ClassVar[Head | None] = "multiple_choice"
    one_pass: ClassVar[bool] = False

    def head_arguments(self, labels: Sequence[str]) -> dict[str, Any]:
        return {}

    def encode(self, columns: Mapping[str, Sequence[Any]], encoder: Encoder) -> Encoded:
        from luthier.data.batches.encoders import encode_choices

        return encode_choices(columns, encoder)

    def collate(self, rows: Sequence[Mapping[str, Any]], padding: Padding) -> dict[str, Tensor]:
        from luthier.data.batches.collating import padded_choices, padded_labels

        return padded_choices(rows, padding) | padded_labels(rows, padding)

    def prior(self, data: TaskData) -> dict[str, Any]:
        from luthier.tasks.running.priors import prior_of_choices, training_labels

        return prior_of_choices(training_labels(data.splits, "label"))

    def by_prior(self, prior: Mapping[str, Any], predictions: Predictions, data: TaskData) -> Predictions | None:
        from luthier.tasks.running.priors import class_scores, predicted_classes

        if predictions.logits is None or predictions.labels is None:
            return None
        scores = class_scores(prior, [str(place) for place in range(predictions.logits.shape[1])])
        return None if scores is None else predicted_classes(scores, predictions)

    def told_prior(self, prior: Mapping[str, Any]) -> str:
        shares = list(prior["shares"])
        return f"always choice {shares.index(max(shares)) + 1}"
