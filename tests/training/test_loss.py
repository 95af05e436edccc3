"""Losses against torch's own, and division by the items of a whole optimiser step."""

import pytest
import torch
from torch.nn import functional as F

from luthier.tasks.base import task_named

torch.manual_seed(0)
LOGITS, LABELS = torch.randn(6, 5, 4), torch.randint(0, 4, (6, 5))
LABELS[0, :3] = -100


def test_classification_is_mean_cross_entropy():
    loss = task_named("single_sentence").loss(LOGITS[:, 0], {"labels": LABELS[:, 4]}, shifted=False, items=6)
    assert torch.allclose(loss, F.cross_entropy(LOGITS[:, 0], LABELS[:, 4]))


def test_regression_is_mean_squared_error():
    labels = torch.randn(6)
    loss = task_named("regression").loss(LOGITS[:, :1, 0], {"labels": labels}, shifted=False, items=6)
    assert torch.allclose(loss, F.mse_loss(LOGITS[:, 0, 0], labels))


def test_token_labels_leave_masked_positions_out():
    batch = {"labels": LABELS}
    items = task_named("token_labels").items(batch, shifted=False)
    assert items == 27
    loss = task_named("token_labels").loss(LOGITS, batch, shifted=False, items=items)
    assert torch.allclose(loss, F.cross_entropy(LOGITS.reshape(-1, 4), LABELS.reshape(-1)))


def test_language_models_predict_the_next_token_and_prompt_positions_do_not_count():
    batch = {"labels": LABELS}
    items = task_named("plain_text").items(batch, shifted=True)
    expected = F.cross_entropy(LOGITS[:, :-1].reshape(-1, 4), LABELS[:, 1:].reshape(-1))
    with_prompt = torch.cat([torch.randn(6, 3, 4), LOGITS], dim=1)
    for logits in (LOGITS, with_prompt):
        assert torch.allclose(task_named("plain_text").loss(logits, batch, shifted=True, items=items), expected)


def test_answers_average_start_and_end():
    batch = {
        "start_positions": torch.tensor([0, 1, 2, 3, 4, 0]),
        "end_positions": torch.tensor([1, 1, 2, 4, 4, 3]),
        "attention_mask": torch.ones(6, 5),
    }
    start, end = LOGITS[..., 0], LOGITS[..., 1]
    items = task_named("extractive_qa").items(batch, shifted=False)
    expected = (F.cross_entropy(start, batch["start_positions"]) + F.cross_entropy(end, batch["end_positions"])) / 2
    assert torch.allclose(task_named("extractive_qa").loss((start, end), batch, shifted=False, items=items), expected)


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_parts_of_a_batch_add_up_to_the_whole(parts: int):
    batch = {"labels": LABELS}
    items = task_named("token_labels").items(batch, shifted=False)
    whole = task_named("token_labels").loss(LOGITS, batch, shifted=False, items=items)
    pieces = [
        task_named("token_labels").loss(x, {"labels": y}, shifted=False, items=items)
        for x, y in zip(LOGITS.chunk(parts), LABELS.chunk(parts), strict=True)
    ]
    assert torch.allclose(sum(pieces), whole)


def test_answers_are_placed_among_the_tokens_of_their_row_alone():
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    batch = {"start_positions": torch.tensor([1]), "end_positions": torch.tensor([2]), "attention_mask": mask}
    start, end = LOGITS[:1, :, 0], LOGITS[:1, :, 1]
    expected = (F.cross_entropy(start[:, :3], torch.tensor([1])) + F.cross_entropy(end[:, :3], torch.tensor([2]))) / 2
    with_prompt = tuple(torch.cat([torch.randn(1, 4), logits], dim=1) for logits in (start, end))
    for logits in ((start, end), with_prompt):
        assert torch.allclose(task_named("extractive_qa").loss(logits, batch, items=1), expected)
