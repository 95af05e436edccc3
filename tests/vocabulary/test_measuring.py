"""What tokenizers that are not ours do to text."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from luthier.vocabulary import measure_tokenizer
from tests.vocabulary.test_transplanting import unigram, word_pieces


def byte_level(*, prefix: bool) -> Any:
    """`Ġfilm` is one token, and `film` at the start of a text are two."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("f", "i"), ("fi", "l"), ("Ġ", "fil"), ("Ġfil", "m")]
    names = [*letters, *("".join(one) for one in merges)]
    inner = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def prepending() -> Any:
    """Puts its mark in front of a text and for every blank, so that a blank in front is a token more."""
    pieces = [("<unk>", 0.0), ("▁", -2.0), ("▁film", -1.0), *((letter, -9.0) for letter in "film")]
    inner = Tokenizer(models.Unigram(pieces, 0))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Replace("▁", " ")
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token=AddedToken("<unk>"))


@pytest.mark.parametrize("tokenizer", [byte_level(prefix=False), byte_level(prefix=True), prepending()], ids=range(3))
def test_words_are_cut_as_they_are_inside_of_a_text(tokenizer: Any):
    told = measure_tokenizer(tokenizer, {"en": ["film film film", "film filmi"]}).languages["en"]
    assert told.words == 5
    assert told.continued == 1


def test_words_at_the_start_of_a_text_are_like_others_to_most():
    for tokenizer in (unigram("la"), word_pieces()):
        told = measure_tokenizer(tokenizer, {"en": ["the the thel"]}).languages["en"]
        cut = [len(tokenizer(word, add_special_tokens=False).input_ids) > 1 for word in ("the", "the", "thel")]
        assert told.continued == sum(cut)
