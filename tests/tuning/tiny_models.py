"""Tiny random models of many architectures, in double precision and without dropout."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

VOCABULARY = 60
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "pad_token_id": 0,
    "max_position_embeddings": 64,
}
_ENCODER = {**_COMMON, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_DECODER = {**_COMMON, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
_T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4}
SETTINGS: dict[str, dict[str, Any]] = {
    "bert": _ENCODER,
    "roberta": _ENCODER,
    "electra": _ENCODER,
    "distilbert": {
        "vocab_size": VOCABULARY,
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 40,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "seq_classif_dropout": 0.0,
    },
    "modernbert": {**_COMMON, "local_attention": 6, "global_attn_every_n_layers": 2},
    "deberta-v2": {
        **_ENCODER,
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_buckets": 8,
        "pooler_dropout": 0.0,
    },
    # As DeBERTa-v3: positions are projected by the layers that project text.
    "deberta-v2-shared": {
        **_ENCODER,
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_buckets": 4,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "pooler_dropout": 0.0,
    },
    "llama": _DECODER,
    "qwen2": _DECODER,
    "mistral": {**_DECODER, "sliding_window": 4},
    "phi3": _DECODER,
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "t5": {**_T5, "dropout_rate": 0.0, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
    "bart": {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 40,
        "decoder_ffn_dim": 40,
        "dropout": 0.0,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "init_std": 0.2,
    },
}
ENCODERS = ("bert", "roberta", "electra", "distilbert", "modernbert", "deberta-v2", "deberta-v2-shared")
DECODERS = ("llama", "qwen2", "mistral", "phi3", "gpt2")
ENCODER_DECODERS = ("t5", "bart")
ALL = (*ENCODERS, *DECODERS, *ENCODER_DECODERS)
# Rotary angles are computed in single precision whatever the model's own is.
TOLERANCE = {"modernbert": 1e-6, **dict.fromkeys(DECODERS, 1e-6)}


def task_type(kind: str) -> str:
    """PEFT's, of the head that `build` gives the architecture."""
    if kind in ENCODER_DECODERS:
        return "SEQ_2_SEQ_LM"
    return "CAUSAL_LM" if kind in DECODERS else "SEQ_CLS"


def build(kind: str, attention: str | None = None, seed: int = 0) -> Any:
    """The architecture's model, the same at every call; DeBERTa has only eager attention."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind.removesuffix("-shared"), **SETTINGS[kind])
    config.num_labels = 3
    heads = {
        "SEQ_CLS": AutoModelForSequenceClassification,
        "CAUSAL_LM": AutoModelForCausalLM,
        "SEQ_2_SEQ_LM": AutoModelForSeq2SeqLM,
    }
    attention = "eager" if kind.startswith("deberta") else attention or "sdpa"
    return heads[task_type(kind)].from_config(config, attn_implementation=attention).double().eval()


def batch_for(kind: str, lengths: tuple[int, ...] = (7, 4), width: int | None = None) -> dict[str, torch.Tensor]:
    """Rows of these lengths, padded on the side that suits the architecture; row i is the same in every batch."""
    width = width or max(lengths)
    ids = torch.zeros(len(lengths), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        place = slice(width - length, width) if kind in DECODERS else slice(0, length)
        ids[row, place] = token_ids(row, length)
        mask[row, place] = 1
    batch = {"input_ids": ids, "attention_mask": mask}
    if kind in ENCODER_DECODERS:
        batch["decoder_input_ids"] = torch.stack([token_ids(50 + row, 4) for row in range(len(lengths))])
    return batch


def token_ids(seed: int, length: int) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(100 + seed))


def row_logits(kind: str, logits: torch.Tensor, row: int, length: int) -> torch.Tensor:
    """The logits of one row's text, without those of padding."""
    return logits[row, -length:] if kind in DECODERS else logits[row]


def shake(model: torch.nn.Module, seed: int = 11, scale: float = 0.1) -> None:
    """Move everything trainable away from its first values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator).to(p.dtype), alpha=scale)


@torch.no_grad()
def logits_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**batch).logits
