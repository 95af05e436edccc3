"""A tokenizer of transformers that cuts text with SentencePiece, for vocabularies of a million pieces.

Everything around the model is the `tokenizers` library: added tokens, normalisation, places in the text, truncation,
padding and special tokens come from a pipeline whose last step asks SentencePiece for the tokens of a word. Plain ids
take a shorter way with the same result. Where Luthier is not at hand, transformers loads the same folder by its
`tokenizer.json`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import PreTokenizedString, Token, Tokenizer, pre_tokenizers
from transformers import AutoTokenizer, BatchEncoding, PreTrainedConfig, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import TruncationStrategy
from transformers.utils import PaddingStrategy

from luthier.models.native_encoder import LEADING, MODEL_FILE, PIPELINE_FILE, UNKNOWN_ID, NativeEncoder
from luthier.models.tensors import read_json

JSON_FILE = "tokenizer.json"
_MARK = 1 << 31
_WORDS_AT_HAND = 1 << 15


class NativeTokenizer(PreTrainedTokenizerFast):
    """SentencePiece as a tokenizer of transformers: ids, tokens and places are those of the folder's tokenizer.json.

    Args:
        vocab_file: SentencePiece's model.
        pipeline_file: `tokenizer.json` without the pieces.
        more: as for any tokenizer of transformers.

    Raises:
        ModelError: the model can't be read.
    """

    vocab_files_names = {"vocab_file": MODEL_FILE, "pipeline_file": PIPELINE_FILE}

    def __init__(self, vocab_file: str, pipeline_file: str, **more: Any) -> None:
        self._start(Path(vocab_file).read_bytes(), read_json(Path(pipeline_file)), more)

    @classmethod
    def of_model(cls, content: bytes, state: dict[str, Any], **more: Any) -> NativeTokenizer:
        """The tokenizer of a model and a pipeline that are no files yet.

        Args:
            content: of SentencePiece's model.
            state: `tokenizer.json` without the pieces.
            more: as for any tokenizer of transformers.
        """
        made = cls.__new__(cls)
        made._start(content, state, more)
        return made

    def _start(self, content: bytes, state: dict[str, Any], more: dict[str, Any]) -> None:
        self.__dict__["encoder"] = NativeEncoder(content)
        super().__init__(tokenizer_object=Tokenizer.from_str(json.dumps(state)), **more)
        self._attach()

    @classmethod
    def _from_pretrained(cls, resolved_vocab_files: dict[str, Any], *args: Any, **more: Any) -> Any:
        resolved_vocab_files.pop("tokenizer_file", None)  # or it is read whole, for its added tokens
        return super()._from_pretrained(resolved_vocab_files, *args, **more)

    @classmethod
    def convert_to_native_format(cls, **more: Any) -> dict[str, Any]:
        """The arguments as they are."""
        return more

    def _attach(self) -> None:
        self._plain = self._tokenizer.pre_tokenizer
        native = pre_tokenizers.PreTokenizer.custom(_Cutting(self.encoder))
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence([self._plain, native])

    # -- what is kept ------------------------------------------------------------------------------------------

    def pipeline_json(self) -> str:
        """All but the pieces, as JSON."""
        try:
            self._tokenizer.pre_tokenizer, kept = self._plain, self._tokenizer.pre_tokenizer
            text: str = self._tokenizer.to_str()
        finally:
            self._tokenizer.pre_tokenizer = kept
        state = json.loads(text)
        state["truncation"] = state["padding"] = None
        # Ids of added tokens are kept where the model has them.
        state["model"]["vocab"] = {one["content"]: one["id"] for one in state["added_tokens"]}
        return json.dumps(state, ensure_ascii=False)

    def to_str(self) -> str:
        """What `tokenizer.json` holds."""
        return with_pieces(json.loads(self.pipeline_json()), self.encoder)

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The same tokenizer in the `tokenizers` library alone, made anew: at a million pieces it takes 2 GB.

        It differs in one thing: with `split_special_tokens`, names of special tokens in a text are no text to it, since
        its model has them among its pieces.
        """
        return Tokenizer.from_str(self.to_str())

    def _save_pretrained(self, save_directory: Any, file_names: tuple[str, ...], *_: Any, **more: Any) -> Any:
        start = f"{more['filename_prefix']}-" if more.get("filename_prefix") else ""
        place = Path(save_directory)
        written = {PIPELINE_FILE: self.pipeline_json().encode(), MODEL_FILE: self.encoder.content}
        written[JSON_FILE] = self.to_str().encode()
        for name, content in written.items():
            (place / f"{start}{name}").write_bytes(content)
        return (*file_names, *(os.fspath(place / f"{start}{name}") for name in written))

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name not in ("_tokenizer", "_plain")}
        return {**state, "encoder": self.encoder.content, "_pipeline": self.pipeline_json()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: value for name, value in state.items() if name not in ("encoder", "_pipeline")})
        self.__dict__["encoder"] = NativeEncoder(state["encoder"])
        self.__dict__["_tokenizer"] = Tokenizer.from_str(state["_pipeline"])
        self._attach()

    def train_new_from_iterator(self, *args: Any, **more: Any) -> Any:
        """A tokenizer of the `tokenizers` library, trained on other text."""
        names = {name: str(token) for name, token in self.special_tokens_map.items()}
        plain = PreTrainedTokenizerFast(tokenizer_object=self.backend_tokenizer, **names)
        return plain.train_new_from_iterator(*args, **more)

    # -- ids and pieces ----------------------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """Ids without those of tokens that were added later."""
        return len(self.encoder)

    def __len__(self) -> int:
        size = len(self.encoder)
        return size + sum(number >= size for number in self.added_tokens_decoder)

    def get_vocab(self) -> dict[str, int]:
        """Token -> id."""
        found = {piece: number for number, piece in enumerate(self.encoder.pieces())}
        return {**found, **self.added_tokens_encoder}

    def _convert_token_to_id_with_added_voc(self, token: str) -> Any:
        for found in (self._tokenizer.token_to_id(token), self.encoder.number(token)):
            if found is not None:
                return found
        return self.unk_token_id

    def _convert_id_to_token(self, index: int) -> Any:
        added = self._tokenizer.id_to_token(int(index))
        return self.encoder.piece(int(index)) if added is None else added

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Tokens of ids."""
        if isinstance(ids, int):
            return self._convert_id_to_token(ids)
        left_out = set(self.all_special_ids) if skip_special_tokens else set()
        return [self._convert_id_to_token(number) for number in map(int, ids) if number not in left_out]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of tokens."""
        text: str = self._tokenizer.decoder.decode(tokens)
        return text

    def _decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **_: Any,
    ) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        tokens = [one for one in self.convert_ids_to_tokens(ids, skip_special_tokens) if one is not None]
        text = self.convert_tokens_to_string(tokens)
        wanted = self.clean_up_tokenization_spaces if clean_up_tokenization_spaces is None else True
        return self.clean_up_tokenization(text) if wanted and clean_up_tokenization_spaces is not False else text

    # -- encoding ----------------------------------------------------------------------------------------------

    def _encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        if text_pair is None and _plain_texts(text) and (plan := _Plan.of(self, options)) is not None:
            return self._ids_alone(text, plan, options)
        return super()._encode_plus(text, text_pair=text_pair, **options)

    def _ids_alone(self, text: str | Sequence[str], plan: _Plan, options: dict[str, Any]) -> BatchEncoding:
        texts = [text] if isinstance(text, str) else list(text)
        rows = [plan.framed(ids) for ids in self._ids(texts)] if plan.changes else self._ids(texts)
        longest = max(rows, key=len)
        self._eventual_warn_about_too_long_sequence(longest, options.get("max_length"), options.get("verbose", True))
        width = plan.width(len(longest))
        fillers = {"input_ids": plan.pad}
        columns: dict[str, list[list[int]]] = {"input_ids": rows}
        if self._wanted(options, "token_type_ids"):
            fillers["token_type_ids"] = self.pad_token_type_id
            columns["token_type_ids"] = [[0] * len(row) for row in rows]
        if self._wanted(options, "attention_mask"):
            fillers["attention_mask"] = 0
            columns["attention_mask"] = [[1] * len(row) for row in rows]
        if width:
            columns = {name: [plan.padded(row, width, fillers[name]) for row in own] for name, own in columns.items()}
        encodings = _Later(len(texts), lambda: super(NativeTokenizer, self)._encode_plus(texts, **options).encodings)
        tensors = options.get("return_tensors")
        if isinstance(text, str) and tensors is None:
            single = {name: column[0] for name, column in columns.items()}
            return BatchEncoding(single, encodings, n_sequences=1)
        return BatchEncoding(columns, encodings, tensor_type=tensors, n_sequences=1)

    def _wanted(self, options: dict[str, Any], name: str) -> bool:
        asked = options.get(f"return_{name}")
        return name in self.model_input_names if asked is None else bool(asked)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        """Ids of texts without the special ones around them; texts with added tokens go through the pipeline."""
        marked = _with_added_tokens(texts, list(self.added_tokens_decoder.values()))
        if not marked:
            return self.encoder.encode(texts)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = False
        whole = self._tokenizer.encode_batch([texts[place] for place in marked], add_special_tokens=False)
        found = dict(zip(marked, (one.ids for one in whole), strict=True))
        rest = iter(self.encoder.encode([one for place, one in enumerate(texts) if place not in found]))
        return [found[place] if place in found else next(rest) for place in range(len(texts))]


