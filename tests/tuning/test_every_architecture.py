"""Every method on architectures that name, share, window and cache their parts differently: it trains and pads as it
should, or is refused when it is put on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf

from luthier.errors import ModelError
from luthier.methods.base import MethodContext
from luthier.methods.heads import head_modules
from luthier.registry import METHODS, discover

discover()
WORDS = {"vocab_size": 61, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BODY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, **WORDS}
SIZES = {**BODY, "intermediate_size": 40}
DECODER = {**SIZES, "num_key_value_heads": 2}
SMALL = {"embedding_size": 16}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, **WORDS}
CONFIGURATIONS: dict[str, Callable[[], Any]] = {
    "bert": lambda: hf.BertConfig(**SIZES),
    "roberta": lambda: hf.RobertaConfig(**SIZES),
    "electra": lambda: hf.ElectraConfig(**SIZES, **SMALL),
    "albert": lambda: hf.AlbertConfig(**SIZES, **SMALL),
    "distilbert": lambda: hf.DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=40, **WORDS),
    "modernbert": lambda: hf.ModernBertConfig(**SIZES, cls_token_id=1, sep_token_id=2, local_attention=6),
    "deberta-v2": lambda: hf.DebertaV2Config(**SIZES),
    "deberta": lambda: hf.DebertaConfig(**SIZES),
    "mpnet": lambda: hf.MPNetConfig(**SIZES),
    "rembert": lambda: hf.RemBertConfig(**SIZES, input_embedding_size=16, output_embedding_size=16),
    "megatron-bert": lambda: hf.MegatronBertConfig(**SIZES),
    "roformer": lambda: hf.RoFormerConfig(**SIZES, embedding_size=32),
    "esm": lambda: hf.EsmConfig(**SIZES, mask_token_id=3, position_embedding_type="rotary"),
    "gpt2": lambda: hf.GPT2Config(**GPT2),
    "opt": lambda: hf.OPTConfig(**BODY, ffn_dim=40, word_embed_proj_dim=32),
    "qwen2": lambda: hf.Qwen2Config(**DECODER),
    "mistral": lambda: hf.MistralConfig(**DECODER, head_dim=8, sliding_window=6),
    "gemma2": lambda: hf.Gemma2Config(**DECODER, head_dim=8, sliding_window=6),
    "phi3": lambda: hf.Phi3Config(**DECODER),
    "stablelm": lambda: hf.StableLmConfig(**DECODER),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**SIZES),
    "gpt_neo": lambda: hf.GPTNeoConfig(
        hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=8, **WORDS
    ),
    "bloom": lambda: hf.BloomConfig(hidden_size=32, n_layer=2, n_head=4, **WORDS),
    "mpt": lambda: hf.MptConfig(d_model=32, n_layers=2, n_heads=4, max_seq_len=64, expansion_ratio=2, **WORDS),
}
BLOCKS = {"bottleneck", "unipelt", "task_prefix"}
PREFIXES = {"unipelt", "task_prefix"}
# What an architecture has no place for; all else works.
REFUSED: dict[str, set[str]] = {
    "electra": {"idpg"},  # embeddings are narrower than hidden states
    "albert": {"prefix", "idpg", "idpg key_value", *BLOCKS},  # one layer stands for all
    "distilbert": {"prefix"},
    "modernbert": {"bitfit", "prefix", "idpg key_value"},
    "deberta-v2": {"prefix", "idpg key_value"},
    "deberta": {"prefix", "idpg key_value", *BLOCKS},
    "mpnet": {"prefix", "idpg key_value", *BLOCKS},
    "rembert": {"idpg", "idpg key_value", *PREFIXES},
    "megatron-bert": {"idpg key_value", *PREFIXES},
    "roformer": {"prefix", "idpg key_value", *PREFIXES},
    "esm": {"prefix"},
    "gpt2": {"idpg key_value"},
    "mistral": {"bitfit"},
    "gemma2": {"bitfit"},
    "phi3": {"bitfit", "idpg key_value"},
    "stablelm": {"idpg key_value"},
    "gpt_neox": {"idpg key_value", *BLOCKS},
    "gpt_neo": {"idpg key_value", *BLOCKS},
    "bloom": {"idpg key_value", *BLOCKS},
    "mpt": {"bitfit", "prefix", "idpg key_value", *BLOCKS},
}
METHODS_HERE: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("lora", "ia3", "bitfit", "prompt", "p_tuning", "prefix", "residual_prompt", "idpg")},
    "idpg key_value": {"insertion": "key_value"},
    # A unit that is never above 0 learns nothing.
    "bottleneck": {"activation": "gelu"},
    "unipelt": {"adapter_activation": "gelu"},
    "task_prefix": {},
}


def built(architecture: str) -> Any:
    """A classifier with weights large enough for the text to matter."""
    configuration = CONFIGURATIONS[architecture]()
    configuration.num_labels = 3
    torch.manual_seed(0)
    model = hf.AutoModelForSequenceClassification.from_config(configuration)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3) if p.ndim > 1 else p.add_(torch.randn_like(p), alpha=0.1)
    return model.eval()


def batch(rows: list[list[int]], width: int) -> dict[str, torch.Tensor]:
    """Rows padded on the right."""
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def rows() -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [[1, *torch.randint(5, 61, (count,), generator=generator).tolist(), 2] for count in (12, 5)]


@pytest.mark.parametrize("method", METHODS_HERE)
@pytest.mark.parametrize("architecture", CONFIGURATIONS)
@pytest.mark.filterwarnings("ignore")
def test_it_trains_and_pads_or_is_refused(architecture: str, method: str) -> None:
    plain = built(architecture)
    head = head_modules(plain, "SEQ_CLS")
    tuner = METHODS._entries[method.split()[0]](**METHODS_HERE[method])
    if method in REFUSED.get(architecture, ()):
        with pytest.raises(ModelError, match=architecture) as caught:
            tuner.apply(plain, MethodContext("SEQ_CLS"))
        assert "fix:" in str(caught.value)
        return
    model = tuner.apply(plain, MethodContext("SEQ_CLS")).eval()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in trained.values():
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.05)

    both = rows()
    logits = model(**batch(both, 14)).logits
    logits.log_softmax(-1)[:, 0].sum().backward()
    for name, p in trained.items():
        if name != "esm.contact_head.regression.bias":  # of another task than this
            assert p.grad is not None, name
            assert p.grad.isfinite().all(), name
            assert p.grad.any(), name
    assert all(any(f"{part}." in name for name in trained) for part in head)
    assert any(not any(f"{part}." in name for part in head) for name in trained)

    with torch.no_grad():
        alone, among = model(**batch(both[1:], 7)).logits[0], model(**batch(both, 18)).logits[1]
        other = model(**batch(both[:1], 14)).logits[0]
    torch.testing.assert_close(among, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(other, alone, atol=1e-4)


def test_a_refusal_names_the_method_and_the_model_as_people_do() -> None:
    tuner = METHODS._entries["idpg"]()
    with pytest.raises(ModelError, match=r"^idpg can't be put on an albert model: ") as refused:
        tuner.apply(built("albert"), MethodContext("SEQ_CLS"))
    assert refused.value.fix == "use lora, bitfit or full"  # idpg has no setting for its layers
