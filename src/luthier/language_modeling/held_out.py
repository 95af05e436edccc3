"""Held-out text: always the same rows with the same masks, so that any two models can be compared on it."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from luthier.data.schemas import IGNORED
from luthier.errors import DataError
from luthier.language_modeling.documents import Corpus, is_held_out
from luthier.language_modeling.masking import Masking
from luthier.language_modeling.packing import Block, Frame, Packer
from luthier.language_modeling.rows import prediction_rows
from luthier.language_modeling.stream import encoded_row, tokenized
from luthier.storage.helping import each

Row = dict[str, Any]
# Of the masks of held-out text: another seed than any run's, and the same for all runs.
HELD_OUT_SEED = 2**63 + 1
_TOGETHER = 128
# Of the tokens of held-out text: a share that is told of.
_MUCH_UNKNOWN = 0.2
log = logging.getLogger(__name__)


def held_out_rows(
    corpus: Corpus,
    tokenizer: Any,
    frame: Frame,
    masking: Masking | None,
    *,
    share: float | None,
    most: int | None,
    encode: Callable[[Block, int], Row] | None = None,
) -> list[Row]:
    """The first whole blocks of held-out text, encoded.

    Args:
        corpus: where the text is.
        tokenizer, frame, masking: as of the training stream; the masks have a seed of their own.
        share: of the documents that is held out; None where all are.
        most: blocks; None takes all.
        encode: makes a row of a block and its number; default as in a plain stream.

    Raises:
        DataError: the text fills no block, or has no token that could be masked.
        WorkspaceError: the text was changed while it was read.
    """
    fixed = None if masking is None else replace(masking, seed=HELD_OUT_SEED)
    words = masking is not None and masking.whole_words
    blocks = itertools.islice(_blocks(corpus, tokenizer, frame, share, words), most)
    make = encode or partial(encoded_row, masking=fixed)
    rows = [make(block, number) for number, block in enumerate(blocks)]
    where = ", ".join(one.name for one in corpus.sources)
    if not rows:
        raise DataError(
            f"the held-out text fills no block of {frame.length} tokens",
            where=where,
            fix="hold out a larger share with `held_out`, name `validation` text, or take a smaller `length`",
        )
    if share is None:  # of text that is trained on, too, training looks after it
        corpus.check_unchanged()
    if masking is not None:
        _check_known(rows, tokenizer, where)
    return rows


def _check_known(rows: Sequence[Row], tokenizer: Any, where: str) -> None:
    """Refuse text of which the tokenizer knows nothing, which would give a loss of 0, and warn where it lacks much."""
    fix = "give the model a vocabulary of this text first, with a `transplant` stage, or take another tokenizer"
    if all((row["labels"] == IGNORED).all() for row in rows):
        raise DataError("the tokenizer knows nothing of this text, so that no token is guessed", where=where, fix=fix)
    ids = np.concatenate([np.where(row["labels"] == IGNORED, row["input_ids"], row["labels"]) for row in rows])
    others = [one for one in tokenizer.all_special_ids if one != tokenizer.unk_token_id]
    unknown = float(np.mean(ids[~np.isin(ids, others)] == tokenizer.unk_token_id))
    if unknown > _MUCH_UNKNOWN:
        log.warning(
            "%s: %.0f %% of the held-out tokens are unknown to the tokenizer, and neither learned nor scored; %s",
            where,
            100 * unknown,
            fix,
        )


def _blocks(corpus: Corpus, tokenizer: Any, frame: Frame, share: float | None, words: bool) -> Iterator[Block]:
    packer, texts = Packer(frame), (one.text for one in corpus.documents())
    held = texts if share is None else (text for text in texts if is_held_out(text, share))
    while some := list(itertools.islice(held, _TOGETHER if share is None else 8)):
        for ids, starts in tokenized(some, tokenizer, words=words):
            packer.add(ids, starts)
        yield from packer.blocks()


def collate(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Rows of one length as a batch of (B, L) tensors; `row` is (B,)."""
    return {name: torch.as_tensor(np.stack([row[name] for row in rows])) for name in rows[0]}


