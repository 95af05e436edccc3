"""What a language model answers where a task is posed as text: by the likelihood of every answer, or by writing one.

Shapes: N rows, C answers that are compared, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from luthier.data.batches.collating import make_collator
from luthier.data.schemas import IGNORED, SCHEMAS
from luthier.data.text_form import REPLIES, TextForm
from luthier.tasks.running.predicting import Predictions, named_task, predict_rows
from luthier.tasks.running.writing import written_after

OnBatch = Callable[[int], None] | None


def predict_labels(
    model: nn.Module,
    rows: Any,
    form: TextForm,
    schema: str,
    tokenizer: Any,
    *,
    batch_size: int = 64,
    on_batch: OnBatch = None,
) -> Predictions:
    """The answers of a language model, as if a classifier had given them.

    By likelihood, `logits` are the (N, C) summed log-likelihoods of the answers, so that their softmax is the
    probability of each among them: one forward pass of each row for each answer. Candidates that are ranked among
    those with the same prompt get (N, 2) log-probabilities of being wrong or right. Regression gets the (N, 1) numbers
    that were answered. By writing, `guesses` holds what came out, and there are no logits but those of regression.

    Args:
        model: with a language-model head.
        rows: encoded by `luthier.data.batches.label_text`.
        form: how the task is posed.
        schema: the task's own schema.
        tokenizer: the model's.
        batch_size: sequences in one forward pass.
        on_batch: called with the number of rows done so far.
    """
    asked = _Asked(model, _Rows(rows), form, schema, tokenizer, batch_size)
    return asked.by_likelihood(on_batch) if form.scoring == "likelihood" else asked.by_writing(on_batch)


class _Rows:
    """The columns of encoded rows that are needed again and again, as lists."""

    def __init__(self, rows: Any) -> None:
        self.encoded = rows
        self.numbers = list(rows["row"])
        self.options: list[list[list[int]]] = [list(some) for some in rows["options"]]
        both = zip(rows["input_ids"], rows["prompt_tokens"], strict=True)
        self.prompts = [list(ids[:count]) for ids, count in both]
        self.gold = np.array(rows["gold"]) if "gold" in rows.column_names else None
        self.answer = list(rows["answer"]) if "answer" in rows.column_names else None


class _Sequences:
    """Every prompt with each of its answers, made when asked for."""

    def __init__(self, rows: _Rows, encoder_decoder: bool) -> None:
        self._rows, self._two_sided = rows, encoder_decoder
        self._pairs = [(row, option) for row, some in enumerate(rows.options) for option in range(len(some))]

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, str):
            return [self._length(row, option) for row, option in self._pairs]
        row, option = self._pairs[key]
        prompt, answer = self._rows.prompts[row], self._rows.options[row][option]
        ids = prompt if self._two_sided else [*prompt, *answer]
        labels = list(answer) if self._two_sided else [IGNORED] * len(prompt) + list(answer)
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels, "row": key}

    def _length(self, row: int, option: int) -> int:
        return len(self._rows.prompts[row]) + (0 if self._two_sided else len(self._rows.options[row][option]))


@dataclass
class _Asked:
    """A model and the rows that it is asked about."""

    model: Any
    rows: _Rows
    form: TextForm
    schema: str
    tokenizer: Any
    batch_size: int

    def by_likelihood(self, on_batch: OnBatch) -> Predictions:
        sequences = _Sequences(self.rows, encoder_decoder=not self._shifted)
        each = len(sequences) // len(self.rows.numbers)
        found = self._feed(sequences, None if on_batch is None else lambda done: on_batch(done // each))
        scores = -found.nll.reshape(-1, each)
        nll, items = np.zeros(len(scores)), np.zeros(len(scores), int)
        for i, answer in enumerate(self.rows.answer or ()):
            if answer >= 0:
                nll[i], items[i] = -scores[i, answer], found.items[i * each + answer]
        logits = scores
        if self.form.ranks_candidates:
            logits = _among_same_prompt(scores[:, 0], self.rows.prompts)
        elif self._numbers:
            logits = np.array([float(label) for label in self.form.labels])[scores.argmax(axis=1), None]
        return self._predictions(nll, items, found.tokens, logits=logits.astype(np.float32))

    def by_writing(self, on_batch: OnBatch) -> Predictions:
        nll, items = np.zeros(len(self.rows.numbers)), np.zeros(len(self.rows.numbers), int)
        if self.rows.answer is not None:
            taught = self._feed(self.rows.encoded, None)
            nll, items = taught.nll, taught.items
        texts = self._written(on_batch)
        tokens = sum(map(len, self.rows.prompts))
        if self._numbers:
            numbers = [_number(text, float(self.form.labels[0])) for text in texts]
            logits = np.array(numbers, np.float32)[:, None]
            return self._predictions(nll, items, tokens, logits=logits, texts=texts)
        guesses: Any = np.array(texts, dtype=object)
        if not self.form.ranks_candidates:
            options = self.rows.options[0]
            known = {text: i for i, text in enumerate(self.tokenizer.batch_decode(options, skip_special_tokens=True))}
            known = {" ".join(text.split()): i for text, i in known.items()}
            guesses = np.array([known.get(text, -1) for text in texts])
        return self._predictions(nll, items, tokens, guesses=guesses, texts=texts)

    @property
    def _numbers(self) -> bool:
        return SCHEMAS[self.schema].label_kind == "score"

    @property
    def _shifted(self) -> bool:
        return named_task(REPLIES).predicts_next_token(self.model.config)

    def _feed(self, sequences: Any, on_batch: OnBatch) -> Predictions:
        return predict_rows(
            self.model,
            sequences,
            make_collator(REPLIES, self.tokenizer),
            REPLIES,
            batch_size=self.batch_size,
            shifted=self._shifted,
            on_batch=on_batch,
        )

    def _predictions(self, nll: np.ndarray, items: np.ndarray, tokens: int, **found: Any) -> Predictions:
        texts = found.pop("texts", None)
        return Predictions(
            schema=self.schema,
            logits=found.pop("logits", None),
            labels=self.rows.gold,
            rows=np.array(self.rows.numbers),
            nll=nll,
            items=items,
            tokens=tokens,
            extras={} if texts is None else {"texts": texts},
            **found,
        )

    def _written(self, on_batch: OnBatch) -> list[str]:
        """What the model writes after every prompt, greedily."""
        longest = max(len(option) for some in self.rows.options for option in some)
        prompts = self.rows.prompts
        found = written_after(
            self.model,
            self.tokenizer,
            prompts,
            [longest] * len(prompts),
            batch_size=self.batch_size,
            on_prompt=on_batch,
        )
        return [" ".join(text.split()) for text in self.tokenizer.batch_decode(found, skip_special_tokens=True)]


def _among_same_prompt(scores: np.ndarray, prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """(N,) log-likelihoods of candidates -> (N, 2) log-probabilities of being the wrong or the right one among those
    with the same prompt."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(tuple(prompt), []).append(row)
    shares = np.zeros(len(scores))
    for rows in groups.values():
        relative = np.exp(scores[rows] - scores[rows].max())
        shares[rows] = relative / relative.sum()
    return np.log(np.clip(np.stack([1 - shares, shares], axis=1), 1e-12, 1.0))


def _number(text: str, otherwise: float) -> float:
    """The number that a text is; one that is none counts as `otherwise`."""
    try:
        value = float(text)
    except ValueError:
        return otherwise
    return value if np.isfinite(value) else otherwise
