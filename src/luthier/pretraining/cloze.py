"""Whether a language model knows the words that sentences lack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from luthier.data.schemas import IGNORED
from luthier.errors import DataError
from luthier.language_modeling.rows import prediction_rows
from luthier.models.inspect import base_of, model_max_length
from luthier.pretraining.sentences import Sentence
from luthier.progress import track


@dataclass(frozen=True)
class ClozeScore:
    """How a model completes sentences.

    Attributes:
        share: of the sentences whose word is among the `top` likeliest tokens.
        chance: that share for a model that knows nothing: top / vocabulary.
        top: how many tokens count.
        ranks: sentence with its word in brackets -> how many tokens are likelier than the word.
        left_out: sentences that can't be asked: their word is more than one token, or is the first one of a causal
            model, or they are longer than the model takes.
    """

    share: float
    chance: float
    top: int
    ranks: dict[str, int]
    left_out: list[str]


def cloze_scores(
    model: nn.Module, tokenizer: Any, sentences: Sequence[Sentence], *, masked: bool, top: int = 10
) -> ClozeScore:
    """Let a model guess one word of each sentence: a masked language model from all others, a causal one from those in
    front of it.

    Args:
        model: with a language-model head.
        tokenizer: of it.
        sentences: each with its word.
        masked: whether the model guesses masked tokens.
        top: how many tokens may stand before the word.

    Raises:
        DataError: none of the sentences can be asked.
    """
    was_training, device = model.training, next(model.parameters()).device
    ranks: dict[str, int] = {}
    left_out: list[str] = []
    vocabulary, longest = 1, model_max_length(base_of(model).config)
    model.eval()
    try:
        with torch.no_grad(), track("completing sentences", len(sentences)) as bar:
            for number, sentence in enumerate(sentences, 1):
                row = _row(sentence, tokenizer, masked)
                bar.update(number)
                if row is None or (longest is not None and len(row[0]) > longest):
                    left_out.append(sentence.marked)
                    continue
                ids, labels = (torch.tensor([one], device=device) for one in row)
                inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
                found = prediction_rows(model, labels, shifted=not masked, inputs=inputs)
                logits = found.logits()[0]
                vocabulary = len(logits)
                ranks[sentence.marked] = int((logits > logits[found.targets[0]]).sum())
    finally:
        model.train(was_training)
    if not ranks:
        raise DataError(
            f"none of the {len(left_out)} words to guess is one token that the model can be asked for",
            where=left_out[0],
            fix="give `cloze` sentences with words of the model's vocabulary, or leave it out",
        )
    guessed = sum(rank < top for rank in ranks.values())
    return ClozeScore(guessed / len(ranks), min(1.0, top / vocabulary), top, ranks, left_out)


def _row(sentence: Sentence, tokenizer: Any, masked: bool) -> tuple[list[int], list[int]] | None:
    """Input ids and labels of a sentence; None where its word is not one token, or nothing stands in front of it."""
    encoded = tokenizer(sentence.whole, return_offsets_mapping=True)
    start, end = len(sentence.before), len(sentence.before) + len(sentence.word)
    places = [
        place for place, (first, last) in enumerate(encoded["offset_mapping"]) if last > start and first < end and last
    ]
    if len(places) != 1:
        return None
    (place,) = places
    ids, labels = list(encoded["input_ids"]), [IGNORED] * len(encoded["input_ids"])
    if ids[place] == tokenizer.unk_token_id or (not masked and place == 0):
        return None
    labels[place] = ids[place]
    if masked:
        ids[place] = tokenizer.mask_token_id
    return ids, labels
