"""A model that answers questions sees which tokens are the question's, whatever adapter it has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertForQuestionAnswering

from luthier.methods.base import MethodContext
from luthier.registry import METHODS, discover
from tests.tuning.cases import CASES, VOCABULARY, encoder

discover()
ADAPTERS = [
    case.method
    for case in CASES
    if case.adapter and "encoder" in case.on and case.method.get("insert", "before_text") == "before_text"
]


@pytest.mark.parametrize("settings", ADAPTERS, ids=lambda settings: "-".join(map(str, settings.values())))
@torch.no_grad()
def test_segments_reach_the_body(settings: dict[str, Any]) -> None:
    config = encoder().config
    config.num_labels = 2
    base = BertForQuestionAnswering(config).double()
    embeddings = base.bert.embeddings
    embeddings.token_type_embeddings.weight.normal_(std=0.5)
    model = METHODS.get(settings["name"])(**settings).apply(base, MethodContext("QUESTION_ANS")).double().eval()
    ids = torch.randint(1, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(3))
    mask, segments = torch.ones_like(ids), torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1]])
    hooks = list(base.bert._forward_pre_hooks)
    types = embeddings.token_type_embeddings.weight
    # The same sum of embeddings, with the segments' part of it given among the tokens'.
    embeds = embeddings.word_embeddings(ids) + types[segments] - types[0]
    expected = model(inputs_embeds=embeds, attention_mask=mask)
    found = model(input_ids=ids, attention_mask=mask, token_type_ids=segments)
    torch.testing.assert_close(found.start_logits, expected.start_logits, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.end_logits, expected.end_logits, rtol=0, atol=1e-9)
    plain = model(input_ids=ids, attention_mask=mask)
    assert (plain.start_logits - found.start_logits).abs().max() > 1e-3
    assert list(base.bert._forward_pre_hooks) == hooks
