"""Prompts beside their text in padded batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BloomConfig,
    BloomForSequenceClassification,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    ModernBertDecoderConfig,
    ModernBertDecoderForSequenceClassification,
    MptConfig,
    MptForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from luthier.peft_bridge.prompt_placement import _PaddingFirst, keep_prompt_beside_text, positions_from_mask

LLAMA = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}


def test_positions_pass_over_padding() -> None:
    mask = torch.tensor([[1, 1, 0, 0, 1, 1], [1, 1, 1, 1, 1, 0]])
    assert positions_from_mask(mask).tolist() == [[0, 1, 1, 1, 2, 3], [0, 1, 2, 3, 4, 4]]


def prompted(model: Any, task_type: str, *, placed: bool) -> Any:
    torch.manual_seed(0)
    tuned = get_peft_model(
        model, PromptTuningConfig(task_type=task_type, num_virtual_tokens=3, num_attention_heads=4)
    ).eval()
    torch.nn.init.normal_(tuned.prompt_encoder["default"].embedding.weight)
    if placed:
        keep_prompt_beside_text(model, task_type, 3)
    return tuned


def classify(model: Any, rows: list[list[int]]) -> torch.Tensor:
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=(ids != 0).long()).logits


def bloom() -> Any:
    # It takes no positions.
    return BloomForSequenceClassification(
        BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=61, pad_token_id=0)
    )


def modernbert_decoder() -> Any:
    # Its head is called `classifier`, as that of an encoder.
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    return ModernBertDecoderForSequenceClassification(
        ModernBertDecoderConfig(**LLAMA, **tokens, intermediate_size=40, local_attention=8)
    )


@pytest.mark.parametrize("placed", [True, False])
@pytest.mark.parametrize(
    "build", [lambda: LlamaForSequenceClassification(LlamaConfig(**LLAMA)), bloom, modernbert_decoder]
)
def test_a_decoder_classifies_from_the_last_token_of_the_text(build: Any, placed: bool) -> None:
    model = prompted(build(), "SEQ_CLS", placed=placed)
    alone = classify(model, [[5, 6, 7]])[0]
    beside = classify(model, [[5, 6, 7], [8, 9, 10, 11, 12, 13]])[0]
    assert torch.allclose(alone, beside, atol=1e-5) is placed


WINDOWED = {"num_key_value_heads": 4, "sliding_window": 8, "eos_token_id": 1, "bos_token_id": 2}


def mistral() -> Any:
    return MistralForCausalLM(MistralConfig(**LLAMA, **WINDOWED))


def mpt() -> Any:
    # It takes no positions, and counts distances over padding.
    return MptForCausalLM(MptConfig(d_model=32, n_layers=2, n_heads=4, max_seq_len=64, vocab_size=61, pad_token_id=0))


def local() -> Any:
    kinds = [[["global", "local"], 1]]
    return GPTNeoForCausalLM(
        GPTNeoConfig(vocab_size=61, hidden_size=32, num_layers=2, num_heads=4, attention_types=kinds, window_size=8)
    )


@pytest.mark.parametrize("placed", [True, False])
@pytest.mark.parametrize("build", [mistral, mpt, local])
def test_a_padded_row_is_continued_as_if_it_were_alone(build: Any, placed: bool) -> None:
    base = build()
    torch.manual_seed(3)
    for parameter in base.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model = prompted(base, "CAUSAL_LM", placed=placed)
    row, longer = [5, 6, 7], list(range(5, 35))
    several = torch.tensor([[0] * 27 + row, longer])
    asked = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None, "output_logits": True}
    asked["return_dict_in_generate"] = True

    def continued(ids: torch.Tensor) -> torch.Tensor:
        found = model.generate(input_ids=ids, attention_mask=(ids != 0).long(), **asked)
        return torch.stack([step[0] for step in found.logits])

    assert torch.allclose(continued(torch.tensor([row])), continued(several), atol=1e-3) is placed


def test_padding_goes_before_the_prompt_and_text_stays() -> None:
    mask = torch.tensor([[1, 1, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]])
    order = _PaddingFirst(2)._order(mask)
    assert order.tolist() == [[2, 3, 4, 0, 1, 5], *[list(range(6))] * 3]


def test_unpadded_rows_are_as_in_stock_peft() -> None:
    model = LlamaForCausalLM(LlamaConfig(**LLAMA))
    tuned = prompted(model, "CAUSAL_LM", placed=False)
    ids = torch.randint(3, 61, (2, 5))
    with torch.no_grad():
        stock = tuned(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        keep_prompt_beside_text(model, "CAUSAL_LM", 3)
        assert torch.equal(tuned(input_ids=ids, attention_mask=torch.ones_like(ids)).logits, stock)


def test_given_positions_are_kept() -> None:
    model = LlamaForCausalLM(LlamaConfig(**LLAMA)).eval()
    ids, positions = torch.randint(3, 61, (1, 4)), torch.tensor([[3, 5, 9, 20]])
    with torch.no_grad():
        before = model(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions).logits
        keep_prompt_beside_text(model, "CAUSAL_LM")
        after = model(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions).logits
    assert torch.equal(before, after)


def test_hooks_are_set_once_and_only_where_they_help() -> None:
    small = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 8}
    bert = BertForSequenceClassification(BertConfig(vocab_size=61, **small))
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=61, d_model=32, d_kv=8, d_ff=8, num_layers=1, num_heads=2))
    llama = LlamaForCausalLM(LlamaConfig(**LLAMA))
    for model, task_type in ((bert, "SEQ_CLS"), (t5, "SEQ_2_SEQ_LM"), (llama, "CAUSAL_LM")):
        keep_prompt_beside_text(model, task_type, 3)
        keep_prompt_beside_text(model, task_type, 3)
    assert [len(model._forward_pre_hooks) for model in (bert, t5, llama)] == [0, 0, 1]
