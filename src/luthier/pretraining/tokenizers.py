"""New tokenizers, trained on text with the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import DataError

if TYPE_CHECKING:
    from luthier.pretraining.stage import TokenizerSettings

PADDING, UNKNOWN, OPENING, SEPARATOR, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


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

    inner, trainer = _parts(settings)
    inner.train_from_iterator(texts, trainer)
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


def _parts(settings: TokenizerSettings) -> tuple[Any, Any]:
    """An empty tokenizer, and what trains it."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    shared: dict[str, Any] = {
        "vocab_size": settings.vocabulary,
        "special_tokens": list(SPECIAL),
        "show_progress": False,
    }
    if settings.kind == "wordpiece":
        inner = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
        inner.normalizer = normalizers.BertNormalizer(lowercase=settings.lowercase)
        inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        inner.decoder = decoders.WordPiece()
        return inner, trainers.WordPieceTrainer(**shared)
    lower = [normalizers.Lowercase(), normalizers.StripAccents()] if settings.lowercase else []
    if settings.kind == "bpe":
        inner = Tokenizer(models.BPE())
        inner.normalizer = normalizers.Sequence([normalizers.NFD(), *lower, normalizers.NFC()])
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        inner.decoder = decoders.ByteLevel()
        return inner, trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **shared)
    inner = Tokenizer(models.Unigram())
    inner.normalizer = normalizers.Sequence([normalizers.NFKD(), *lower, normalizers.NFKC()])
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    return inner, trainers.UnigramTrainer(unk_token=UNKNOWN, **shared)
