"""Texts, or pairs of them, with any number of classes each, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.data.rows.canonical import BadCellError, as_label, is_multi_hot, list_cell
from luthier.data.rows.labels import spelled_as
from luthier.data.schemas import LabelKind
from luthier.data.table import is_missing, shorten
from luthier.registry import TASKS
from luthier.tasks.base import Row, Task

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.data.batches.collating import Padding
    from luthier.data.batches.encoders import Encoded, Encoder
    from luthier.data.task_data import TaskData
    from luthier.models.card import ModelCard
    from luthier.models.head_kinds import Head
    from luthier.report.sections import Section
    from luthier.tasks.running.judged import Judged
    from luthier.tasks.running.predicting import Predictions


# Classes that a constant answer names, at most.
_NAMED = 5


@TASKS.register
class MultiLabel(Task):
    """Says of every class whether a text is of it: (B, C) logits, each of a yes or no of its own.

    A cell holds a list of labels, the JSON text of one, or labels parted by commas; an empty one holds none. Or every
    class has a column of 0 and 1. The loss is the binary cross-entropy, the mean over texts and classes; a class is
    told where its probability is above 0.5.
    """

    name: ClassVar[str] = "multi_label"
    summary: ClassVar[str] = "texts, or pairs of them, with any number of classes each"
    columns: ClassVar[tuple[str, ...]] = ("text",)
    optional: ClassVar[tuple[str, ...]] = ("text_pair",)
    label_column: ClassVar[str | None] = "label"
    label_kind: ClassVar[LabelKind | None] = "own"
    tells_labels: ClassVar[bool] = True
    labels_by_column: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("micro_f1", "macro_f1", "subset_accuracy")
    head: ClassVar[Head | None] = "sequence_classification"

    # -- rows ----------------------------------------------------------------------------------------------

    def cells(self) -> Mapping[str, Callable[[Any], Any]]:
        return {"label": _as_labels}

    def labels_of(self, row: Mapping[str, Any]) -> list[str]:
        return list(row.get("label") or ())

    def known_as(self, label: str, labels: Sequence[str]) -> str | None:
        return spelled_as(label, labels)

    def arrow_types(self) -> Mapping[str, Any]:
        import pyarrow

        return {"label": pyarrow.list_(pyarrow.string())}

    def head_arguments(self, labels: Sequence[str]) -> dict[str, Any]:
        several = {"config_overrides": {"problem_type": "multi_label_classification"}}
        return {"labels": list(labels), **several} if labels else {}

    # -- learning ------------------------------------------------------------------------------------------

    def encode(self, columns: Mapping[str, Sequence[Any]], encoder: Encoder) -> Encoded:
        """`labels` are (C,) lists of 0 and 1."""
        from luthier.data.batches.encoders import encode_texts

        told = columns.get("label")
        if told is not None:
            meant = {label: spelled_as(label, encoder.labels) for label in set().union(*told)}
            rows = [{meant[label] for label in labels} for labels in told]
            columns = {**columns, "label": [[int(one in row) for one in encoder.labels] for row in rows]}
        return encode_texts(columns, encoder)

    def collate(self, rows: Sequence[Mapping[str, Any]], padding: Padding) -> dict[str, Tensor]:
        import torch

        from luthier.data.batches.collating import padded_inputs

        if "labels" not in rows[0]:
            return padded_inputs(rows, padding)
        labels = torch.tensor([row["labels"] for row in rows], dtype=torch.float32)
        return padded_inputs(rows, padding) | {"labels": labels}

    def loss(self, logits: Any, batch: Mapping[str, Any], *, items: float, shifted: bool = False) -> Tensor:
        from torch.nn import functional as F

        labels = batch["labels"].to(logits.device)
        exact = logits if logits.dtype == labels.dtype else logits.float()
        return F.binary_cross_entropy_with_logits(exact, labels.to(exact.dtype), reduction="sum") / items

    # -- answers -------------------------------------------------------------------------------------------

    def outputs(self, out: Any, batch: Mapping[str, Any], *, shifted: bool) -> Iterator[dict[str, Any]]:
        from torch.nn import functional as F

        logits, labels = out.logits.float(), batch.get("labels")
        losses = None
        if labels is not None:
            losses = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none").sum(dim=1)
        for i, row in enumerate(logits):
            yield {
                "logits": row.cpu().numpy(),
                "label": None if labels is None else labels[i].cpu().numpy().astype(int),
                "nll": 0.0 if losses is None else losses[i].item(),
                "items": logits.shape[1],
            }

    def judge(self, predictions: Predictions, data: TaskData, examples: Any, rows: Any) -> Judged | None:
        """Gold and guess are (N, C), of 0 and 1."""
        from luthier.tasks.running.judged import Judged

        return Judged(predictions.labels, _told(predictions))

    def own_metrics(self) -> Mapping[str, Callable[[Any, Any], float]]:
        from luthier.tasks.running.several import SCORES

        return SCORES

    def own_statistics(self, judged: Judged) -> Mapping[str, Callable[[Any], Any]]:
        from luthier.tasks.running.several import drawn_scores

        return drawn_scores(judged.gold, judged.guess)

    def sections(
        self, predictions: Predictions, data: TaskData, split: str, rows: Any, config: Any
    ) -> list[Section] | None:
        from luthier.tasks.running.several import sections

        if predictions.labels is None or not len(predictions.labels):
            return []
        return sections(predictions.labels, _told(predictions), data.labels)

    # -- what is known without a look at the rows ------------------------------------------------------------

    def prior(self, data: TaskData) -> dict[str, Any]:
        from luthier.tasks.running.priors import training_labels

        told = [set(labels) for labels in training_labels(data.splits, "label")]
        if not told:
            return {}
        return {"rows": len(told), "shares": {one: sum(one in row for row in told) / len(told) for one in data.labels}}

    def by_prior(self, prior: Mapping[str, Any], predictions: Predictions, data: TaskData) -> Predictions | None:
        from luthier.tasks.running.several import predicted_by_shares

        shares = prior.get("shares")
        if not isinstance(shares, Mapping) or not set(data.labels) <= shares.keys() or predictions.labels is None:
            return None
        return predicted_by_shares([shares[one] for one in data.labels], int(prior["rows"]), predictions)

    def told_prior(self, prior: Mapping[str, Any]) -> str:
        from luthier.tasks.running.several import best_constant

        names, chosen = list(prior["shares"]), best_constant(list(prior["shares"].values()))
        told = [name for name, one in zip(names, chosen, strict=True) if one]
        more = f" and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
        return f"always {', '.join(map(repr, told[:_NAMED]))}{more}"

    # -- answers in words ------------------------------------------------------------------------------------

    def describe(self, predictions: Predictions, rows: Sequence[Row], encoded: Any, card: ModelCard) -> list[Row]:
        import numpy as np

        names = card.labels or [str(i) for i in range(predictions.logits.shape[1])]
        shares = 1 / (1 + np.exp(-predictions.logits.astype(np.float64)))
        return [
            self.shown(row)
            | {"labels": [name for name, logit in zip(names, logits, strict=True) if logit > 0]}
            | {"probabilities": {name: round(float(p), 6) for name, p in zip(names, some, strict=True)}}
            for row, logits, some in zip(rows, predictions.logits, shares, strict=True)
        ]


def _told(predictions: Predictions) -> Any:
    """(N, C) of 0 and 1."""
    return (predictions.logits > 0).astype(int) if predictions.guesses is None else predictions.guesses


def _as_labels(value: Any) -> list[str]:
    """The labels of a cell, each once, in their order."""
    if isinstance(value, str):
        value = _parted(value.strip())
    elif is_missing(value):
        value = []
    if not isinstance(value, list | tuple):
        raise BadCellError(f"holds {shorten(value)}, which is no list of labels")
    if is_multi_hot(value):
        raise BadCellError(
            f"holds {shorten(value)}, a 0 or 1 for each class: write the labels' names, or give each class a column"
        )
    return list(dict.fromkeys(as_label(one) for one in value))


def _parted(text: str) -> Any:
    if not text.startswith("["):
        return [one for one in text.split(",") if one.strip()]
    return list_cell(text)