class _Plan:
    """How plain ids of a text become a row: what stands around them, how long they may be, how they are padded."""

    def __init__(self, tokenizer: NativeTokenizer, options: dict[str, Any]) -> None:
        before, after = _frame(tokenizer) if options.get("add_special_tokens", True) else ([], [])
        self.before, self.after = before, after
        self.pad = tokenizer.pad_token_id
        strategy = options.get("truncation_strategy", TruncationStrategy.DO_NOT_TRUNCATE)
        self.room = None
        if strategy != TruncationStrategy.DO_NOT_TRUNCATE:
            self.room = options["max_length"] - len(before) - len(after)
        self.cut_left = tokenizer.truncation_side == "left"
        self.pad_left = (options.get("padding_side") or tokenizer.padding_side) == "left"
        self.padding = options.get("padding_strategy", PaddingStrategy.DO_NOT_PAD)
        self.most: Any = options.get("max_length")
        self.changes = bool(before or after or self.room is not None)
        self.multiple = options.get("pad_to_multiple_of") or 1

    @classmethod
    def of(cls, tokenizer: NativeTokenizer, options: dict[str, Any]) -> _Plan | None:
        """The plan of a call; None where it asks for more than ids."""
        more = ("is_split_into_words", "return_overflowing_tokens", "return_special_tokens_mask", "return_length")
        if any(options.get(name) for name in (*more, "return_offsets_mapping", "sanitize_control_tokens")):
            return None
        asked = options.get("split_special_tokens")
        if tokenizer.split_special_tokens if asked is None else asked:
            return None
        if options.get("truncation_strategy") == TruncationStrategy.ONLY_SECOND:
            return None
        plan = cls(tokenizer, options)
        return plan if plan.room is None or plan.room > 0 else None

    def framed(self, ids: list[int]) -> list[int]:
        """Shortened, with special tokens around."""
        if self.room is not None and len(ids) > self.room:
            ids = ids[-self.room :] if self.cut_left else ids[: self.room]
        return [*self.before, *ids, *self.after]

    def width(self, longest: int) -> int:
        """What rows are padded to, of which one has that length; 0 where they are not."""
        if self.padding == PaddingStrategy.DO_NOT_PAD:
            return 0
        wanted = int(self.most) if self.padding == PaddingStrategy.MAX_LENGTH else longest
        return -(-wanted // self.multiple) * self.multiple

    def padded(self, row: list[int], width: int, filler: int) -> list[int]:
        """With a filler before or behind."""
        missing = [filler] * (width - len(row))
        return (missing + row if self.pad_left else row + missing) if missing else row


class _Later(Sequence[Any]):
    """Encodings that are made when somebody asks for one."""

    def __init__(self, size: int, make: Callable[[], Any]) -> None:
        self.size, self.make = size, make
        self.made: Any = None

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: Any) -> Any:
        if self.made is None:
            self.made = self.make()
        return self.made[place]

    def __reduce__(self) -> Any:
        return list, (list(self),)


