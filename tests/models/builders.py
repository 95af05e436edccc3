"""Configurations and tokenizers of tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>"]
WORDS = [*SPECIAL, "a", "good", "bad", "film", "was", "very", "not", "it", "the", "plot"]
BERT_TOKENS = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def build_tokenizer(**special: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    if "cls_token" in special:
        raw.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", model_max_length=64, **special)


def bert_config(**overrides: Any) -> Any:
    from transformers import BertConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    return BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, **sizes, **overrides)


def llama_config(**overrides: Any) -> Any:
    from transformers import LlamaConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    tokens = {"bos_token_id": 5, "eos_token_id": 6, "pad_token_id": None}
    return LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=64, **sizes, **tokens, **overrides)


def t5_config(**overrides: Any) -> Any:
    from transformers import T5Config

    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}
    return T5Config(vocab_size=len(WORDS), decoder_start_token_id=0, **sizes, **overrides)


def save_tiny(cls: str, config: Any, folder: Path, **special: str) -> Path:
    import torch
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        getattr(transformers, cls)(config).save_pretrained(folder)
    build_tokenizer(**special).save_pretrained(folder)
    return folder
