"""What is looked at before training: each fault is found, and what transformers does in silence is known."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface, LlamaConfig, LlamaForCausalLM

from luthier.context import adjust_base_frequency
from luthier.context.document_attention import document_attention, document_mask
from luthier.context.preflight import check_before_training, two_documents, without_cache
from luthier.context.rows import collate_rows, in_one_row, packing_collator, rows_of_block
from luthier.data.schemas import IGNORED
from luthier.errors import ModelError
from luthier.language_modeling import causal_lm_loss
from tests.context.conftest import SIZES


def model(**more: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **more})).eval()


@pytest.mark.parametrize("mask", ["none", "block"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_sound_model_passes(attention: str, mask: Any):
    sound = model(attn_implementation=attention).train()
    found = check_before_training(sound, sound.config, mask)
    assert "as asked" in found["inverse frequencies"]
    assert sound.training
    assert sound.config.use_cache
    assert ("isolated" in found["documents"]) == (mask == "block")


def test_other_frequencies_are_found():
    with pytest.raises(ModelError, match="other frequencies"):
        check_before_training(model(), adjust_base_frequency(LlamaConfig(**SIZES)), "none")


def test_documents_that_see_each_other_are_found(monkeypatch: pytest.MonkeyPatch):
    """A model whose forward makes a mask of ones, as some do: packing is then not seen by transformers."""
    leaky = model()
    forward = leaky.forward

    def leaking(input_ids: torch.Tensor, **more: Any) -> Any:
        if more.get("past_key_values") is None:
            more["attention_mask"] = torch.ones_like(input_ids)
        return forward(input_ids=input_ids, **more)

    monkeypatch.setattr(leaky, "forward", leaking)
    with pytest.raises(ModelError, match="packed documents see each other"):
        check_before_training(leaky, leaky.config, "block")
    assert check_before_training(leaky, leaky.config, "none")


def test_documents_that_are_apart_in_a_single_row_alone_are_found():
    """As FlashAttention has it, which looks at positions where a pass is of one row."""

    def single(module: Any, query: Any, key: Any, value: Any, mask: Any, position_ids: Any = None, **more: Any) -> Any:
        positions = position_ids if len(query) == 1 else None
        return document_attention(module, query, key, value, mask, positions, **more)

    AttentionInterface.register("single", single)
    AttentionMaskInterface.register("single", document_mask)
    leaky = model()
    leaky.set_attn_implementation("single")
    with pytest.raises(ModelError, match="packed documents see each other"):
        check_before_training(leaky, leaky.config, "block")


def test_rows_in_one_have_the_losses_of_the_batch():
    block = two_documents(SIZES["vocab_size"])
    rows = [rows_of_block(replace(block, ids=block.ids[::step]), 0, 16, "block") for step in (1, -1)]
    flash, sdpa = (
        SimpleNamespace(config=SimpleNamespace(_attn_implementation=n)) for n in ("flash_attention_2", "sdpa")
    )
    assert (
        packing_collator(sdpa, "block", collate_rows) is packing_collator(flash, "none", collate_rows) is collate_rows
    )
    whole, flat = collate_rows(rows), packing_collator(flash, "block", collate_rows)(rows)
    assert (whole["input_ids"].shape, flat["input_ids"].shape) == ((2, 16), (1, 32))
    one = model()
    with torch.no_grad(), without_cache(one):
        expected, found = (
            causal_lm_loss(one, {k: v for k, v in batch.items() if k != "row"}) for batch in (whole, flat)
        )
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    # The first token of a row may be a label that a batch shifts away.
    crossing = in_one_row({**whole, "labels": whole["input_ids"]})
    assert crossing["labels"].ne(IGNORED).sum() == 28


def test_a_wrong_label_mask_is_found(monkeypatch: pytest.MonkeyPatch):
    def crossing(*given: Any) -> Any:
        row = rows_of_block(*given)
        return {**row, "labels": row["input_ids"]}

    monkeypatch.setattr("luthier.context.preflight.rows_of_block", crossing)
    with pytest.raises(ModelError, match="label mask is wrong"):
        check_before_training(model(), model().config, "block")


def test_a_cache_that_changes_what_is_written_is_found(monkeypatch: pytest.MonkeyPatch):
    wrong = model()
    forward = wrong.forward

    def forgetting(input_ids: torch.Tensor, **more: Any) -> Any:
        out = forward(input_ids=input_ids, **more)
        if more.get("use_cache") and input_ids.shape[1] > 1:
            out.past_key_values.crop(-1)
        return out

    monkeypatch.setattr(wrong, "forward", forgetting)
    with pytest.raises(ModelError, match="key-value cache"):
        check_before_training(wrong, wrong.config, "none")


def test_what_transformers_does_in_silence():
    """With the cache on, or a mask of ones, packed documents see each other; positions from 0 over both do not matter
    to logits under an explicit mask, since rotary positions are relative."""
    one, block = model(), two_documents(SIZES["vocab_size"])
    row = rows_of_block(block, 0, 16, "block")
    ids, positions = torch.as_tensor(row["input_ids"]), torch.as_tensor(row["position_ids"])
    with torch.no_grad():
        alone = torch.cat([one(input_ids=part, use_cache=False).logits for part in (ids[:, :7], ids[:, 7:])], dim=1)
        cached = one(input_ids=ids, position_ids=positions).logits
        ones = one(input_ids=ids, position_ids=positions, attention_mask=torch.ones_like(ids), use_cache=False).logits
        with without_cache(one):
            right = one(input_ids=ids, position_ids=positions).logits
        apart = torch.as_tensor(block.documents)[:, None] == torch.as_tensor(block.documents)
        additive = torch.zeros(1, 1, 16, 16).masked_fill(~(apart & torch.ones(16, 16).tril().bool()), -1e9)
        whole = one(input_ids=ids, attention_mask=additive, use_cache=False).logits
    torch.testing.assert_close(right, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole, alone, atol=2e-5, rtol=1e-4)
    assert (cached - alone).abs().max() > 1e-3
    assert (ones - alone).abs().max() > 1e-3
    assert row["labels"][0, 7] == IGNORED
