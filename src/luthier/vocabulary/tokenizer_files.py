"""The files of a merged vocabulary as a tokenizer that `AutoTokenizer` loads.

Two ways to run it, one result: `tokenizer.json` runs in the `tokenizers` library, in double precision, and
`luthier.models.native_tokenizer` runs SentencePiece, in single precision, on NFKC-normalised text. They cut alike since
scores are multiples of 2^-10, whose sums are exact in both, and since what the two libraries normalise differently is
put in order before: composed letters by NFKC, and characters that SentencePiece takes for blanks or for nothing, which
the other one joins to the marks behind them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.errors import ModelError
from luthier.models.native_encoder import BLANK, BOS, EOS, LEADING, MASK, MODEL_FILE, PAD, UNK, NativeEncoder
from luthier.vocabulary.unigram import parse_model

# What the charsmap nmt_nfkc turns into blanks, and into nothing, beside what NFKC changes.
_BLANKS = (0x9, 0xA, 0xC, 0xD, 0x61C, 0x1680, 0x200B, 0x200C, 0x200E, 0x200F, 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD)
_NOTHING = (*range(0x1, 0x9), 0xB, *range(0xE, 0x20), 0x7F, 0x8F, 0x9F)


def save_tokenizer(folder: Path, content: bytes) -> int:
    """Write a merged model as a tokenizer of transformers; gives the number of ids.

    Args:
        folder: gets `tokenizer.json`, `tokenizer_config.json`, SentencePiece's own file, and what is around it.
        content: serialised ModelProto: `<unk>`, `<s>`, `</s>`, then pieces.

    Raises:
        ModelError: its first pieces are others, or a piece has a blank inside.
    """
    from luthier.models.native_tokenizer import NativeTokenizer

    tokenizer = NativeTokenizer.of_model(content, _pipeline(content), **_special_tokens())
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def fast_tokenizer(content: bytes) -> Any:
    """The tokenizer of a merged model, in the `tokenizers` library alone.

    Args:
        content: as for `save_tokenizer`.

    Raises:
        ModelError: as there.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from luthier.models.native_tokenizer import with_pieces

    inner = Tokenizer.from_str(with_pieces(_pipeline(content), NativeEncoder(content)))
    return PreTrainedTokenizerFast(tokenizer_object=inner, **_special_tokens())


def _special_tokens() -> dict[str, Any]:
    from tokenizers import AddedToken

    names = {"bos": BOS, "eos": EOS, "cls": BOS, "sep": EOS, "unk": UNK, "pad": PAD}
    return {
        **{f"{role}_token": name for role, name in names.items()},
        "mask_token": AddedToken(MASK, lstrip=True, special=True),
        "clean_up_tokenization_spaces": False,
        # As of XLM-R, which knows one type of token.
        "model_input_names": ["input_ids", "attention_mask"],
    }


def _pipeline(content: bytes) -> dict[str, Any]:
    """The state of a tokenizer for a model, without its pieces."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    proto = parse_model(content)
    if (inside := next((one.piece for one in proto.pieces if BLANK in one.piece[1:]), None)) is not None:
        raise ModelError(f"the piece {inside!r} has a blank inside", fix="train it with `split_by_whitespace`")
    count = len(proto.pieces) + 2
    vocabulary = {name: number for number, name in enumerate(LEADING)} | {MASK: count - 1}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    inner.add_special_tokens([*LEADING, AddedToken(MASK, lstrip=True, special=True)])
    inner.normalizer = _normaliser(proto)
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Metaspace(BLANK, prepend_scheme="always", split=False)]
    )
    steps = [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(steps)
    inner.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}",
        pair=f"{BOS} $A {EOS} {EOS} $B {EOS}",
        special_tokens=[(BOS, LEADING.index(BOS)), (EOS, LEADING.index(EOS))],
    )
    state: dict[str, Any] = json.loads(inner.to_str())
    return state


def _normaliser(proto: Any) -> Any:
    from tokenizers import Regex, normalizers

    def among(letters: Sequence[int]) -> Any:
        return Regex("[" + "".join(f"\\x{{{one:x}}}" for one in letters) + "]")

    steps: list[Any] = [normalizers.NFKC()]
    if proto.normalizer_spec.name == "nmt_nfkc":
        steps += [normalizers.Replace(among(_BLANKS), " "), normalizers.Replace(among(_NOTHING), "")]
    else:
        steps.append(normalizers.Replace(BLANK, " "))
    if proto.normalizer_spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap))
    return normalizers.Sequence(steps)


def load_encoder(folder: str | Path) -> NativeEncoder:
    """The encoder of a tokenizer that a `vocabulary` stage made, without transformers around it.

    Raises:
        ModelError: the folder has no model of SentencePiece.
    """
    place = Path(folder) / MODEL_FILE
    if not place.is_file():
        raise ModelError(f"there is no {MODEL_FILE}", where=str(folder), fix="name the folder of a vocabulary stage")
    return NativeEncoder(place.read_bytes())