@dataclass(frozen=True)
class HeldOut:
    """Scores language models on held-out rows.

    Attributes:
        rows: encoded.
        shifted: whether models predict the next token.
        mask_token: its id; None for causal models.
        singles: tokens that are masked one at a time.
        batch_size: rows in one forward pass.
        dtype: of the product with the output embeddings; None is that of the model.
        collator: rows -> batch of tensors.
    """

    rows: Sequence[Row]
    shifted: bool
    mask_token: int | None = None
    singles: int = 0
    batch_size: int = 64
    dtype: torch.dtype | None = None
    collator: Callable[[Sequence[Row]], dict[str, Tensor]] = collate

    def scores(self, model: nn.Module) -> dict[str, float]:
        """`loss`, in nats for each predicted token; of a causal model `perplexity`, its exponential; of a masked one
        `pseudo_perplexity` where tokens are masked one at a time."""
        loss = self.loss(model)
        if self.mask_token is None:
            return {"loss": loss, "perplexity": _exponential(loss)}
        return {"loss": loss, **({"pseudo_perplexity": self.pseudo_perplexity(model)} if self.singles else {})}

    def loss(self, model: nn.Module, on_batch: Callable[[int], None] | None = None) -> float:
        """Mean cross-entropy of the predicted tokens of all rows, in nats."""
        return self._mean(model, self.rows, on_batch)

    def pseudo_perplexity(self, model: nn.Module) -> float:
        """exp of the mean negative log-probability of a token given all others of its block: PPPL of Salazar et al.,
        “Masked Language Model Scoring” (ACL 2020), equation 3, on `singles` tokens drawn once for all models."""
        if self.mask_token is None:
            raise ValueError("a causal language model has no masks, and no pseudo-perplexity")
        return _exponential(self._mean(model, self._singly_masked(self.mask_token), None))

    def _singly_masked(self, mask_token: int) -> list[Row]:
        places = [(row, int(place)) for row in self.rows for place in np.flatnonzero(row["labels"] != IGNORED)]
        draw = np.random.Generator(np.random.Philox(key=HELD_OUT_SEED))
        chosen = [places[i] for i in draw.permutation(len(places))[: self.singles]]
        return [_with_one_mask(row, place, mask_token) for row, place in chosen]

    def _mean(self, model: nn.Module, rows: Sequence[Row], on_batch: Callable[[int], None] | None) -> float:
        was_training = model.training
        model.eval()
        total, count, done = 0.0, 0, 0
        batches = (
            self.collator(rows[start : start + self.batch_size]) for start in range(0, len(rows), self.batch_size)
        )
        try:
            for loss, predicted in each(partial(_pass, shifted=self.shifted, dtype=self.dtype), model, batches):
                total, count, done = total + loss, count + predicted, min(done + self.batch_size, len(rows))
                if on_batch:
                    on_batch(done)
        finally:
            model.train(was_training)
        return total / max(1, count)


def _pass(model: nn.Module, batch: dict[str, Tensor], *, shifted: bool, dtype: torch.dtype | None) -> tuple[float, int]:
    """The sum of the losses of a batch, and how many tokens were predicted."""
    device = next(model.parameters()).device
    inputs = {name: values.to(device) for name, values in batch.items() if name not in ("labels", "row")}
    with torch.no_grad():
        losses = prediction_rows(model, batch["labels"].to(device), shifted=shifted, inputs=inputs).losses(dtype)
    return float(losses.double().sum()), len(losses)


def _with_one_mask(row: Row, place: int, mask_token: int) -> Row:
    """The row as it is without its masks, with one token masked."""
    whole = np.asarray(np.where(row["labels"] == IGNORED, row["input_ids"], row["labels"]))
    seen, labels = whole.copy(), np.full_like(whole, IGNORED)
    seen[place], labels[place] = mask_token, whole[place]
    return {**row, "input_ids": seen, "labels": labels}


def _exponential(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
