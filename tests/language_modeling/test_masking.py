"""Masks: their shares, whole words, and that seed and position alone decide on them."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.errors import ModelError
from luthier.language_modeling import Masking
from luthier.language_modeling.stream import tokenized
from tests.evaluation.text_models import tokenizer_of
from tests.language_modeling.models import word_pieces

MASK, SPECIAL = 4, frozenset({0, 1, 2, 3, 4})


def masking(**settings) -> Masking:
    return Masking(MASK, np.arange(5, 1000), SPECIAL, **settings)


def block(length: int = 200, seed: int = 0) -> np.ndarray:
    ids = np.random.default_rng(seed).integers(5, 1000, length)
    ids[0], ids[-1], ids[50] = 2, 3, 3
    return ids


def test_the_shares_are_those_of_bert():
    counts = dict.fromkeys(("masked", "same", "other", "predicted", "ordinary"), 0)
    for position in range(400):
        ids = block(seed=position)
        seen, labels = masking(seed=1).apply(ids, position)
        chosen = labels != -100
        assert (labels[chosen] == ids[chosen]).all()
        assert (seen[~chosen] == ids[~chosen]).all()
        assert not chosen[[0, 50, -1]].any()
        assert chosen.sum() == round(0.15 * 197)
        replaced = seen[chosen & (seen != MASK)]
        assert not np.isin(replaced, list(SPECIAL)).any()
        counts["masked"] += int((seen[chosen] == MASK).sum())
        counts["same"] += int((seen[chosen] == ids[chosen]).sum())
        counts["predicted"] += int(chosen.sum())
    n = counts["predicted"]
    # Five deviations of a binomial share.
    assert abs(counts["masked"] / n - 0.8) < 5 * (0.8 * 0.2 / n) ** 0.5
    assert abs(counts["same"] / n - 0.1) < 5 * (0.1 * 0.9 / n) ** 0.5


def test_every_token_is_as_likely_to_be_predicted():
    hits = sum((masking(seed=2).apply(block(), p)[1] != -100).astype(int) for p in range(2000))
    ordinary = np.delete(np.arange(200), [0, 50, 199])
    share = 30 / 197
    assert abs(hits[ordinary] / 2000 - share).max() < 5 * (share * (1 - share) / 2000) ** 0.5


@pytest.mark.parametrize("settings", [{"masked": 1.0, "random": 0.0}, {"masked": 0.0, "random": 0.0}])
def test_the_shares_can_be_set(settings):
    ids = block()
    seen, labels = masking(rate=0.4, **settings).apply(ids, 0)
    chosen = labels != -100
    assert chosen.sum() == round(0.4 * 197)
    assert (seen[chosen] == (MASK if settings["masked"] else ids[chosen])).all()


def test_seed_and_position_alone_decide():
    ids, one = block(), masking(seed=7)
    first = one.apply(ids, 12)
    one.apply(ids, 13)
    again = masking(seed=7).apply(ids, 12)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    others = [masking(seed=7).apply(ids, 13), masking(seed=8).apply(ids, 12)]
    assert all((other[1] != first[1]).any() for other in others)
    # The tokens themselves change nothing about where the masks are.
    assert ((masking(seed=7).apply(block(seed=5), 12)[1] != -100) == (first[1] != -100)).all()


def test_whole_words_are_predicted_together():
    starts = np.random.default_rng(3).random(200) < 0.6
    owners = np.cumsum(starts)
    for position in range(50):
        _, labels = masking(whole_words=True, seed=1).apply(block(), position, starts)
        chosen = labels != -100
        for word in np.unique(owners[chosen]):
            # A special token in the middle parts a word.
            places = [p for p in np.flatnonzero(owners == word) if p not in (0, 50, 199)]
            pieces = np.split(np.array(places), np.flatnonzero(np.diff(places) > 1) + 1)
            assert all(chosen[piece].all() or not chosen[piece].any() for piece in pieces)
        assert 0.7 * 30 <= chosen.sum() <= 30


@pytest.mark.parametrize("begins", [[0], [0, 60, 140]])
def test_words_longer_than_the_share_do_not_raise_it(begins: list[int]):
    """As in scripts without blanks, where all text up to a full stop is one word."""
    ids, starts = np.arange(5, 205), np.isin(np.arange(200), begins)
    owners = np.cumsum(starts)
    for position in range(10):
        _, labels = masking(whole_words=True).apply(ids, position, starts)
        assert (labels != -100).sum() == 30
        assert len(np.unique(owners[labels != -100])) == 1
    starts[100:] = True
    for position in range(10):  # where shorter words are there, they are taken whole
        _, labels = masking(whole_words=True).apply(ids, position, starts)
        assert (np.flatnonzero(labels != -100) >= 100).all()


def test_words_are_those_of_the_tokenizer():
    tokenizer = word_pieces()
    ((ids, starts),) = tokenized(["undoing the cats."], tokenizer, words=True)
    assert tokenizer.convert_ids_to_tokens(ids) == ["un", "##do", "##ing", "the", "cat", "##s", "."]
    assert list(starts) == [True, False, False, True, True, False, True]


def test_a_text_that_looks_like_a_special_token_stays_text():
    tokenizer = word_pieces()
    ((ids, _),) = tokenized(["the [SEP] cat"], tokenizer, words=False)
    assert tokenizer.sep_token_id not in ids


def test_one_token_is_predicted_even_of_the_shortest_block_and_none_of_special_tokens():
    seen, labels = masking().apply(np.array([2, 9, 3]), 0)
    assert labels.tolist() == [-100, 9, -100]
    seen, labels = masking().apply(np.array([2, 3]), 0)
    assert seen.tolist() == [2, 3]
    assert (labels == -100).all()


def test_a_tokenizer_without_a_mask_token_is_refused():
    with pytest.raises(ModelError, match="no mask token"):
        Masking.of(tokenizer_of(["a"], "llama"))
