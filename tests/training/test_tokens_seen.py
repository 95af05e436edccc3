"""Tokens that a training counts: those of every choice, without padding."""

import pytest
import torch

from luthier.training.trainer import _tokens

MASK = torch.tensor([[[1, 1, 0], [1, 0, 0]], [[1, 1, 1], [1, 1, 0]]])


@pytest.mark.parametrize(
    ("batch", "tokens"),
    [
        ({"input_ids": torch.zeros(2, 2, 3), "attention_mask": MASK}, 8),
        ({"input_ids": torch.zeros(4, 3), "attention_mask": MASK.flatten(0, 1)}, 8),
        ({"attention_mask": MASK[0]}, 3),
        ({"input_ids": torch.zeros(1, 3), "position_ids": torch.zeros(1, 3)}, 3),
        ({"input_ids": torch.zeros(1, 3), "attention_mask": torch.ones(1, 1, 3, 3), "position_ids": torch.zeros(3)}, 3),
        ({"vectors": torch.zeros(2, 4)}, 0),
    ],
)
def test_padding_is_not_counted_and_every_choice_is(batch, tokens):
    assert _tokens(batch) == tokens
