"""Text to ids by SentencePiece's own encoder, in the ids of XLM-R.

Ids: `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3, SentencePiece's id i >= 3 is i + 1, and `<mask>` comes last.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby

from luthier.errors import ModelError

MODEL_FILE = "sentencepiece.bpe.model"
PIPELINE_FILE = "native_tokenizer.json"
BOS, PAD, EOS, UNK, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"
LEADING = (BOS, PAD, EOS, UNK)
BLANK = "▁"
UNKNOWN_ID = LEADING.index(UNK)
_UNKNOWN, _CONTROL = 2, 3
_SAVED = ((UNK, _UNKNOWN), (BOS, _CONTROL), (EOS, _CONTROL))
_HELD = ((BOS, _CONTROL), (PAD, _CONTROL), (EOS, _CONTROL), (UNK, _UNKNOWN))


class NativeEncoder:
    """SentencePiece on the ids that transformers expects.

    Args:
        content: a serialised ModelProto that starts with `<unk>`, `<s>`, `</s>`, as it is kept in a file.

    Raises:
        ModelError: it is no model, or it starts with other pieces.
    """

    def __init__(self, content: bytes) -> None:
        import sentencepiece
        from tokenizers import normalizers

        self.content = content
        try:
            self.processor = sentencepiece.SentencePieceProcessor(model_proto=_with_ids_of_xlm_r(content))
        except RuntimeError as error:
            raise ModelError(f"it can't be read by SentencePiece: {error}", where=MODEL_FILE) from error
        self._nfkc = normalizers.NFKC().normalize_str
        self._unsure = _unassigned().search

    def __len__(self) -> int:
        """Ids, the special ones among them."""
        return int(self.processor.get_piece_size())

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of every text, without special tokens: names of special tokens in it are text."""
        encoded: list[list[int]] = self.processor.encode([self._ready(text) for text in texts], num_threads=1)
        return encoded

    def _ready(self, text: str) -> str:
        """NFKC-normalised, by the tables of `tokenizers` where those of Python may be older, without `▁`."""
        if not text.isascii():
            if self._unsure(text) or not unicodedata.is_normalized("NFKC", text):
                text = self._nfkc(text)
            text = text.replace(BLANK, " ")
        return text

    def piece(self, number: int) -> str | None:
        """The piece of an id; None where there is none."""
        return str(self.processor.id_to_piece(number)) if 0 <= number < len(self) else None

    def number(self, piece: str) -> int | None:
        """The id of a piece; None where there is none."""
        found = int(self.processor.piece_to_id(piece))
        return None if found == UNKNOWN_ID and piece != UNK else found

    def pieces(self) -> list[str]:
        """All pieces, by id."""
        found: list[str] = self.processor.id_to_piece(list(range(len(self))))
        return found

    def spans(self, word: str) -> Iterator[tuple[int, str, int, int]]:
        """Id, text, and first and last place of the tokens of a normalised word that starts with `▁`.

        Places are bytes of UTF-8. Bytes that stand for unknown letters all have the place of these.
        """
        raw = word.removeprefix(BLANK)
        numbers = self.processor.encode(raw)
        pieces = self.processor.encode(raw, out_type=str)
        start = 0
        for bytewise, run in groupby(zip(numbers, pieces, strict=True), lambda one: self.processor.is_byte(one[0])):
            found = list(run)
            whole = len(bytes(int(piece[3:5], 16) for _, piece in found)) if bytewise else 0
            for number, piece in found:
                size = whole if bytewise else len(piece.encode())
                yield number, piece, start, start + size
                start += 0 if bytewise else size
            start += whole


def _with_ids_of_xlm_r(content: bytes) -> bytes:
    """The model with `<s>`, `<pad>`, `</s>`, `<unk>` in front and `<mask>` at the end.

    Pieces are field 1 of the message and come first; of a field that is given twice, the later one counts.
    """
    from sentencepiece import sentencepiece_model_pb2

    def message(pieces: Sequence[tuple[str, int]], **ids: int) -> bytes:
        made = sentencepiece_model_pb2.ModelProto()
        for piece, kind in pieces:
            made.pieces.add(piece=piece, score=0.0, type=kind)
        if ids:
            made.trainer_spec.MergeFrom(sentencepiece_model_pb2.TrainerSpec(**ids))
        written: bytes = made.SerializeToString()
        return written

    before = message(_SAVED)
    if not content.startswith(before):
        raise ModelError(
            f"the model does not start with {UNK}, {BOS}, {EOS}", where=MODEL_FILE, fix="make it by merge_vocabularies"
        )
    ids = {f"{role}_id": LEADING.index(name) for role, name in zip(("bos", "pad", "eos", "unk"), LEADING, strict=True)}
    return message(_HELD) + content[len(before) :] + message([(MASK, _CONTROL)], **ids)


@cache
def _unassigned() -> re.Pattern[str]:
    """Characters that this Python does not know, and all beyond the basic plane."""
    unknown = "".join(chr(one) for one in range(0x10000) if unicodedata.category(chr(one)) == "Cn")
    return re.compile(f"[{re.escape(unknown)}\U00010000-{chr(sys.maxunicode)}]")
