"""Teaches the tiny models what words mean, so that what is tuned on top of them depends on the text."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from tests.released.tiny import BAD, GOOD, sentence

STEPS, BATCH = 250, 32
TEMPLATES = ("review : {}", "text : {}")
LABELS = ("negative", "positive")


def pretrain(kind: str, model: Any, tokenizer: Any) -> None:
    """Train the model in place; equal seeds give equal weights."""
    draw = random.Random(kind)
    loss_of = {"bert": _moods_and_words, "llama": _review_then_label, "t5": _label_of_review}[kind]
    loss, more = loss_of(model, tokenizer)
    optimizer = torch.optim.AdamW([*model.parameters(), *more], lr=5e-3)
    model.train()
    for _ in range(STEPS):
        moods = [draw.random() < 0.5 for _ in range(BATCH)]
        optimizer.zero_grad()
        loss([sentence(draw, good) for good in moods], moods, draw).backward()
        optimizer.step()
    model.eval()


Loss = tuple[Callable[[list[list[str]], list[bool], random.Random], torch.Tensor], list[torch.nn.Parameter]]


def _moods_and_words(model: Any, tokenizer: Any) -> Loss:
    """From the first token whether a text is good, from every other one whether its word is good, bad or plain."""
    mood, kind_of_word = torch.nn.Linear(16, 2), torch.nn.Linear(16, 3)
    kinds = torch.zeros(len(tokenizer), dtype=torch.long)
    kinds[tokenizer.convert_tokens_to_ids(GOOD)] = 1
    kinds[tokenizer.convert_tokens_to_ids(BAD)] = 2

    def loss(texts: list[list[str]], moods: list[bool], draw: random.Random) -> torch.Tensor:
        batch = tokenizer([" ".join(words) for words in texts], padding=True, return_tensors="pt")
        out = model(**batch)
        text = batch["attention_mask"].bool()
        told = F.cross_entropy(kind_of_word(out.last_hidden_state)[text], kinds[batch["input_ids"]][text])
        return told + F.cross_entropy(mood(out.pooler_output), torch.tensor(moods).long())

    return loss, [*mood.parameters(), *kind_of_word.parameters()]


def _review_then_label(model: Any, tokenizer: Any) -> Loss:
    """Texts, some of them behind a template and before their label."""

    def loss(texts: list[list[str]], moods: list[bool], draw: random.Random) -> torch.Tensor:
        rows = [
            f"{draw.choice(TEMPLATES).format(' '.join(words))} {LABELS[good]} </s>"
            for words, good in zip(texts, moods, strict=True)
        ]
        batch = tokenizer(rows, padding=True, return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return model(**batch, labels=labels).loss

    return loss, []


def _label_of_review(model: Any, tokenizer: Any) -> Loss:
    """A text behind a template gives its label."""

    def loss(texts: list[list[str]], moods: list[bool], draw: random.Random) -> torch.Tensor:
        rows = [draw.choice(TEMPLATES).format(" ".join(words)) for words in texts]
        batch = tokenizer(rows, padding=True, return_tensors="pt")
        labels = tokenizer([LABELS[good] for good in moods], return_tensors="pt")["input_ids"]
        return model(**batch, labels=labels).loss

    return loss, []
