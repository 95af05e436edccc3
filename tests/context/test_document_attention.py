"""Attention within documents without a mask, beside SDPA with the dense block-diagonal one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from luthier.context.document_attention import NAME, attending_within_documents, document_spans
from luthier.context.preflight import as_trained, check_before_training
from luthier.data.schemas import IGNORED
from luthier.language_modeling import causal_lm_loss
from tests.context.conftest import SIZES

LENGTH = 96
# Of each row, tokens of its documents: one alone, one of a token, one that fills the row.
ROWS = ((40, 1, 55), (96,), (7, 60, 20, 9))
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation="sdpa")),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None, attn_implementation="sdpa")),
    "windows": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8, attn_implementation="sdpa")),
}


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    return MODELS[kind]().train()


def batch() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(5, SIZES["vocab_size"], (len(ROWS), LENGTH), generator=draw)
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in ROWS])
    return {"input_ids": ids, "position_ids": positions, "labels": torch.where(positions == 0, IGNORED, ids)}


def test_documents_begin_where_positions_do():
    assert document_spans(batch()["position_ids"]) == [
        [(0, 40), (40, 41), (41, 96)],
        [(0, 96)],
        [(0, 7), (7, 67), (67, 87), (87, 96)],
    ]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_losses_and_gradients_are_those_of_the_dense_mask(kind: str, checkpointing: bool):
    found = {}
    for attention in ("mask", "varlen"):
        model = model_of(kind)
        if checkpointing:
            model.activation_checkpointing_enable()
        with as_trained(model, attention):
            loss = causal_lm_loss(model, batch())
            loss.backward()
        assert model.config._attn_implementation == "sdpa"
        found[attention] = (float(loss.detach()), {n: p.grad for n, p in model.named_parameters()})
    assert found["varlen"][0] == pytest.approx(found["mask"][0], rel=1e-6)
    for name, gradient in found["mask"][1].items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(found["varlen"][1][name], gradient, atol=1e-6, rtol=1e-5, msg=name)


def test_nothing_of_the_square_of_a_row_is_kept():
    largest = {}
    for attention in ("mask", "varlen"):
        kept: list[int] = []

        def noted(tensor: Tensor, kept: list[int] = kept) -> Tensor:
            kept.append(tensor.numel())
            return tensor

        model = model_of("llama")
        with as_trained(model, attention), torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
            causal_lm_loss(model, batch())
        largest[attention] = max(kept)
    assert largest["mask"] >= len(ROWS) * LENGTH**2
    assert largest["varlen"] <= len(ROWS) * LENGTH * SIZES["intermediate_size"]


def test_padding_and_a_cache_are_as_without_it():
    model = model_of("llama").eval()
    ids, mask = batch()["input_ids"], torch.ones(len(ROWS), LENGTH, dtype=torch.long)
    mask[0, :30] = 0

    def logits() -> list[Tensor]:
        with torch.no_grad():
            padded = model(input_ids=ids, attention_mask=mask).logits[mask.bool()]
            start = model(input_ids=ids[:, :50], use_cache=True)
            rest = model(input_ids=ids[:, 50:], past_key_values=start.past_key_values, use_cache=True)
        return [padded, start.logits, rest.logits]

    expected = logits()
    with attending_within_documents(model):
        found = logits()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_the_look_before_training_is_at_the_attention_of_training(monkeypatch: pytest.MonkeyPatch):
    model = model_of("llama")
    seen: list[str] = []
    forward = model.model.layers[0].self_attn.forward

    def noting(*given: Any, **more: Any) -> Any:
        seen.append(model.config._attn_implementation)
        return forward(*given, **more)

    monkeypatch.setattr(model.model.layers[0].self_attn, "forward", noting)
    found = check_before_training(model, model.config, "block", "varlen")
    assert "isolated" in found["documents"]
    assert seen.count(NAME) == 1
    assert model.config._attn_implementation == "sdpa"
