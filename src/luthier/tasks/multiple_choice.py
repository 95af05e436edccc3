"""A text with choices, of which one is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.data.batches.encoders import Encoded, Encoder, encode_choices
from luthier.data.schemas import LabelKind
from luthier.registry import TASKS
from luthier.tasks.classes import ClassTask

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.data.batches.collating import Padding
    from luthier.models.head_kinds import Head


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
        return encode_choices(columns, encoder)

    def collate(self, rows: Sequence[Mapping[str, Any]], padding: Padding) -> dict[str, Tensor]:
        from luthier.data.batches.collating import padded_choices, padded_labels

        return padded_choices(rows, padding) | padded_labels(rows, padding)
