"""The loss of a model on text before it is trained with a new vocabulary."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from luthier.vocabulary.day_one import nats_a_letter, unknown_share
from tests.vocabulary.test_transplanting import bert, unigram, word_pieces
from tests.vocabulary.texts import lines_of


def test_it_is_the_loss_of_masked_tokens_times_tokens_a_letter():
    tokenizer, lines = unigram("la"), lines_of("la", 5)
    model = bert(tokenizer)
    batch = tokenizer(lines, padding=True, return_tensors="pt")
    ids = batch["input_ids"]
    plain = ids > tokenizer.unk_token_id - 1
    chosen = plain & (torch.rand(ids.shape, generator=torch.Generator().manual_seed(7)) < 0.15)
    with torch.no_grad():
        logits = model(torch.where(chosen, tokenizer.mask_token_id, ids), attention_mask=batch["attention_mask"]).logits
        loss = F.cross_entropy(logits[chosen], ids[chosen])
    wanted = float(loss) * int(plain.sum()) / sum(map(len, lines))
    assert nats_a_letter(model, tokenizer, lines, masked=True, seed=7) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_text_of_one_token_is_guessed_too_and_no_token_has_no_loss(seed: int):
    tokenizer = unigram("la")
    model = bert(tokenizer)
    piece = next(name for name in tokenizer.get_vocab() if name.startswith("▁") and len(name) > 2)
    found = nats_a_letter(model, tokenizer, [piece[1:]], masked=True, seed=seed)
    assert found is not None
    assert found * len(piece[1:]) > 0.5 * math.log(len(tokenizer))
    assert nats_a_letter(model, tokenizer, [""], masked=True, seed=seed) is None
    tokenizer.mask_token = None
    assert nats_a_letter(model, tokenizer, [piece[1:]], masked=True, seed=seed) is None


def test_unknown_tokens_are_told_since_they_are_easy_to_guess():
    assert unknown_share(word_pieces(), ["the film", "жж the"]) == 0.25
