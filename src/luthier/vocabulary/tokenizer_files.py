"""The files of a merged vocabulary as a tokenizer that `AutoTokenizer` loads, and a native encoder for the same ids.

Ids are those of XLM-R: `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3, SentencePiece's id i >= 3 becomes i + 1, `<mask>` is
last.

Two encoders, one result: `tokenizer.json` runs in the `tokenizers` library, in double precision, and `load_encoder`
runs SentencePiece, in single precision, on NFKC-normalised text. They cut alike since scores are multiples of 2^-10,
whose sums are exact in both, and since what the two libraries normalise differently is put in order before: composed
letters by NFKC, and characters that SentencePiece takes for blanks or for nothing, which the other one joins to the
marks behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from luthier.errors import ModelError
from luthier.vocabulary.unigram import CONTROL, UNKNOWN, Segmenter, parse_model

MODEL_FILE = "sentencepiece.bpe.model"
BOS, PAD, EOS, UNK, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"
LEADING = (BOS, PAD, EOS, UNK)
_SHIFT = 1
_ID_OF = {0: 3, 1: 0, 2: 2}
_BLANK = "▁"
# What the charsmap nmt_nfkc turns into blanks, and into nothing, beside what NFKC changes.
_BLANKS = (0x9, 0xA, 0xC, 0xD, 0x61C, 0x1680, 0x200B, 0x200C, 0x200E, 0x200F, 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD)
_NOTHING = (*range(0x1, 0x9), 0xB, *range(0xE, 0x20), 0x7F, 0x8F, 0x9F)


def fast_tokenizer(content: bytes) -> Any:
    """The tokenizer of a merged model, in the `tokenizers` library.

    Args:
        content: serialised ModelProto: `<unk>`, `<s>`, `</s>`, then pieces.

    Raises:
        ModelError: its first pieces are others.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    proto = parse_model(content)
    if [(one.piece, one.type) for one in proto.pieces[:3]] != [(UNK, UNKNOWN), (BOS, CONTROL), (EOS, CONTROL)]:
        raise ModelError("the model does not start with <unk>, <s>, </s>", fix="make it with merge_vocabularies")
    vocabulary = [(piece, 0.0) for piece in LEADING]
    vocabulary += [(one.piece, one.score) for one in proto.pieces[3:]]
    vocabulary.append((MASK, 0.0))
    byte_fallback = bool(proto.trainer_spec.byte_fallback)
    inner = Tokenizer(models.Unigram(vocabulary, unk_id=LEADING.index(UNK), byte_fallback=byte_fallback))
    inner.normalizer = _normaliser(proto)
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Metaspace(_BLANK, prepend_scheme="always", split=False)]
    )
    steps = [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(steps)
    inner.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}",
        pair=f"{BOS} $A {EOS} {EOS} $B {EOS}",
        special_tokens=[(BOS, 0), (EOS, 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=BOS,
        eos_token=EOS,
        cls_token=BOS,
        sep_token=EOS,
        unk_token=UNK,
        pad_token=PAD,
        mask_token=AddedToken(MASK, lstrip=True, special=True),
        clean_up_tokenization_spaces=False,
    )


def _normaliser(proto: Any) -> Any:
    from tokenizers import Regex, normalizers

    def among(letters: Sequence[int]) -> Any:
        return Regex("[" + "".join(f"\\x{{{one:x}}}" for one in letters) + "]")

    steps: list[Any] = [normalizers.NFKC()]
    if proto.normalizer_spec.name == "nmt_nfkc":
        steps += [normalizers.Replace(among(_BLANKS), " "), normalizers.Replace(among(_NOTHING), "")]
    else:
        steps.append(normalizers.Replace(_BLANK, " "))
    if proto.normalizer_spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap))
    return normalizers.Sequence(steps)


def save_tokenizer(folder: Path, content: bytes) -> int:
    """Write `tokenizer.json`, `tokenizer_config.json` and SentencePiece's own file; gives the number of ids."""
    tokenizer = fast_tokenizer(content)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    (folder / MODEL_FILE).write_bytes(content)
    return len(tokenizer)


class NativeEncoder:
    """SentencePiece on the ids of transformers: several times as quick as `tokenizer.json`, in a fifth of the memory.

    Args:
        content: the serialised ModelProto.
    """

    def __init__(self, content: bytes) -> None:
        self.segmenter = Segmenter(content)

    @cached_property
    def _nfkc(self) -> Any:
        from tokenizers import normalizers

        return normalizers.NFKC().normalize_str

    def __len__(self) -> int:
        return int(self.segmenter.processor.get_piece_size()) + 2

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of every text as `tokenizer.json` gives them, without special tokens."""
        ready = [self._nfkc(text).replace(_BLANK, " ") for text in texts]
        return [
            [token + _SHIFT if token > 2 else _ID_OF[token] for token in ids] for ids in self.segmenter.encode(ready)
        ]


def load_encoder(folder: str | Path) -> NativeEncoder:
    """The native encoder of a tokenizer that a `vocabulary` stage made.

    Raises:
        ModelError: the folder has no model of SentencePiece.
    """
    place = Path(folder) / MODEL_FILE
    if not place.is_file():
        raise ModelError(f"there is no {MODEL_FILE}", where=str(folder), fix="name the folder of a vocabulary stage")
    return NativeEncoder(place.read_bytes())
