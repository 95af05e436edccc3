"""Texts -> token ids, one function a task.

Each takes the canonical columns of N rows and gives columns of the same, or of another, number of rows. `row` carries
the number of the source row along.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from luthier.data.batches.conversations import conversation_opening, conversation_tokens
from luthier.data.batches.tokens import token_columns
from luthier.data.batches.unusable import UnusableRowsError, long_questions, lost_answers, nothing_learned
from luthier.data.schemas import IGNORED
from luthier.data.text_form import TextForm
from luthier.errors import DataError, ModelError

Columns = Mapping[str, Sequence[Any]]
Encoded = dict[str, list[Any]]
_NAMED_ROWS = 5


@dataclass
class Encoder:
    """How text becomes token ids.

    Attributes:
        tokenizer: of the model.
        max_length: positions that the model may use.
        reserved: positions kept free for the tuning method.
        too_long: `error`, or `truncate`.
        encoder_decoder: whether responses go to a decoder of their own.
        where: the split, for messages.
        form: how the task is posed as text, or None.
        labels: names of all labels, for tasks whose rows tell them.
        conversations: whether any row of the split has messages before its prompt; None where only those that are
            encoded together can tell.
        counted: texts whose length was looked at.
        cut: (row, tokens before the cut) of every row that was cut.
        unseen: (row, words) of every row with words that the model does not see.
    """

    tokenizer: Any
    max_length: int
    reserved: int = 0
    too_long: str = "error"
    encoder_decoder: bool = False
    where: str = "data"
    form: TextForm | None = None
    labels: tuple[str, ...] = ()
    conversations: bool | None = None
    counted: int = 0
    cut: list[tuple[int, int]] = field(default_factory=list)
    unseen: list[tuple[int, int]] = field(default_factory=list)

    @property
    def room(self) -> int:
        """Tokens that a row may have."""
        return self.max_length - self.reserved

    def tokenize(self, texts: list[Any], pairs: list[Any] | None = None, **options: Any) -> Any:
        """Call the tokenizer on a batch, without its own warnings about length."""
        try:
            if options.keys() <= {"add_special_tokens"}:
                return token_columns(self.tokenizer, texts, pairs, **options)
            return self.tokenizer(texts, pairs, verbose=False, **options)
        except (AssertionError, NotImplementedError, TypeError) as error:
            raise ModelError(f"the tokenizer can't encode this task: {error}", fix="load a fast tokenizer") from error
        except Exception as error:
            if type(error) is not Exception:  # the library of tokenizers has no class of its own
                raise
            raise ModelError(
                f"the tokenizer can't cut the texts: {error}",
                where=self.where,
                fix="copy or download tokenizer.json again, or name an unknown token that its vocabulary has",
            ) from error

    def as_read(self, texts: Sequence[Sequence[str]]) -> list[list[str]]:
        """Texts in words such that the tokenizer, called on the words, reads each as behind a blank."""
        if not needs_blanks(self.tokenizer):
            return [list(words) for words in texts]
        return [[*words[:1], *(_behind_blank(word) for word in words[1:])] for words in texts]

    def too_long_rows(self, rows: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """Indices of rows that have to be cut; they are noted in `cut`.

        Raises:
            DataError: there are some and they may not be cut, or a row has no tokens at all.
        """
        self.counted += len(rows)
        empty = [row for row, length in zip(rows, lengths, strict=True) if length == 0]
        if empty:
            raise DataError(f"row {empty[0]} becomes no tokens", where=self.where, fix="remove or correct the row")
        over = [i for i, length in enumerate(lengths) if length > self.room]
        if over and self.too_long == "error":
            found = [(rows[i], lengths[i]) for i in over]
            raise UnusableRowsError(1, found, self.length_error, len(rows))
        self.cut += [(rows[i], lengths[i]) for i in over]
        return over

    def length_error(self, over: list[tuple[int, int]], total: int) -> DataError:
        """What to say about (row, tokens) that are longer than the room."""
        row, length = max(over, key=lambda pair: pair[1])
        kept = f" ({self.max_length} less {self.reserved} kept for the tuning method)" if self.reserved else ""
        named = ", ".join(str(number) for number, _ in over[:_NAMED_ROWS]) + (
            ", ..." if len(over) > _NAMED_ROWS else ""
        )
        return DataError(
            f"{len(over)} of {total} rows are longer than {self.room} tokens{kept}: rows {named}; "
            f"the longest is row {row} with {length} tokens",
            where=self.where,
            fix="set `too_long: truncate` to cut them, raise `max_length` if the model allows, or shorten the texts",
        )


def encode_texts(columns: Columns, encoder: Encoder) -> Encoded:
    """Single texts and pairs, for classification and regression."""
    texts = list(columns["text"])
    pairs = list(columns["text_pair"]) if "text_pair" in columns else None
    rows = list(columns["row"])
    encoded: Encoded = {key: list(value) for key, value in encoder.tokenize(texts, pairs).items()}
    over = encoder.too_long_rows(rows, [len(ids) for ids in encoded["input_ids"]])
    if over:
        again = encoder.tokenize(
            [texts[i] for i in over],
            [pairs[i] for i in over] if pairs else None,
            truncation=True,
            max_length=encoder.room,
        )
        for key in encoded:
            for i, value in zip(over, again[key], strict=True):
                encoded[key][i] = value
    if "label" in columns:
        encoded["labels"] = list(columns["label"])
    return _finished(encoded, rows)


def encode_words(columns: Columns, encoder: Encoder) -> Encoded:
    """Words with a label each: the first sub-word carries it, all else is ignored.

    `word_starts` holds the place of the first sub-word of every word. A word that becomes no tokens, or lies behind
    the cut, has -1 there and is noted in `encoder.unseen`. Without tags there are no `labels`.

    Raises:
        DataError: a row is too long, or has tags and no word that the model sees.
    """
    rows, words = list(columns["row"]), encoder.as_read(columns["tokens"])
    tags = columns.get("tags")
    batch = encoder.tokenize(words, is_split_into_words=True)
    lengths = [len(ids) if tags is not None else max(1, len(ids)) for ids in batch["input_ids"]]
    if encoder.too_long_rows(rows, lengths):
        batch = encoder.tokenize(words, is_split_into_words=True, truncation=True, max_length=encoder.room)
    encoded: Encoded = {key: list(value) for key, value in batch.items()}
    starts = [_word_starts(batch.word_ids(i), len(some)) for i, some in enumerate(words)]
    encoder.unseen += [(row, some.count(-1)) for row, some in zip(rows, starts, strict=True) if -1 in some]
    encoded["word_starts"] = starts
    if tags is None:
        _fill_empty_rows(encoded, encoder)
        return _finished(encoded, rows)
    encoded["labels"] = [[IGNORED] * len(ids) for ids in encoded["input_ids"]]
    for labels, some, own in zip(encoded["labels"], starts, tags, strict=True):
        for start, tag in zip(some, own, strict=True):
            if start >= 0:
                labels[start] = tag
    masked = [row for row, labels in zip(rows, encoded["labels"], strict=True) if all(x == IGNORED for x in labels)]
    if masked:
        raise UnusableRowsError(2, masked, partial(nothing_learned, encoder.where), len(rows))
    return _finished(encoded, rows)


def needs_blanks(tokenizer: Any) -> bool:
    """Whether words of a list run together unless each begins with the blank before it: those of byte-level
    tokenizers that put none before a text."""
    joined, apart, behind = (
        tokenizer(text, is_split_into_words=type(text) is list, add_special_tokens=False)["input_ids"]
        for text in ("a b", ["a", "b"], ["a", " b"])
    )
    return bool(apart != joined and behind == joined)


def _behind_blank(word: str) -> str:
    return f" {word}" if word and not word[0].isspace() else word


def _word_starts(owners: list[int | None], words: int) -> list[int]:
    starts = [-1] * words
    for place, word in enumerate(owners):
        if word is not None and starts[word] < 0:
            starts[word] = place
    return starts


def _fill_empty_rows(encoded: Encoded, encoder: Encoder) -> None:
    """Rows without tokens get one that stands for nothing, so that they can be part of a batch."""
    tokenizer = encoder.tokenizer
    stand_in = {"input_ids": tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id}
    for i in [i for i, ids in enumerate(encoded["input_ids"]) if not ids]:
        for key, values in encoded.items():
            if key == "word_starts":
                continue
            values[i] = [stand_in.get(key, 1 if key == "attention_mask" else 0)]


def encode_questions(columns: Columns, encoder: Encoder) -> Encoded:
    """Questions with contexts, in overlapping windows.

    Every window has `offsets`, the (start, end) characters of each token in the context, (-1, -1) outside of it, and,
    with answers, `start_positions` and `end_positions`: those of the first token where the window lacks the answer.
    """
    rows, contexts = list(columns["row"]), list(columns["context"])
    questions = [question.strip() for question in columns["question"]]
    stride = max(1, encoder.room // 3)
    lengths = [len(ids) for ids in encoder.tokenize(questions, [""] * len(questions))["input_ids"]]
    over = [(rows[i], length) for i, length in enumerate(lengths) if length > encoder.room - stride - 1]
    if over:
        raise UnusableRowsError(0, over, partial(long_questions, encoder.where, encoder.room), len(rows))
    batch = encoder.tokenize(
        questions,
        contexts,
        truncation="only_second",
        max_length=encoder.room,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    source = batch.pop("overflow_to_sample_mapping")
    offsets = batch.pop("offset_mapping")
    encoded: Encoded = {key: list(value) for key, value in batch.items()}
    encoded["offsets"] = [
        [list(pair) if part == 1 else [-1, -1] for pair, part in zip(offsets[i], batch.sequence_ids(i), strict=True)]
        for i in range(len(source))
    ]
    if "answers" in columns:
        _place_answers(encoded, [columns["answers"][i] for i in source], [rows[i] for i in source], encoder)
    return _finished(encoded, [rows[i] for i in source])


def _place_answers(encoded: Encoded, answers: list[Any], rows: list[int], encoder: Encoder) -> None:
    spans, answered, found = [], set(), set()
    for offsets, answer, row in zip(encoded["offsets"], answers, rows, strict=True):
        span = None
        if answer["text"]:
            answered.add(row)
            first = answer["answer_start"][0]
            span = _token_span(offsets, first, first + len(answer["text"][0]))
            found |= {row} if span else set()
        spans.append(span or (0, 0))
    lost = sorted(answered - found)
    if lost:
        raise UnusableRowsError(2, lost, partial(lost_answers, encoder.where, encoder.room), len(rows))
    encoded["start_positions"] = [start for start, _ in spans]
    encoded["end_positions"] = [end for _, end in spans]


def _token_span(offsets: list[list[int]], first: int, last: int) -> tuple[int, int] | None:
    inside = [i for i, (start, end) in enumerate(offsets) if start >= 0 and end > first and start < last]
    if not inside or offsets[inside[0]][0] > first or offsets[inside[-1]][1] < last:
        return None
    return inside[0], inside[-1]


def encode_choices(columns: Columns, encoder: Encoder) -> Encoded:
    """A context with each of its choices: lists of C token lists."""
    rows, choices = list(columns["row"]), list(columns["choices"])
    owners = [i for i, some in enumerate(choices) for _ in some]
    flat = encode_texts(
        {
            "text": [columns["context"][i] for i in owners],
            "text_pair": [choice for some in choices for choice in some],
            "row": [rows[i] for i in owners],
        },
        encoder,
    )
    nested: Encoded = {key: [[] for _ in rows] for key in flat if key not in ("row", "length")}
    for key, groups in nested.items():
        for owner, value in zip(owners, flat[key], strict=True):
            groups[owner].append(value)
    if "label" in columns:
        nested["labels"] = list(columns["label"])
    nested["row"] = rows
    nested["length"] = [max(len(ids) for ids in group) for group in nested["input_ids"]]
    return nested


def encode_replies(columns: Columns, encoder: Encoder) -> Encoded:
    """Prompts with responses; only the response is learned.

    With a chat template the prompt is the user's turn. With messages before it, `history`, the assistant's among them
    are learned too. A row that has to be cut loses the start of its prompt first, down to a quarter of the room, then
    the end of its response.
    """
    rows = list(columns["row"])
    template = getattr(encoder.tokenizer, "chat_template", None) is not None
    eos = encoder.tokenizer.eos_token_id
    if any(columns.get("history") or ()) if encoder.conversations is None else encoder.conversations:
        prompts, learned, replies = conversation_tokens(columns, rows, encoder)
    else:
        ends = [end for _, end in turns(columns["prompt"], columns["response"], encoder.tokenizer)]
        prompts = prompt_tokens(columns["prompt"], encoder)
        learned = [[IGNORED] * len(prompt) for prompt in prompts]
        replies = encoder.tokenize(ends, add_special_tokens=False)["input_ids"]
    if encoder.encoder_decoder:
        return _two_sided(rows, prompts, replies, eos, encoder)
    if not template:
        replies = [[*ids, eos] if eos is not None else ids for ids in replies]
    for i in encoder.too_long_rows(rows, [len(p) + len(r) for p, r in zip(prompts, replies, strict=True)]):
        kept = max(encoder.room - len(replies[i]), encoder.room // 4)
        prompts[i], learned[i] = prompts[i][-kept:], learned[i][-kept:]
        replies[i] = replies[i][: encoder.room - len(prompts[i])]
    both = list(zip(prompts, replies, strict=True))
    encoded: Encoded = {
        "input_ids": [[*prompt, *reply] for prompt, reply in both],
        "attention_mask": [[1] * (len(prompt) + len(reply)) for prompt, reply in both],
        "labels": [[*earlier, *reply] for earlier, reply in zip(learned, replies, strict=True)],
    }
    return _finished(encoded, rows)


def prompt_tokens(prompts: Sequence[str], encoder: Encoder) -> list[list[int]]:
    """Token ids of prompts that a response follows: the user's turn where there is a chat template; without the end
    token where the response goes on in the prompt's own text."""
    chat = getattr(encoder.tokenizer, "chat_template", None) is not None
    written = [start for start, _ in turns(prompts, [""] * len(prompts), encoder.tokenizer)]
    found = encoder.tokenize(written, add_special_tokens=not chat)["input_ids"]
    if encoder.encoder_decoder or chat:
        return [list(ids) for ids in found]
    return [open_ended(ids, encoder.tokenizer) for ids in found]


