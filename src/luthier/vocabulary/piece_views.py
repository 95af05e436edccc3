"""Pieces of any fast tokenizer in one notation: letters, with `▁` in front where a word begins.

WordPiece writes `##ing` inside of words, byte-level BPE `Ġthe` at their start and odd letters for bytes, SentencePiece
`▁the`. What the tokenizer of a WordPiece vocabulary makes a word wherever it stands, as BERT's does punctuation and Han
letters, is one piece there and two with the others, `▁,` and `,`; its `##,` occurs in no text.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from luthier.errors import ModelError

START = "▁"
ROLES = ("bos", "cls", "eos", "sep", "unk", "pad", "mask")
_OTHER_ROLE = {"bos": "cls", "cls": "bos", "eos": "sep", "sep": "eos"}
# Marks a byte-level piece that is no whole text; no text has it.
_BYTES = "\0"


def id_count(tokenizer: Any) -> int:
    """Rows that embeddings for a tokenizer need: its highest id and one, which may be more than it has tokens."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


class PieceView:
    """Reads the vocabulary of a tokenizer, and cuts pieces of another one with it.

    Args:
        tokenizer: of transformers, with a backend of the `tokenizers` library.

    Raises:
        ModelError: it has no such backend.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                "the tokenizer is not of the `tokenizers` library", fix="put its tokenizer.json beside config.json"
            )
        self.tokenizer = tokenizer
        self.backend = tokenizer.backend_tokenizer
        self.kind = type(self.backend.model).__name__
        prefix = getattr(self.backend.model, "continuing_subword_prefix", None)
        self.inside = (prefix or "##") if self.kind == "WordPiece" else ""
        self.byte_level = "ByteLevel" in f"{self.backend.pre_tokenizer!r} {self.backend.decoder!r}"

    @cached_property
    def pieces(self) -> list[str]:
        """Pieces by id in the common notation; special tokens as they are."""
        special, names = self.special_ids, [""] * id_count(self.tokenizer)
        for name, number in self.tokenizer.get_vocab().items():
            names[number] = name if number in special else self.common(name)
        return names

    @cached_property
    def special_ids(self) -> set[int]:
        """Ids of special tokens, of those without a role too."""
        added = self.tokenizer.added_tokens_decoder.items()
        return {*self.tokenizer.all_special_ids, *(number for number, token in added if token.special)}

    @cached_property
    def added(self) -> dict[str, int]:
        """Id by content of tokens that are looked for in a text before it is cut, special ones among them."""
        return {token.content: int(number) for number, token in self.tokenizer.added_tokens_decoder.items()}

    @cached_property
    def roles(self) -> dict[str, int]:
        """Role -> id of the special token that has it."""
        found = {role: getattr(self.tokenizer, f"{role}_token_id", None) for role in ROLES}
        return {role: int(number) for role, number in found.items() if number is not None}

    def with_role(self, role: str) -> int | None:
        """The id for a role; that of [CLS] for one of a text's start, and of [SEP] for its end."""
        return self.roles.get(role, self.roles.get(_OTHER_ROLE.get(role, "")))

    def common(self, piece: str) -> str:
        """A piece of this vocabulary in the common notation."""
        if self.kind == "WordLevel":
            return START + piece
        if self.kind == "WordPiece":
            return piece.removeprefix(self.inside) if piece.startswith(self.inside) else START + piece
        if self.byte_level:
            text = _decoded(piece)
            return _BYTES + piece if text is None else START + text[1:] if text.startswith(" ") else text
        return piece

    def spellings(self, number: int) -> tuple[str, ...]:
        """A piece in the common notation; both without and with `▁` where it is a word wherever it stands."""
        piece = self.pieces[number]
        text = piece.removeprefix(START)
        return (text, START + text) if number not in self.special_ids and self._alone(text) else (piece,)

    def of_pieces(self) -> dict[str, int]:
        """Id by piece in the common notation, special tokens left out; the first id where several are written alike."""
        return {self.pieces[number]: number for number in self._plain_ids()}

    def of_spellings(self) -> dict[str, int]:
        """The same by every spelling of a piece, among which those that occur in texts go before others."""
        unused = {number for number in self._plain_ids() if self._alone(self.pieces[number])}
        order = sorted(self._plain_ids(), key=lambda number: number not in unused)
        return {spelling: number for number in order for spelling in self.spellings(number)}

    def _plain_ids(self) -> list[int]:
        """Ids that are no special tokens, the last one first."""
        return [number for number in reversed(range(len(self.pieces))) if number not in self.special_ids]

    def cut(self, piece: str) -> list[int]:
        """Ids that a piece in the common notation is made of in this vocabulary; unknown letters are left out."""
        begins, text = piece.startswith(START), piece.removeprefix(START)
        if piece.startswith(_BYTES):
            tokens = self.backend.model.tokenize(piece[1:]) if self.byte_level else []
            return self._known([token.id for token in tokens])
        normal = self._normalised(text)
        if self.kind == "WordLevel":
            return self._known([token.id for token in self.backend.model.tokenize(normal)]) if begins and normal else []
        if self.kind == "WordPiece":
            return self._known(self._word_pieces(normal, begins))
        spelled = _encoded((" " if begins else "") + normal) if self.byte_level else (START if begins else "") + normal
        return self._known([token.id for token in self.backend.model.tokenize(spelled)]) if spelled else []

    def _known(self, ids: list[int]) -> list[int]:
        unknown = self.roles.get("unk")
        return [number for number in ids if number != unknown]

    def _normalised(self, text: str) -> str:
        if self.backend.normalizer is None or not text:
            return text
        normal: str = self.backend.normalizer.normalize_str(text)
        return normal.strip(f"{START} ") or text

    def _word_pieces(self, text: str, begins: bool) -> list[int]:
        parts = self.backend.pre_tokenizer
        words = [text] if parts is None else [word for word, _ in parts.pre_tokenize_str(text)]
        found = [
            self._greedy(word, begins or place > 0 or self._alone(word)) for place, word in enumerate(words) if word
        ]
        return [number for part in found for number in part]

    def _alone(self, text: str) -> bool:
        """Whether WordPiece reads a text as a word of its own also where letters stand around it."""
        parts = self.backend.pre_tokenizer
        if self.kind != "WordPiece" or parts is None or not text or text.startswith(START):
            return False
        around = self._normalised(f"a{text}a")
        return any(word == self._normalised(text) for word, _ in parts.pre_tokenize_str(around))

    def _greedy(self, word: str, begins: bool) -> list[int]:
        """The longest known piece, again and again, as WordPiece does it; also from inside of a word."""
        found, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                name = word[start:end] if begins and start == 0 else self.inside + word[start:end]
                number = self.backend.model.token_to_id(name)
                if number is not None:
                    found.append(int(number))
                    start = end
                    break
            else:
                start += 1
        return found


def _byte_letters() -> dict[int, str]:
    """Byte -> the printable letter that byte-level BPE writes for it (Radford et al., 2019)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in plain}
    for number, byte in enumerate(byte for byte in range(256) if byte not in letters):
        letters[byte] = chr(256 + number)
    return letters


_LETTER_OF = _byte_letters()
_BYTE_OF = {letter: byte for byte, letter in _LETTER_OF.items()}


def _encoded(text: str) -> str:
    return "".join(_LETTER_OF[byte] for byte in text.encode())


def _decoded(piece: str) -> str | None:
    try:
        return bytes(_BYTE_OF[letter] for letter in piece).decode()
    except (KeyError, UnicodeDecodeError):
        return None