class _Cutting:
    """The last step of the pipeline: tokens of each word."""

    def __init__(self, encoder: NativeEncoder) -> None:
        def tokens(word: str) -> list[Token]:
            return [Token(number, piece, (start, end)) for number, piece, start, end in encoder.spans(word)]

        self.tokens = lru_cache(_WORDS_AT_HAND)(tokens)

    def pre_tokenize(self, text: Any) -> None:
        """Give every word of a text its tokens."""
        text.tokenize(self.tokens)


def _plain_texts(text: Any) -> bool:
    return isinstance(text, str) or (
        isinstance(text, list) and bool(text) and all(isinstance(one, str) for one in text)
    )


def _with_added_tokens(texts: list[str], added: list[Any]) -> list[int]:
    """Places of texts that may have one; all, where one is looked for in normalised text."""
    if any(token.normalized for token in added):
        return list(range(len(texts)))
    whole = "\0".join(texts)
    names = [token.content for token in added if token.content in whole]
    return [place for place, text in enumerate(texts) if any(name in text for name in names)] if names else []


def _frame(tokenizer: NativeTokenizer) -> tuple[list[int], list[int]]:
    """Ids that the pipeline puts before and behind a text."""
    text = PreTokenizedString("x")
    text.tokenize(lambda _: [Token(_MARK, "x", (0, 1))])
    ids = tokenizer._tokenizer.post_processor.process(text.to_encoding(), None, True).ids
    place = ids.index(_MARK)
    return ids[:place], ids[place + 1 :]


def with_pieces(state: dict[str, Any], encoder: NativeEncoder) -> str:
    """A `tokenizer.json` whose model has the pieces and scores of an encoder."""
    numbers = list(range(len(encoder)))
    vocabulary = list(zip(encoder.pieces(), encoder.processor.get_score(numbers), strict=True))
    byte_fallback = any(map(encoder.processor.is_byte, numbers[: len(LEADING) + 256]))
    model = {"type": "Unigram", "unk_id": UNKNOWN_ID, "vocab": vocabulary, "byte_fallback": byte_fallback}
    return json.dumps({**state, "model": model}, ensure_ascii=False)


class _NativeConfig(PreTrainedConfig):
    """Of no model: transformers registers tokenizers by the configuration of one."""

    model_type = "luthier-native-tokenizer"


AutoTokenizer.register(_NativeConfig, tokenizer_class=NativeTokenizer, exist_ok=True)