def open_ended(ids: Sequence[int], tokenizer: Any) -> list[int]:
    """Token ids without the end token that some tokenizers put behind a text, so that it can go on."""
    end = tokenizer.eos_token_id
    return list(ids[:-1]) if end is not None and list(ids[-1:]) == [end] else list(ids)


def opening_tokens(rows: Sequence[Mapping[str, Any]], encoder: Encoder, written: int) -> list[list[int]]:
    """Token ids that a language model goes on from: of prompts, as they are learned with a response, or of plain
    texts, as they are learned in blocks. One that has to be cut, so that `written` tokens find room behind it, keeps
    its end, and its start where a decoder of its own writes.

    Raises:
        DataError: a row becomes no tokens.
    """
    if "prompt" in rows[0]:
        found = prompt_tokens([row["prompt"] for row in rows], encoder)
        for place, row in enumerate(rows):
            if row.get("history"):
                found[place] = conversation_opening(row, encoder)
    else:
        found = encoder.tokenize([row["text"] for row in rows], add_special_tokens=False)["input_ids"]
    kept = encoder.room if encoder.encoder_decoder else max(encoder.room - written, encoder.room // 4)
    narrow = replace(encoder, max_length=kept, reserved=0)
    over = narrow.too_long_rows([row["row"] for row in rows], [len(ids) for ids in found])
    for i in over:
        found[i] = found[i][:kept] if encoder.encoder_decoder else found[i][-kept:]
    return [list(ids) for ids in found]


def turns(prompts: Sequence[str], responses: Sequence[str], tokenizer: Any) -> Iterator[tuple[str, str]]:
    """Prompts and responses as the tokenizer's chat template writes them, or as they are where it has none."""
    for prompt, response in zip(prompts, responses, strict=True):
        if getattr(tokenizer, "chat_template", None) is None:
            yield prompt, response
            continue
        both = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        start = tokenizer.apply_chat_template(both[:1], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(both, tokenize=False)
        yield (start, whole.removeprefix(start)) if whole.startswith(start) else (start, response)


def turn_end(tokenizer: Any) -> int | None:
    """The special token that ends a response where the tokenizer's chat template writes one; None where none does."""
    if getattr(tokenizer, "chat_template", None) is None:
        return None
    told = "answer"
    ((_, reply),) = turns(["question"], [told], tokenizer)
    special = {place for place, token in tokenizer.added_tokens_decoder.items() if token.special}
    behind = tokenizer(reply.partition(told)[2], add_special_tokens=False)["input_ids"]
    return next((int(token) for token in behind if token in special), None)


def _two_sided(rows: list[int], prompts: Any, replies: Any, eos: int | None, encoder: Encoder) -> Encoded:
    prompts = [list(ids) for ids in prompts]
    replies = [[*ids, eos] if eos is not None else list(ids) for ids in replies]
    for i in encoder.too_long_rows(rows, [max(len(p), len(r)) for p, r in zip(prompts, replies, strict=True)]):
        prompts[i], replies[i] = prompts[i][: encoder.room], replies[i][: encoder.room]
    masks = [[1] * len(ids) for ids in prompts]
    return _finished({"input_ids": prompts, "attention_mask": masks, "labels": replies}, rows)


def _finished(encoded: Encoded, rows: list[int]) -> Encoded:
    encoded["row"] = rows
    encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
    return encoded
