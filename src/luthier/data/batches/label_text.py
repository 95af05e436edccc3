"""Examples of a task that is posed as text -> prompts with the answers that are compared.

An encoded row has the columns of a prompt with its response, of which only the response is learned, and

- `prompt_tokens`: how many of its `input_ids` are the prompt;
- `options`: token ids of every answer that is compared, end token included;
- `answer`: the index of the right one, -1 where none is; only with labels;
- `gold`: the label id, or the score of regression; only with labels.

Without labels `input_ids` is the prompt alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.data.batches.encoders import Columns, Encoded, Encoder, prompt_tokens, turns
from luthier.data.schemas import IGNORED
from luthier.data.text_form import TextForm
from luthier.errors import DataError


def encode_label_texts(columns: Columns, encoder: Encoder) -> Encoded:
    """Prompts in the encoder's form. One that has to be cut loses the end of its longest text.

    Raises:
        DataError: a column is missing, two answers have the same tokens, or a row is too long.
    """
    form, rows = _form_of(encoder), list(columns["row"])
    examples = [{name: values[i] for name, values in columns.items()} for i in range(len(rows))]
    try:
        texts = [form.values(example) for example in examples]
        options = [form.options(example) for example in examples]
    except KeyError as error:
        raise DataError(f"the prompt needs the column {error}", where=encoder.where, fix="give it") from error
    except ValueError as error:
        raise DataError(
            f"a row does not have {len(form.words)} choices, as those the model was trained on",
            where=encoder.where,
            fix=f"give every row {len(form.words)} choices",
        ) from error
    answers = _Answers(encoder)
    answers.add([option for some in options for option in some])
    _refuse_equal(form, answers)
    ids = [[answers.ids[option] for option in some] for some in options]
    prompts = _prompts(texts, rows, [max(map(len, some)) for some in ids], encoder)
    encoded: Encoded = {"input_ids": prompts, "prompt_tokens": [len(prompt) for prompt in prompts], "options": ids}
    if "label" in columns:
        right = [_right(form, label) for label in columns["label"]]
        encoded |= {"answer": right, "gold": list(columns["label"])} | _learned(prompts, ids, right, encoder)
    encoded["attention_mask"] = [[1] * len(tokens) for tokens in encoded["input_ids"]]
    encoded["row"] = rows
    encoded["length"] = [len(tokens) for tokens in encoded["input_ids"]]
    return encoded


def _form_of(encoder: Encoder) -> TextForm:
    if encoder.form is None:
        raise ValueError("the task is not posed as text")
    return encoder.form


class _Answers:
    """Token ids of answers, by their text."""

    def __init__(self, encoder: Encoder) -> None:
        self.ids: dict[str, list[int]] = {}
        self._encoder = encoder
        tokenizer = encoder.tokenizer
        self._chat = getattr(tokenizer, "chat_template", None) is not None
        self._end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    def add(self, texts: list[str]) -> None:
        new = list(dict.fromkeys(text for text in texts if text not in self.ids))
        if not new:
            return
        written, end = new, self._end
        if self._chat:
            written = [reply for _, reply in turns([""] * len(new), new, self._encoder.tokenizer)]
            end = self._end if self._encoder.encoder_decoder else []
        elif not self._encoder.encoder_decoder:
            # A decoder goes on in the prompt's own text, where a word follows a blank.
            written = [f" {text}" for text in new]
        tokens = self._encoder.tokenize(written, add_special_tokens=False)["input_ids"]
        self.ids |= {text: [*ids, *end] for text, ids in zip(new, tokens, strict=True)}


def _refuse_equal(form: TextForm, answers: _Answers) -> None:
    seen: dict[tuple[int, ...], str] = {}
    for word in form.words:
        tokens = tuple(answers.ids.get(word, ()))
        if tokens in seen:
            raise DataError(
                f"the answers {seen[tokens]!r} and {word!r} are the same to the model's tokenizer",
                fix="name others with `verbalizers`",
            )
        seen[tokens] = word


def _right(form: TextForm, label: Any) -> int:
    """Index of the right answer among those that are compared."""
    if form.ranks_candidates:
        return 0 if label == 1 else -1
    if isinstance(label, float):
        return min(range(len(form.labels)), key=lambda i: abs(float(form.labels[i]) - label))
    return int(label)


def _learned(prompts: list[list[int]], options: Any, right: list[int], encoder: Encoder) -> Encoded:
    replies = [some[max(index, 0)] for some, index in zip(options, right, strict=True)]
    learned = [reply if index >= 0 else [IGNORED] * len(reply) for reply, index in zip(replies, right, strict=True)]
    if encoder.encoder_decoder:
        return {"labels": learned}
    both = list(zip(prompts, replies, learned, strict=True))
    return {
        "input_ids": [[*prompt, *reply] for prompt, reply, _ in both],
        "labels": [[IGNORED] * len(prompt) + list(labels) for prompt, _, labels in both],
    }


def _prompts(texts: list[dict[str, str]], rows: list[int], longest: list[int], encoder: Encoder) -> list[list[int]]:
    template = _form_of(encoder).template
    found = prompt_tokens([template.format_map(values) for values in texts], encoder)
    beside = [0 if encoder.encoder_decoder else length for length in longest]
    for i in encoder.too_long_rows(rows, [len(ids) + more for ids, more in zip(found, beside, strict=True)]):
        found[i] = _shortened(texts[i], encoder.room - beside[i], rows[i], encoder)
    return found


def _shortened(values: Mapping[str, str], room: int, row: int, encoder: Encoder) -> list[int]:
    """The prompt with the end of its longest text left out, so that the names around it stay."""
    template, values = _form_of(encoder).template, dict(values)
    ids = prompt_tokens([template.format_map(values)], encoder)[0]
    while len(ids) > room:
        longest = max(values, key=lambda name: len(values[name]))
        text = values[longest]
        kept = min(len(text) - 1, int(len(text) * (1 - (len(ids) - room) / len(ids))))
        if kept < 1:
            raise DataError(
                f"row {row}: the template alone is longer than {room} tokens",
                where=encoder.where,
                fix="shorten it, or raise `max_length`",
            )
        values[longest] = text[:kept].rstrip() or text[:1]
        ids = prompt_tokens([template.format_map(values)], encoder)[0]
    return ids
