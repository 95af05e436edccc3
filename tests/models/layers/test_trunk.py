"""The body that is found in a model, against what the model does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf

from luthier.models.layers.trunk import find_trunk

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


@pytest.mark.parametrize("architecture", list(MODELS))
def test_a_body_is_causal_where_no_position_sees_a_later_one(architecture: str) -> None:
    torch.manual_seed(1)
    model: Any = MODELS[architecture]().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ids = torch.randint(3, 61, (1, 6))
    changed = torch.where(torch.arange(6) == 5, (ids + 1) % 61, ids)
    with torch.no_grad():
        before, after = (model(input_ids=given)[0][:, :-1] for given in (ids, changed))
    causal = torch.allclose(before, after, atol=1e-6)
    trunk = find_trunk(model)
    assert trunk.causal is causal
    assert trunk.pooling == ("last" if causal else trunk.pooling)
    assert not (causal and trunk.has_first_token)
