"""New tokenizers, trained on text with the `tokenizers` library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import DataError

if TYPE_CHECKING:
    from luthier.pretraining.stage import TokenizerSettings

PADDING, UNKNOWN, OPENING, SEPARATOR, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# How far the scores of special tokens lie below those of all others.
_NEVER = 1000.0
# Where Unicode has room for letters of one's own: 131,068 of them.
_PRIVATE = 0xF0000


def new_tokenizer(texts: Iterable[str], settings: TokenizerSettings) -> Any:
    """A tokenizer that is trained on texts, with the special tokens that BERT has; `[CLS] text [SEP]` is what it makes
    of a text.

    Wordpiece: Wu et al., “Google's Neural Machine Translation System” (2016); BPE on bytes: Radford et al., “Language
    Models are Unsupervised Multitask Learners” (2019); Unigram: Kudo, “Subword Regularization” (ACL 2018).

    Raises:
        DataError: the texts hold nothing to learn from.
    """
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    inner = {"wordpiece": _word_piece, "bpe": _byte_pairs, "unigram": _unigram}[settings.kind](texts, settings)
    vocabulary = inner.get_vocab()
    if len(vocabulary) <= len(SPECIAL):
        raise DataError("the text holds no words that a tokenizer could be trained on", fix="name other text")
    inner.post_processor = processors.TemplateProcessing(
        single=f"{OPENING} $A {SEPARATOR}",
        pair=f"{OPENING} $A {SEPARATOR} $B:1 {SEPARATOR}:1",
        special_tokens=[(OPENING, vocabulary[OPENING]), (SEPARATOR, vocabulary[SEPARATOR])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=PADDING,
        unk_token=UNKNOWN,
        cls_token=OPENING,
        sep_token=SEPARATOR,
        mask_token=MASK,
        eos_token=SEPARATOR,
        bos_token=OPENING,
    )


def saved_tokenizer(folder: Path) -> Any:
    """A tokenizer that `new_tokenizer` made, from the folder that it was saved in."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(str(folder))


def _shared(settings: TokenizerSettings) -> dict[str, Any]:
    return {"vocab_size": settings.vocabulary, "special_tokens": list(SPECIAL), "show_progress": False}


def _word_piece(texts: Iterable[str], settings: TokenizerSettings) -> Any:
    """The library's own trainer numbers `##` pieces in the order of a hash table, so that each run gets other ones.
    Here pairs are merged over other letters for those inside of words, which comes to the same vocabulary every time.
    Of more letters than it has room for the frequent ones are in it.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    normalizer = normalizers.BertNormalizer(lowercase=settings.lowercase)
    words = pre_tokenizers.BertPreTokenizer()
    letters: dict[str, str] = {}
    known: dict[str, str] = {}

    def inside(letter: str) -> str:
        if letter not in letters:
            letters[letter] = chr(_PRIVATE + len(letters))
        return letters[letter]

    def spelled(word: str) -> str:
        if word not in known:
            known[word] = word[0] + "".join(map(inside, word[1:]))
        return known[word]

    def spelled_texts() -> Iterator[str]:
        for text in texts:
            yield " ".join(spelled(word) for word, _ in words.pre_tokenize_str(normalizer.normalize_str(text)))

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    room = settings.vocabulary - len(SPECIAL)
    learner.train_from_iterator(spelled_texts(), trainers.BpeTrainer(limit_alphabet=room, **_shared(settings)))
    back = {private: letter for letter, private in letters.items()}
    pieces = {_with_prefix(piece, back): number for piece, number in learner.get_vocab().items()}
    inner = Tokenizer(models.WordPiece(pieces, unk_token=UNKNOWN))
    inner.normalizer, inner.pre_tokenizer, inner.decoder = normalizer, words, decoders.WordPiece()
    return inner


def _with_prefix(piece: str, back: dict[str, str]) -> str:
    whole = "".join(back.get(letter, letter) for letter in piece)
    return f"##{whole}" if piece[:1] in back else whole


def _byte_pairs(texts: Iterable[str], settings: TokenizerSettings) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.normalizer = normalizers.Sequence([normalizers.NFD(), *_lower(settings), normalizers.NFC()])
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(texts, trainers.BpeTrainer(initial_alphabet=sorted(alphabet), **_shared(settings)))
    return inner


def _unigram(texts: Iterable[str], settings: TokenizerSettings) -> Any:
    """Two things of the library's differ from run to run, and are put in order here: the last digits of scores, which
    threads add up, and which rare letter gets which of the lowest scores."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    inner = Tokenizer(models.Unigram())
    inner.normalizer = normalizers.Sequence([normalizers.NFKD(), *_lower(settings), normalizers.NFKC()])
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    try:
        inner.train_from_iterator(texts, trainers.UnigramTrainer(unk_token=UNKNOWN, **_shared(settings)))
    except Exception as error:  # the library has no class for it
        if "vocabulary is not large enough" not in str(error):
            raise
        raise DataError(
            f"the text has more characters than a Unigram vocabulary of {settings.vocabulary:,} has room for",
            fix="raise `tokenizer.vocabulary`, or take `kind: bpe`",
        ) from error
    learned = json.loads(inner.to_str())["model"]["vocab"]
    scores = {piece: round(score, 6) for piece, score in learned if piece not in SPECIAL}
    lowest = min((score for piece, score in scores.items() if len(piece) > 1), default=0.0)
    rare = sorted(piece for piece, score in scores.items() if len(piece) == 1 and score < lowest)
    scores |= zip(rare, sorted((scores[piece] for piece in rare), reverse=True), strict=True)
    pieces = sorted(scores.items(), key=lambda one: (-one[1], one[0]))
    # So low that text which looks like one of them is never taken for it.
    special = [(piece, lowest - _NEVER) for piece in SPECIAL]
    inner.model = models.Unigram([*special, *pieces], unk_id=SPECIAL.index(UNKNOWN))
    return inner


def _lower(settings: TokenizerSettings) -> list[Any]:
    from tokenizers import normalizers

    return [normalizers.Lowercase(), normalizers.StripAccents()] if settings.lowercase else []
