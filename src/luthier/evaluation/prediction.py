"""Runs a model over encoded rows and keeps what the scores need, in the order of the rows.

Shapes: N rows, C classes or choices, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

IGNORED = -100
LANGUAGE = ("prompt_response", "plain_text")


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
    schema: str,
    *,
    batch_size: int = 64,
    shifted: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> Predictions:
    """Feed every row through the model once, longest rows first, in evaluation mode and without gradients.

    Args:
        model: on any device; returned to the mode it was in.
        rows: encoded rows with a `length` column.
        collator: list of rows -> batch.
        schema: the task schema.
        batch_size: rows in one forward pass.
        shifted: whether position t predicts token t + 1.
        on_batch: called with the number of rows done so far.
    """
    was_training = model.training
    model.eval()
    order = np.argsort([-n for n in rows["length"]], kind="stable")
    collected: list[tuple[int, dict[str, Any]]] = []
    tokens, done = 0, 0
    device = next(model.parameters()).device
    try:
        for start in range(0, len(order), batch_size):
            picked = order[start : start + batch_size]
            batch = collator([rows[int(i)] for i in picked])
            batch = {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items()}
            tokens += int(batch["attention_mask"].sum())
            with torch.inference_mode():
                collected += zip(map(int, picked), _outputs(model, batch, schema, shifted), strict=True)
            done += len(picked)
            if on_batch:
                on_batch(done)
    finally:
        model.train(was_training)
    ordered = [row for _, row in sorted(collected, key=lambda item: item[0])]
    return _gather(ordered, schema, tokens)


def is_shifted(schema: str, config: Any) -> bool:
    """Whether the model's output at t is scored against the label at t + 1."""
    return schema in LANGUAGE and not getattr(config, "is_encoder_decoder", False)


def model_inputs(model: nn.Module, batch: dict[str, Any], schema: str) -> dict[str, Any]:
    """What of a batch goes into the model's forward.

    Labels stay out, except where an encoder-decoder derives its decoder input from them. A method whose forward
    depends on where the answer begins says so by a `context_arguments` method.
    """
    hidden = {"labels", "start_positions", "end_positions", "row"}
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False) and schema in LANGUAGE:
        hidden = {"row"}
    inputs = {k: v for k, v in batch.items() if k not in hidden}
    if schema in LANGUAGE and hasattr(model, "context_arguments"):
        inputs |= model.context_arguments(batch["labels"], batch.get("attention_mask"))  # type: ignore[operator]
    return inputs


def _outputs(model: nn.Module, batch: dict[str, Any], schema: str, shifted: bool) -> Iterator[dict[str, Any]]:
    numbers = batch.pop("row").tolist()
    out = model(**model_inputs(model, batch, schema))
    if schema == "extractive_qa":
        yield from _answer_outputs(out, batch, numbers)
        return
    logits, labels = out.logits.float(), batch.get("labels")
    if schema in LANGUAGE:
        yield from _language_outputs(logits, labels, numbers, shifted)
    elif schema == "token_labels":
        logits = logits[:, -batch["input_ids"].shape[1] :]
        for i, number in enumerate(numbers):
            kept = batch["attention_mask"][i].bool()
            row = {"row": number, "logits": logits[i][kept].cpu().numpy()}
            yield row | _token_scores(logits[i][kept], None if labels is None else labels[i][kept])
    else:
        yield from _sequence_outputs(logits, labels, numbers, schema)


def _sequence_outputs(logits: Any, labels: Any, numbers: list[int], schema: str) -> Iterator[dict[str, Any]]:
    logits = logits.reshape(len(numbers), -1)
    if labels is None:
        losses = torch.zeros(len(numbers))
    elif schema == "regression":
        losses = F.mse_loss(logits[:, 0], labels.float().reshape(-1), reduction="none")
    else:
        losses = F.cross_entropy(logits, labels.reshape(-1), reduction="none", ignore_index=IGNORED)
    for i, number in enumerate(numbers):
        label = None if labels is None else labels.reshape(-1)[i].item()
        yield {
            "row": number,
            "logits": logits[i].cpu().numpy(),
            "label": label,
            "nll": losses[i].item(),
            "items": 1,
        }


def _token_scores(logits: Any, labels: Any) -> dict[str, Any]:
    if labels is None:
        return {"label": None, "nll": 0.0, "items": 0}
    nll = F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED)
    return {"label": labels.cpu().numpy(), "nll": nll.item(), "items": int(labels.ne(IGNORED).sum())}


def _language_outputs(logits: Any, labels: Any, numbers: list[int], shifted: bool) -> Iterator[dict[str, Any]]:
    logits = logits[:, -labels.shape[1] :]
    if shifted:
        logits, labels = logits[:, :-1], labels[:, 1:]
    for i, number in enumerate(numbers):
        yield {"row": number, "logits": None} | _token_scores(logits[i], labels[i])


def _answer_outputs(out: Any, batch: dict[str, Any], numbers: list[int]) -> Iterator[dict[str, Any]]:
    width = batch["input_ids"].shape[1]
    start, end = out.start_logits.float()[:, -width:], out.end_logits.float()[:, -width:]
    known = "start_positions" in batch
    for i, number in enumerate(numbers):
        nll = 0.0
        if known:
            pairs = ((start, batch["start_positions"]), (end, batch["end_positions"]))
            nll = sum(F.cross_entropy(s[i : i + 1], p[i : i + 1]).item() for s, p in pairs) / 2
        pair = (start[i].cpu().numpy(), end[i].cpu().numpy())
        yield {"row": number, "logits": pair, "label": None, "nll": nll, "items": 1}


def _gather(outputs: list[dict[str, Any]], schema: str, tokens: int) -> Predictions:
    logits: Any = [o["logits"] for o in outputs]
    labels: Any = [o["label"] for o in outputs]
    if schema not in ("token_labels", "extractive_qa", *LANGUAGE):
        logits = np.stack(logits).astype(np.float32)
        labels = None if any(label is None for label in labels) else np.array(labels)
    return Predictions(
        schema=schema,
        logits=logits,
        labels=labels,
        rows=np.array([o["row"] for o in outputs]),
        nll=np.array([o["nll"] for o in outputs]),
        items=np.array([o["items"] for o in outputs]),
        tokens=tokens,
    )
