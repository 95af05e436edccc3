"""The body that is found in a model, against what the model does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf

from luthier.models.inspect import model_max_length
from luthier.models.layers.trunk import bare_pass, find_trunk

SIZES = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
XLNET = {"vocab_size": 61, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 40}
MODELS = {
    "bert": lambda: hf.BertModel(hf.BertConfig(**SIZES)),
    "xlnet": lambda: hf.XLNetModel(hf.XLNetConfig(**XLNET)),
    "gpt2": lambda: hf.GPT2Model(hf.GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4)),
    "llama": lambda: hf.LlamaModel(hf.LlamaConfig(**SIZES)),
    "bloom": lambda: hf.BloomModel(hf.BloomConfig(vocab_size=61, hidden_size=32, n_layer=2, n_head=4)),
    "mpt": lambda: hf.MptModel(hf.MptConfig(vocab_size=61, d_model=32, n_layers=2, n_heads=4, max_seq_len=64)),
    "mamba": lambda: hf.MambaModel(
        hf.MambaConfig(vocab_size=61, hidden_size=32, num_hidden_layers=2, state_size=4, pad_token_id=0)
    ),
}


def drawn(build: Callable[[], Any]) -> Any:
    """A model whose weights tell tokens apart."""
    torch.manual_seed(1)
    model = build().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("architecture", list(MODELS))
def test_a_body_is_causal_where_no_position_sees_a_later_one(architecture: str) -> None:
    model = drawn(MODELS[architecture])
    ids = torch.randint(3, 61, (1, 6))
    changed = torch.where(torch.arange(6) == 5, (ids + 1) % 61, ids)
    with torch.no_grad():
        before, after = (model(input_ids=given)[0][:, :-1] for given in (ids, changed))
    causal = torch.allclose(before, after, atol=1e-6)
    trunk = find_trunk(model)
    assert trunk.causal is causal
    assert trunk.pooling == ("last" if causal else trunk.pooling)
    assert not (causal and trunk.has_first_token)


OWN = {**SIZES, "pad_token_id": 1, "max_position_embeddings": 40}
FROM_PADDING = {
    "roberta": lambda: hf.RobertaModel(hf.RobertaConfig(**OWN)),
    "mpnet": lambda: hf.MPNetModel(hf.MPNetConfig(**OWN)),
    "longformer": lambda: hf.LongformerModel(hf.LongformerConfig(**OWN, attention_window=8)),
    "luke": lambda: hf.LukeModel(hf.LukeConfig(**OWN, entity_vocab_size=4, entity_emb_size=8)),
    "esm": lambda: hf.EsmModel(hf.EsmConfig(**OWN, position_embedding_type="absolute", mask_token_id=4)),
    "bert": MODELS["bert"],
}


@pytest.mark.parametrize("architecture", list(FROM_PADDING))
def test_a_pass_without_prompts_is_that_of_the_model_with_padding_on_either_side(architecture: str) -> None:
    model = drawn(FROM_PADDING[architecture])
    trunk, ids = find_trunk(model), torch.randint(5, 61, (1, 6))
    assert trunk.has_first_token
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=torch.ones_like(ids))[0][:, 0]
    padding = torch.full((1, 3), model.config.pad_token_id)
    for parts in ((ids,), (ids, padding), (padding, ids)):
        given = torch.cat(parts, 1)
        mask = torch.cat([torch.full_like(part, part is ids) for part in parts], 1)
        found = bare_pass(trunk, {"input_ids": given, "attention_mask": mask}, mask, "first")
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", [name for name in FROM_PADDING if name != "bert"])
def test_positions_that_padding_keeps_are_no_room_for_text(architecture: str) -> None:
    model: Any = FROM_PADDING[architecture]()
    assert model_max_length(model.config) == 38


def test_the_last_token_of_xlnet_stands_for_its_text() -> None:
    assert not find_trunk(MODELS["xlnet"]()).has_first_token
