"""Tiny models on disk, and prefixes that stand in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model

from luthier.models.artifacts import load_model
from luthier.representing import TaskPrefixConfig
from tests.models.builders import BERT_TOKENS, bert_config, llama_config, save_tiny, t5_config

TEXTS = ["good film", "a very bad plot", "it was not good", "the", "the film was very very good it was", "not bad"]
PAIRS = [("good film", "bad"), ("the plot", "it was very good"), ("a", "film")]
BUILDS: dict[str, tuple[str, Any, dict[str, str]]] = {
    "bert": ("BertModel", bert_config, BERT_TOKENS),
    "llama": ("LlamaModel", llama_config, {"eos_token": "</s>"}),
    "t5": ("T5Model", t5_config, {"pad_token": "[PAD]", "eos_token": "</s>"}),
}


def saved_model(folder: Path, kind: str = "bert", **changes: Any) -> Path:
    cls, configure, special = BUILDS[kind]
    config = configure()
    for name, value in changes.items():
        setattr(config, name, value)
    return save_tiny(cls, config, folder, **special)


def with_prefix(folder: Path, seed: int, head: str = "encoder", **settings: Any) -> Any:
    """A PEFT model whose prefix is far from its first values, as a trained one is; it depends on the seed alone."""
    model = load_model(str(folder), head, **({"labels": ["no", "yes"]} if head != "encoder" else {}))
    model = get_peft_model(model, TaskPrefixConfig(**settings)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "task_prefix_parts" in name:
                p.copy_(torch.randn(p.shape, generator=generator))
    return model
