"""Facts about models."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import peft
import pytest
from torch import nn
from transformers import (
    BartConfig,
    BertConfig,
    BertModel,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    T5Config,
    T5ForConditionalGeneration,
    XLNetConfig,
)

from luthier.models.inspect import (
    bytes_on_disk,
    is_decoder,
    is_encoder_decoder,
    model_max_length,
    parameter_counts,
    text_embeddings,
)
from luthier.peft_bridge.adapter_types import register_adapter_type

from .builders import bert_config, llama_config, t5_config


def test_parameters_are_counted_once_and_by_what_is_trained():
    model = LlamaForCausalLM(llama_config(tie_word_embeddings=True))
    untied = LlamaForCausalLM(llama_config(tie_word_embeddings=False))
    table = text_embeddings(model).weight.numel()
    assert parameter_counts(untied)[1] - parameter_counts(model)[1] == table
    model.requires_grad_(False)
    text_embeddings(model).weight.requires_grad_(True)
    assert parameter_counts(model)[0] == table


@pytest.mark.parametrize(
    ("build", "width"),
    [
        (lambda: BertModel(bert_config()), 32),
        (lambda: LlamaForCausalLM(llama_config()), 32),
        (lambda: T5ForConditionalGeneration(t5_config()), 32),
    ],
)
def test_the_embedding_table_is_found_under_adapters(build, width):
    model = build()
    table = text_embeddings(model)
    assert table.weight.shape == (model.config.vocab_size, width)
    embedding = next(name for name, module in model.named_modules() if module is table)
    linear = next(name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=[linear, embedding]))
    assert text_embeddings(wrapped) is table


@pytest.mark.parametrize(
    ("config", "encoder_decoder", "decoder"),
    [
        (BertConfig(), False, False),
        (RobertaConfig(), False, False),
        (GPT2Config(), False, True),
        (LlamaConfig(), False, True),
        (BertConfig(is_decoder=True), False, True),
        (T5Config(), True, False),
        (BartConfig(), True, False),
    ],
)
def test_kinds_of_models(config, encoder_decoder, decoder):
    assert (is_encoder_decoder(config), is_decoder(config)) == (encoder_decoder, decoder)


@pytest.mark.parametrize(
    ("config", "tokenizer_limit", "expected"),
    [
        (BertConfig(max_position_embeddings=512), int(1e30), 512),
        (BertConfig(max_position_embeddings=512), 128, 128),
        (BertConfig(max_position_embeddings=512), -1, 512),
        (BertConfig(max_position_embeddings=512), None, 512),
        (RobertaConfig(max_position_embeddings=514, pad_token_id=1), 10**30, 512),
        (GPT2Config(n_positions=1024), 10**30, 1024),
        (T5Config(), 10**30, None),
        (T5Config(), 512, 512),
        (XLNetConfig(), 10**30, None),
    ],
)
def test_the_longest_text(config, tokenizer_limit, expected):
    assert model_max_length(config, SimpleNamespace(model_max_length=tokenizer_limit)) == expected


def test_roberta_really_takes_that_many_tokens_and_no_more():
    import torch
    from transformers import RobertaModel

    config = RobertaConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=12, pad_token_id=1,
    )  # fmt: skip
    limit = model_max_length(config)
    assert limit == 10
    model = RobertaModel(config)
    assert model(torch.full((1, limit), 5)).last_hidden_state.shape == (1, 10, 16)
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, limit + 1), 5))


def test_bytes_on_disk(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"123")
    assert bytes_on_disk(tmp_path) == 8


def test_one_adapter_type_has_one_home():
    register_adapter_type("TEST_TYPE", "some.module")
    register_adapter_type("test_type", "some.module")
    with pytest.raises(ValueError, match=r"both some\.module and other\.module"):
        register_adapter_type("TEST_TYPE", "other.module")
