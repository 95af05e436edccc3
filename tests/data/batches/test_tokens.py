"""Token ids that are asked for directly are those of a call of the tokenizer."""

import random

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from luthier.data.batches.tokens import _asked_directly, token_columns
from luthier.language_modeling.stream import tokenized
from tests.data.tokenizers import decoder_tokenizer, word_tokenizer

_ALPHABET = "ab c\u00e9 \u0130\u00df\u4e2d\u6587\u0e01\u200b\u00a0\t\n<eos>[CLS] [MASK]#!'9 \U0001f600"


def byte_level() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator(["ab ab abc \u4e2d\u6587"] * 4, trained)
    inner.post_processor = processors.ByteLevel(trim_offsets=True)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<eos>")


def unigram() -> PreTrainedTokenizerFast:
    pieces = {"<s>": 0.0, "</s>": 0.0, "<unk>": 0.0, "\u2581": -2.0, "a": -1.0, "\u2581ab": -1.5, "b": -3.0}
    inner = Tokenizer(models.Unigram(list(pieces.items()), unk_id=2))
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    pair = [("<s>", 0), ("</s>", 1)]
    single, double = "<s> $A </s>", "<s> $A </s> </s> $B </s>"
    inner.post_processor = processors.TemplateProcessing(single=single, pair=double, special_tokens=pair)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", mask_token="[MASK]"
    )


class _Upper(PreTrainedTokenizerFast):
    """A tokenizer that does something to a text before the library cuts it."""

    def _encode_plus(self, text: list[str], *args: object, **more: object) -> object:
        return super()._encode_plus([one.lower() for one in text], *args, **more)


@pytest.mark.parametrize("make", [word_tokenizer, decoder_tokenizer, byte_level, unigram])
@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("split", [None, True, False])
def test_ids_are_those_of_a_call(make, special, split) -> None:
    tokenizer, draw = make(), random.Random(0)
    assert _asked_directly(tokenizer)
    texts = ["", " ", *("".join(draw.choices(_ALPHABET, k=draw.randrange(40))) for _ in range(60))]
    options = {} if split is None else {"split_special_tokens": split}
    for pairs in (None, texts[::-1]):
        expected = dict(make()(texts, pairs, add_special_tokens=special, **options).items())
        # What an earlier call asked for is forgotten.
        tokenizer(texts, truncation=True, max_length=3)
        tokenizer.backend_tokenizer.enable_padding(length=9)
        found = token_columns(tokenizer, texts, pairs, add_special_tokens=special, split_special_tokens=split)
        assert found == expected
    after = tokenizer(texts, truncation=True, max_length=4)
    assert after == make()(texts, truncation=True, max_length=4)


def test_a_tokenizer_that_does_more_is_called() -> None:
    plain = word_tokenizer()
    upper = _Upper(tokenizer_object=plain.backend_tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    assert not _asked_directly(upper)
    assert token_columns(upper, ["AB"])["input_ids"] == plain(["ab"])["input_ids"] != plain(["AB"])["input_ids"]


def test_no_texts_have_no_tokens() -> None:
    assert set(map(len, token_columns(word_tokenizer(), []).values())) == {0}


@pytest.mark.parametrize("make", [word_tokenizer, byte_level, unigram])
def test_ids_with_and_without_words_agree(make) -> None:
    texts = ["ab abc", "", "<eos> ab [CLS]", "\u4e2d\u6587 a"]
    with_words, without = (list(tokenized(texts, make(), words=words)) for words in (True, False))
    assert [list(ids) for ids, _ in with_words] == [list(ids) for ids, _ in without]
