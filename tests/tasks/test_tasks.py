"""Every task learns the same however its rows are batched, is judged right, and answers one row for each."""

from __future__ import annotations

import json
from typing import Any

import peft
import pytest
import torch

from luthier.data.batches.collating import make_collator
from luthier.evaluation.scoring import task_draws, task_scores
from luthier.models.card import ModelCard
from luthier.models.head_kinds import HEAD_KINDS
from luthier.registry import TASKS
from luthier.tasks.running.predicting import gathered, model_inputs
from tests.tasks.cases import CASES, Case, Prepared


@pytest.fixture(params=CASES, ids=str)
def prepared(request, tmp_path) -> Prepared:
    return Prepared(request.param, tmp_path)


def batch_of(prepared: Prepared, start: int = 0, stop: int | None = None, multiple: int | None = None) -> Any:
    rows = [prepared.rows[i] for i in range(start, len(prepared.rows) if stop is None else stop)]
    batch = make_collator(prepared.task, prepared.tokenizer, multiple)(rows)
    return batch, batch.pop("row").tolist()


def loss_of(prepared: Prepared, batch: dict[str, Any], items: int) -> torch.Tensor:
    outputs = prepared.model(**model_inputs(prepared.model, batch, prepared.task))
    return prepared.task.loss(prepared.task.logits(outputs), batch, items=items, shifted=prepared.shifted)


def test_every_registered_task_has_a_row():
    own = {entry.name for entry in TASKS if entry.__module__.startswith("luthier.")}
    assert own == {case.task for case in CASES}


def test_a_batch_holds_the_labelled_items_of_its_rows(prepared: Prepared):
    whole, _ = batch_of(prepared)
    parts = [batch_of(prepared, i, i + 1)[0] for i in range(len(prepared.rows))]
    items = [prepared.task.items(part, shifted=prepared.shifted) for part in parts]
    assert min(items) > 0
    assert prepared.task.items(whole, shifted=prepared.shifted) == sum(items)


@pytest.mark.parametrize("size", [1, 2, 8])
def test_accumulation_adds_up_to_the_loss_of_the_whole_step(prepared: Prepared, size: int):
    whole, _ = batch_of(prepared)
    items = prepared.task.items(whole, shifted=prepared.shifted)
    starts = range(0, len(prepared.rows), size)
    parts = [batch_of(prepared, start, min(start + size, len(prepared.rows)))[0] for start in starts]
    added = torch.stack([loss_of(prepared, part, items) for part in parts]).sum()
    assert torch.allclose(added, loss_of(prepared, whole, items), rtol=1e-5)


def test_padding_changes_no_loss(prepared: Prepared):
    for row in range(len(prepared.rows)):
        (narrow, _), (wide, _) = batch_of(prepared, row, row + 1), batch_of(prepared, row, row + 1, multiple=32)
        assert wide["input_ids"].shape[-1] > narrow["input_ids"].shape[-1]
        items = prepared.task.items(narrow, shifted=prepared.shifted)
        assert prepared.task.items(wide, shifted=prepared.shifted) == items
        assert torch.allclose(loss_of(prepared, wide, items), loss_of(prepared, narrow, items), rtol=1e-5)


def test_a_batch_keeps_the_numbers_of_its_rows(prepared: Prepared):
    _, numbers = batch_of(prepared, 1)
    assert numbers == list(prepared.rows["row"])[1:]


def test_predictions_come_in_the_order_of_the_rows(prepared: Prepared):
    predictions = prepared.task.predict(prepared.model, prepared.rows, prepared.tokenizer, batch_size=3)
    alone = [
        prepared.task.predict(prepared.model, prepared.rows.select([i]), prepared.tokenizer).nll[0]
        for i in range(len(prepared.rows))
    ]
    assert predictions.rows.tolist() == list(prepared.rows["row"])
    assert predictions.nll == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize("case", [case for case in CASES if TASKS.get(case.task).language], ids=str)
def test_no_padding_predicts_the_first_token_of_a_text(case: Case, tmp_path):
    prepared = Prepared(case, tmp_path)
    expected = prepared.task.predict(prepared.model, prepared.rows, prepared.tokenizer, batch_size=1)
    prepared.tokenizer.padding_side = "left"
    found = prepared.task.predict(prepared.model, prepared.rows, prepared.tokenizer, batch_size=8)
    assert found.items.tolist() == expected.items.tolist()
    assert found.nll == pytest.approx(expected.nll, rel=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", [case for case in CASES if case.perfect], ids=str)
def test_perfect_predictions_get_perfect_scores(case: Case, side: str, tmp_path):
    prepared = Prepared(case, tmp_path)
    prepared.tokenizer.padding_side = side
    batch, numbers = batch_of(prepared)
    outputs = prepared.task.outputs(case.perfect(batch), batch, shifted=prepared.shifted)
    rows = [{"row": number} | output for number, output in zip(numbers, outputs, strict=True)]
    predictions = gathered(rows, prepared.task, tokens=0)
    scores = task_scores(predictions, prepared.data, "train", prepared.rows)
    assert scores.pop("loss") == pytest.approx(0, abs=1e-6)
    assert set(scores) == set(prepared.data.metrics)
    assert scores == pytest.approx(dict.fromkeys(scores, 1.0))
    intervals = task_draws(predictions, prepared.data, "train", prepared.rows, draws=3)
    assert set(intervals) == set(scores)


def test_every_row_gets_one_answer_that_is_json(prepared: Prepared):
    card = ModelCard("", "", prepared.task.head_on(prepared.model.config), labels=prepared.data.labels or None)
    examples = prepared.data.splits["train"]
    hidden = prepared.task.learned
    names = [name for name in examples.column_names if name not in (*hidden, prepared.task.label_column)]
    rows = [{name: examples[i][name] for name in names} for i in range(len(examples))]
    answers = prepared.task.answer_rows(prepared.model, prepared.tokenizer, card, rows, longest=48)
    assert len(json.loads(json.dumps(answers))) == len(rows)
    for row, answer in zip(rows, answers, strict=True):
        shown = {name: value for name, value in answer.items() if name in row}
        assert shown == {name: row[name] for name in shown}
        assert shown or answer["text"] == row["prompt"]
        assert set(answer) - set(row)


def test_the_head_exists_and_so_does_its_peft_type(prepared: Prepared):
    config = prepared.model.config
    assert prepared.task.head_on(config) in HEAD_KINDS
    assert prepared.task.peft_type(config) in peft.TaskType.__members__
    assert prepared.task.summary
