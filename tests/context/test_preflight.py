"""What is looked at before training: each fault is found, and what transformers does in silence is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from luthier.context import adjust_base_frequency
from luthier.context.preflight import check_before_training, two_documents, without_cache
from luthier.context.rows import rows_of_block
from luthier.data.schemas import IGNORED
from luthier.errors import ModelError
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
