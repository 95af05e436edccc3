"""Runs a model over encoded rows and keeps what the scores need, in the order of the rows.

Shapes: N rows, C classes or choices, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from luthier.data.schemas import IGNORED, SCHEMAS
from luthier.storage.helping import each

if TYPE_CHECKING:
    from luthier.tasks.base import Task


@dataclass
class Predictions:
    """Outputs of a model over N rows.

    Attributes:
        schema: the task schema.
        logits: (N, C) float32 for classification, choices and regression (C = 1); per row (T, C) arrays for token
            labels; pairs of (T,) arrays for answers; empty for language models.
        labels: (N,) for classification, choices and regression; per row (T,) arrays for token labels.
        rows: (N,) row numbers in the source file.
        guesses: where a model wrote its answers: (N,) class ids, -1 for none of the labels, or texts; else None.
        nll, items: (N,) summed negative log-likelihood in nats, and how many labels it is over.
        tokens: input tokens fed through the model, padding not counted.
    """

    schema: str
    logits: Any
    labels: Any
    rows: np.ndarray
    nll: np.ndarray
    items: np.ndarray
    tokens: int = 0
    guesses: np.ndarray | None = None
    extras: dict[str, Any] = field(default_factory=dict)

    @property
    def probabilities(self) -> np.ndarray:
        """(N, C) softmax of the logits, in float64."""
        shifted = self.logits.astype(np.float64) - self.logits.max(axis=-1, keepdims=True)
        exponent = np.exp(shifted)
        return exponent / exponent.sum(axis=-1, keepdims=True)


def predict_rows(
    model: nn.Module,
    rows: Any,
    collator: Callable[[list[Any]], dict[str, Any]],
    schema: str | Task,
    *,
    batch_size: int = 64,
    shifted: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> Predictions:
    """Feed every row through the model once, longest rows first, in evaluation mode and without gradients. Other
    processes of the run take some of the batches where they help with this model (`luthier.storage.helping`).

    Args:
        model: on any device; returned to the mode it was in.
        rows: encoded rows with a `length` column.
        collator: list of rows -> batch.
        schema: the task, or its name.
        batch_size: rows in one forward pass.
        shifted: whether position t predicts token t + 1.
        on_batch: called with the number of rows done so far.
    """
    task = named_task(schema)
    was_training = model.training
    model.eval()
    order = np.argsort(-np.asarray(rows["length"][:], dtype=np.int64), kind="stable")
    outputs: list[dict[str, Any]] = []
    tokens = 0

    def batches() -> Iterator[dict[str, Any]]:
        nonlocal tokens
        for start in range(0, len(order), batch_size):
            batch = collator(rows_at(rows, order[start : start + batch_size].tolist()))
            tokens += int(batch["attention_mask"].sum())
            yield batch

    try:
        for found in each(partial(_pass, task=task, shifted=shifted), model, batches()):
            outputs += found
            if on_batch:
                on_batch(len(outputs))
    finally:
        model.train(was_training)
    return gathered([outputs[i] for i in np.argsort(order)], task, tokens)


def rows_at(rows: Any, places: list[int]) -> list[Any]:
    """Rows at 0-based places; a `datasets.Dataset` gives them together in a fraction of the time."""
    found: list[Any] = rows.__getitems__(places) if hasattr(rows, "__getitems__") else [rows[i] for i in places]
    return found


def named_task(schema: str | Task) -> Task:
    """The task of that name, or the one that is given."""
    task: Any = SCHEMAS[schema] if isinstance(schema, str) else schema
    return task


def model_inputs(model: nn.Module, batch: dict[str, Any], schema: str | Task) -> dict[str, Any]:
    """What of a batch goes into the model's forward.

    Labels stay out, except where an encoder-decoder derives its decoder input from them. A method whose forward
    depends on where the answer begins says so by a `context_arguments` method.
    """
    task = named_task(schema)
    hidden = {*task.targets, "row"}
    if task.language and getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        hidden = {"row"}
    inputs = {k: v for k, v in batch.items() if k not in hidden}
    if task.language and hasattr(model, "context_arguments"):
        inputs |= model.context_arguments(batch["labels"], batch.get("attention_mask"))  # type: ignore[operator]
    return inputs


def _pass(model: nn.Module, batch: dict[str, Any], *, task: Task, shifted: bool) -> list[dict[str, Any]]:
    """What is kept of the rows of one batch."""
    device = next(model.parameters()).device
    batch = {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items()}
    numbers = batch.pop("row").tolist()
    with torch.inference_mode():
        outputs = task.outputs(model(**model_inputs(model, batch, task)), batch, shifted=shifted)
        return [{"row": number} | output for number, output in zip(numbers, outputs, strict=True)]


def sequence_outputs(logits: Any, labels: Any, losses: Any) -> Iterator[dict[str, Any]]:
    """What is kept of rows with one label each.

    Args:
        logits: (B, C) float32.
        labels: (B,), or None.
        losses: (B,) negative log-likelihoods or errors; None without labels.
    """
    for i, row in enumerate(logits):
        yield {
            "logits": row.cpu().numpy(),
            "label": None if labels is None else labels.reshape(-1)[i].item(),
            "nll": 0.0 if losses is None else losses[i].item(),
            "items": 1,
        }


def token_scores(logits: Any, labels: Any) -> dict[str, Any]:
    """The likelihood of the (T,) labels under (T, C) logits, those that are ignored left out."""
    if labels is None:
        return {"label": None, "nll": 0.0, "items": 0}
    nll = F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED)
    return {"label": labels.cpu().numpy(), "nll": nll.item(), "items": int(labels.ne(IGNORED).sum())}


def gathered(outputs: list[dict[str, Any]], task: Task, tokens: int) -> Predictions:
    """The outputs of all rows, each with its `row`, put together."""
    logits: Any = [o["logits"] for o in outputs]
    labels: Any = [o["label"] for o in outputs]
    if task.one_output:
        logits = np.stack(logits).astype(np.float32)
        labels = None if any(label is None for label in labels) else np.array(labels)
    return Predictions(
        schema=task.name,
        logits=logits,
        labels=labels,
        rows=np.array([o["row"] for o in outputs]),
        nll=np.array([o["nll"] for o in outputs]),
        items=np.array([o["items"] for o in outputs]),
        tokens=tokens,
    )
