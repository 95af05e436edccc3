"""Answers in text: likelihoods against a loop over single sequences, padding, batches, methods, and writing."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from luthier.data.batches.encoding import encode_rows
from luthier.data.text_form import TextForm
from luthier.methods.base import MethodContext
from luthier.registry import METHODS, import_folder
from luthier.tasks.base import task_named
from luthier.tasks.running.label_scoring import predict_labels

from .text_models import KINDS, model_of, tokenizer_of

import_folder("luthier.tuning.stock")
WORDS = "text : a b c d e f g very good bad so".split()
ROWS = [
    {"text": "a b c d e f g", "label": 0},
    {"text": "b", "label": 1},
    {"text": "c c a", "label": 2},
    {"text": "g f e d c", "label": 1},
]
FORM = TextForm("text: {text}", ("0", "1", "2"), ("bad", "very good", "so"))
METHOD_NAMES = ("full", "lora", "prompt", "p_tuning", "prefix", "residual_prompt", "idpg", "unipelt")


def tuned(kind: str, method: str = "full") -> tuple[Any, Any]:
    """Model and tokenizer; what the method trains is moved away from its first values."""
    tokenizer = tokenizer_of(WORDS, kind)
    base = model_of(kind, len(tokenizer))
    task = task_named("prompt_response").peft_type(base.config)
    settings = {"length": 3} if method in ("prompt", "p_tuning", "prefix", "residual_prompt") else {}
    torch.manual_seed(1)
    model: Any = METHODS.get(method)(**settings).apply(base, MethodContext(task, 1, tokenizer))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    return model.double().eval(), tokenizer


def encoded(tokenizer: Any, kind: str, rows: list[dict[str, Any]] = ROWS, form: TextForm = FORM, **options: Any) -> Any:
    options = {"max_length": 40, "encoder_decoder": kind == "t5"} | options
    return encode_rows(rows, "single_sentence", tokenizer, form=form, **options)


def ask(model: Any, tokenizer: Any, kind: str, rows: Any = ROWS, form: TextForm = FORM, size: int = 64) -> Any:
    return predict_labels(
        model, encoded(tokenizer, kind, rows, form), form, "single_sentence", tokenizer, batch_size=size
    )


@torch.no_grad()
def log_likelihood(model: Any, tokenizer: Any, kind: str, text: str, word: str) -> float:
    """ln p(word </s> | text: ...), one sequence and no padding."""
    prompt = tokenizer(f"text: {text}", return_tensors="pt").input_ids
    answer = tokenizer(f"{word} </s>", add_special_tokens=False, return_tensors="pt").input_ids
    if kind == "t5":
        logits = model(input_ids=prompt, attention_mask=torch.ones_like(prompt), labels=answer).logits
    else:
        both = torch.cat([prompt, answer], dim=1)
        logits = model(input_ids=both, attention_mask=torch.ones_like(both)).logits[:, -answer.shape[1] - 1 : -1]
    return logits.log_softmax(-1).gather(2, answer[..., None]).sum().item()


@pytest.mark.parametrize("method", ["full", "lora", "prompt", "p_tuning", "prefix", "residual_prompt"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_summed_log_likelihoods_of_the_answers(kind: str, method: str) -> None:
    model, tokenizer = tuned(kind, method)
    found = ask(model, tokenizer, kind)
    expected = [[log_likelihood(model, tokenizer, kind, row["text"], word) for word in FORM.words] for row in ROWS]
    np.testing.assert_allclose(found.logits, expected, atol=2e-5)
    np.testing.assert_allclose(found.nll, [-expected[i][row["label"]] for i, row in enumerate(ROWS)], atol=2e-5)
    assert found.items.tolist() == [2, 3, 2, 3]
    assert found.labels.tolist() == [0, 1, 2, 1]
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_batch_mates_and_padding_change_nothing(kind: str, method: str) -> None:
    model, tokenizer = tuned(kind, method)
    together, alone = ask(model, tokenizer, kind).logits, ask(model, tokenizer, kind, size=1).logits
    np.testing.assert_allclose(together, alone, atol=2e-5)
    assert np.abs(together - together.mean(axis=0)).max() > 1e-3, "the answer does not depend on the text"
    tokenizer.padding_side = "left" if kind == "llama" else "right"
    np.testing.assert_allclose(ask(model, tokenizer, kind).logits, alone, atol=2e-5)


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_writing_gives_the_label_that_comes_out(kind: str, method: str) -> None:
    model, tokenizer = tuned(kind, method)
    form = dataclasses.replace(FORM, scoring="generate")
    together, alone = ask(model, tokenizer, kind, form=form), ask(model, tokenizer, kind, form=form, size=1)
    assert together.extras["texts"] == alone.extras["texts"]
    assert together.logits is None
    texts = together.extras["texts"]
    assert together.guesses.tolist() == [FORM.words.index(t) if t in FORM.words else -1 for t in texts]
    np.testing.assert_allclose(together.nll, ask(model, tokenizer, kind).nll, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_writes_its_labels_is_right_either_way(kind: str) -> None:
    model, tokenizer = tuned(kind)
    rows = encoded(tokenizer, kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    from luthier.data.batches.collating import make_collator
    from luthier.evaluation.prediction import model_inputs

    batch = make_collator("prompt_response", tokenizer)([rows[i] for i in range(len(rows))])
    for _ in range(60):
        logits = model(**model_inputs(model, batch, "prompt_response")).logits
        shifted = task_named("prompt_response").predicts_next_token(model.config)
        task_named("prompt_response").loss(logits, batch, shifted=shifted, items=1).backward()
        optimizer.step()
        optimizer.zero_grad()
    labels = [row["label"] for row in ROWS]
    assert ask(model, tokenizer, kind).logits.argmax(axis=1).tolist() == labels
    written = ask(model, tokenizer, kind, form=dataclasses.replace(FORM, scoring="generate"))
    assert written.guesses.tolist() == labels


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_answered_as_numbers(kind: str) -> None:
    words = [*WORDS, "1", "2", "3"]
    tokenizer = tokenizer_of(words, kind)
    model = model_of(kind, len(tokenizer)).double()
    form = TextForm("text: {text}", ("1", "2", "3"), ("1", "2", "3"))
    rows = [{"text": "a b", "label": 2.2}, {"text": "c", "label": 0.5}]
    ready = encode_rows(rows, "regression", tokenizer, max_length=40, encoder_decoder=kind == "t5", form=form)
    assert ready["answer"][:] == [1, 0]
    found = predict_labels(model, ready, form, "regression", tokenizer)
    assert found.logits.shape == (2, 1)
    assert set(found.logits[:, 0]) <= {1.0, 2.0, 3.0}
    np.testing.assert_allclose(found.labels, [2.2, 0.5], atol=1e-6)
    form = dataclasses.replace(form, scoring="generate")
    found = predict_labels(model, ready, form, "regression", tokenizer)
    numbers = [float(text) if text in ("1", "2", "3") else 1.0 for text in found.extras["texts"]]
    assert found.logits[:, 0].tolist() == numbers


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_are_ranked_among_those_with_the_same_prompt(kind: str) -> None:
    model, tokenizer = tuned(kind)
    form = TextForm("text: {question}")
    rows = [
        {"question": q, "candidate": c, "label": int(c == "a"), "text": "-"} for q in "bc" for c in ("a", "so", "f")
    ]
    found = ask(model, tokenizer, kind, rows, form)
    raw = np.array([log_likelihood(model, tokenizer, kind, r["question"], r["candidate"]) for r in rows]).reshape(2, 3)
    shares = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.logits[:, 1], np.log(shares).ravel(), atol=1e-4)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    assert found.items.tolist() == [2, 0, 0, 2, 0, 0]
    written = ask(model, tokenizer, kind, rows, dataclasses.replace(form, scoring="generate"))
    assert len(set(written.guesses[:3])) == 1, "equal prompts are answered once"


def test_rows_without_labels_are_answered_too() -> None:
    model, tokenizer = tuned("t5")
    bare = [{"text": row["text"]} for row in ROWS]
    found = ask(model, tokenizer, "t5", bare)
    np.testing.assert_allclose(found.logits, ask(model, tokenizer, "t5").logits, atol=1e-5)
    assert found.labels is None
    assert found.items.sum() == 0
