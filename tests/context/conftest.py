"""A tiny decoder with rotary positions on disk, and texts of several lengths."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.language_modeling.models import SPECIAL, WORDS, word_pieces

WRITTEN = [word for word in WORDS if not word.startswith("##") and word != "."]
LENGTH = 32
SIZES: dict[str, Any] = {
    "vocab_size": len(SPECIAL) + len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 48,
    "max_position_embeddings": LENGTH,
    "bos_token_id": None,
    "eos_token_id": 3,
    "pad_token_id": 0,
}


def documents(count: int, seed: int, lengths: tuple[int, ...] = (2, 9, 30, 150)) -> list[str]:
    draw = random.Random(seed)
    made = [draw.choices(WRITTEN, k=draw.choice(lengths)) for _ in range(count)]
    return [f"{' '.join(words[:6])}. {' '.join(words[6:])} ." for words in made]


def write(place: Path, texts: list[str]) -> str:
    place.write_text("".join(f"{text}\n" for text in texts))
    return str(place)


def lengthening(folder: Path, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A recipe that several processes run: rows of two lengths, and gradients that clipping makes smaller."""
    corpus = {"train": str(folder / "train.txt"), "validation": str(folder / "held.txt"), "shuffle": 20}
    stage = {"corpus": corpus, "length": 2 * LENGTH, "document_mask": "block", "batch_size": 2, "checkpoint_every": 1}
    stage |= {"learning_rate": 5e-3, "adam_epsilon": 1e-3, "max_grad_norm": 0.3, "held_out_rows": 5, "log_every": 1}
    stage |= {"curriculum": [{"length": LENGTH, "share": 0.5}], **settings}
    return {"name": name, "model": str(folder / "model"), "stages": [{"lengthen": stage}]}


def pretraining(folder: Path, name: str, architecture: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """A recipe that several processes run: a new model, accumulation, and activations computed again."""
    corpus = {"train": str(folder / "train.txt"), "validation": str(folder / "held.txt")}
    stage = {"corpus": corpus, "architecture": architecture, "max_steps": 3, "batch_size": 2, "accumulation": 2}
    stage |= {"learning_rate": 5e-3, "adam_epsilon": 1e-3, "gradient_checkpointing": True, "keep_best": False}
    stage |= {"evaluate_every": 2, "held_out_rows": 5, "log_every": 1, **settings}
    return {"name": name, "model": str(folder / "model"), "stages": [{"pretrain": stage}]}


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder."""
    folder = tmp_path_factory.mktemp("rotary") / "model"
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder)
    word_pieces().save_pretrained(folder)
    return folder
