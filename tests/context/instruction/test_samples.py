"""Rows of samples: what is cut, what weighs how much, and the loss against a few lines of its equation."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from luthier.context.instruction.documents import Chunk, LongDocument, chunks_of
from luthier.context.instruction.loss import WeightedLoss, WeightedText
from luthier.context.instruction.samples import collate_samples, long_rows, sample_of, short_rows
from luthier.data.schemas import IGNORED
from luthier.errors import DataError
from tests.context.instruction.conftest import CHAIN, chained, text, tokenizer

QUESTION, ANSWER = "w1 w2", "w7 w8"


def made(words: int, length: int, which: int = 0):
    document = LongDocument("d", text(words, 0))
    chunks = chunks_of(document, tokenizer(), tokens=40, room=words, count=100, short_share=0.5, seed=0)
    return document, chunks[which], sample_of(document, chunks[which], QUESTION, ANSWER, tokenizer(), length)


def test_a_document_that_fits_stays_whole():
    document, chunk, sample = made(100, 200)
    assert sample is not None
    assert sample.prompt.startswith(document.text)
    assert QUESTION in sample.prompt
    assert sample.response == ANSWER
    assert sample.depth == round((chunk.start + chunk.end) / 2 / len(document.text), 4)


def test_a_longer_one_is_cut_at_its_end_and_fills_the_sample():
    document, _, sample = made(300, 200)
    assert sample is not None
    assert sample.tokens == 200
    kept = sample.prompt.split("\n\n")[0]
    assert document.text.startswith(kept)
    assert sample.prompt[sample.start : sample.end] == document.text[sample.start : sample.end]


def test_a_part_that_does_not_stay_inside_makes_no_sample():
    assert made(300, 200, -1)[2] is None
    document = LongDocument("d", text(300, 0))
    assert sample_of(document, Chunk("c", "d", 0, 9, "", "normal"), QUESTION, ANSWER, tokenizer(), 10) is None


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_answers_weigh_one_and_what_is_before_them_what_was_asked(weight):
    _, _, sample = made(100, 200)
    (row,) = long_rows([sample], tokenizer(), 200, weight)
    end = tokenizer().eos_token_id
    assert row["input_ids"][row["answered"]].tolist() == [*tokenizer()(ANSWER)["input_ids"], end]
    assert set(row["loss_weights"][row["answered"]].tolist()) == {1.0}
    assert set(row["loss_weights"][~row["answered"]].tolist()) == {weight}
    assert (row["labels"] != IGNORED).sum() == (len(row["input_ids"]) if weight else row["answered"].sum())
    assert row["position_ids"].tolist() == list(range(sample.tokens))


def instructions(count: int):
    return [{"prompt": text(10, n), "response": text(5, 50 + n)} for n in range(count)]


def test_short_instructions_are_packed_each_alone():
    rows = short_rows(instructions(12), tokenizer(), 60, 0, 7)
    assert [row["row"] for row in rows] == list(range(7, 7 + len(rows)))
    assert all(row["length"] == len(row["input_ids"]) <= 60 for row in rows)
    assert sum(int((row["position_ids"] == 0).sum()) for row in rows) == 12
    assert sum(int((row["labels"] != IGNORED).sum()) for row in rows) == 12 * 6  # responses of 5 words and their ends
    assert all((row["labels"][row["position_ids"] == 0] == IGNORED).all() for row in rows)


def batch_of(weight: float = 0.25):
    _, _, first = made(100, 200)
    _, _, second = made(60, 200)
    rows = long_rows([first, second], tokenizer(), 200, weight) + short_rows(instructions(3), tokenizer(), 60, 0, 2)
    return rows, collate_samples(rows)


def test_messages_before_a_short_instruction_are_read_and_replies_among_them_learned():
    chatting = tokenizer()
    chatting.chat_template = (
        "{% for one in messages %}w0 {{ one['content'] }} {% endfor %}{% if add_generation_prompt %}w0 {% endif %}"
    )
    before = [{"role": role, "content": f"w{n}"} for n, role in enumerate(("system", "user", "assistant"), 1)]
    (row,) = short_rows([{"prompt": "w4", "response": "w5", "history": before}], chatting, 60, 0, 0)
    assert chatting.decode(row["input_ids"]) == "w0 w1 w0 w2 w0 w3 w0 w4 w0 w5"
    assert chatting.decode(row["labels"][row["labels"] != -100]) == "w3 w5"
    with pytest.raises(DataError, match="no chat template"):
        short_rows([{"prompt": "w4", "response": "w5", "history": before}], tokenizer(), 60, 0, 0)


def test_the_loss_is_the_weighted_mean_of_each_row_alone():
    """L = sum_t w_t CE_t / sum_t w_t, each text by itself, without padding."""
    model = chained(CHAIN)
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    rows, batch = batch_of()
    total, weights = 0.0, 0.0
    model.requires_grad_(False)
    for row in rows:
        starts = [*np.flatnonzero(row["position_ids"] == 0), len(row["input_ids"])]
        for start, end in itertools.pairwise(starts):
            ids, labels, w = (torch.as_tensor(row[n][start:end]) for n in ("input_ids", "labels", "loss_weights"))
            likely = model(input_ids=ids[None], use_cache=False).logits[0, :-1].log_softmax(-1)
            counted = labels[1:] != IGNORED
            each = -likely.gather(1, ids[1:, None])[:, 0]
            total += float((each * w[1:] * counted).sum())
            weights += float((w[1:] * counted).sum())
    task = WeightedText()
    assert task.items(batch, shifted=True) == pytest.approx(weights)
    model.config.use_cache = False
    inputs = {name: value for name, value in batch.items() if name != "row"}

    def logits_of(_model, some, _name):
        return model(**{name: value for name, value in some.items() if name not in task.targets}).logits

    trainer = SimpleNamespace(logits_of=logits_of, args=SimpleNamespace(world_size=1), model=model)
    step = SimpleNamespace(inputs=inputs, items=None, trainer=trainer, models={"model": model}, model=model)
    assert float(WeightedLoss().loss(step)) == pytest.approx(total / weights, rel=1e-5)


def test_padding_changes_nothing_for_the_text_before_it():
    model = chained(CHAIN)
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    rows, batch = batch_of()
    together = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    for number, row in enumerate(rows):
        ids, positions = (torch.as_tensor(row[name])[None] for name in ("input_ids", "position_ids"))
        alone = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        assert torch.allclose(together[number, : ids.shape[1]], alone[0], atol=1e-5)
