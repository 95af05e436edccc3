"""Tiny random classifiers and data for the tests of this folder."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
    Trainer,
    TrainingArguments,
)

from luthier.objectives.mixin import ObjectiveMixin

EOS, PAD, WORDS = 1, 0, 40


def bert(dropout: float = 0.0, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        num_labels=3,
        **changes,
    )
    return BertForSequenceClassification(config)


def llama() -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
        max_position_embeddings=16,
        num_labels=3,
        pad_token_id=PAD,
    )
    return LlamaForSequenceClassification(config)


def t5() -> nn.Module:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=WORDS,
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_heads=2,
        num_labels=3,
        dropout_rate=0.0,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=PAD,
    )
    return T5ForSequenceClassification(config)


MODELS = {"bert": bert, "llama": llama, "t5": t5}


class Rows(Dataset):
    """Rows of 3 to 7 tokens that end with `EOS`."""

    def __init__(self, count: int = 8) -> None:
        generator = torch.Generator().manual_seed(5)
        self.rows = []
        for i in range(count):
            length = 2 + i % 5
            ids = torch.randint(2, WORDS, (length,), generator=generator).tolist()
            self.rows.append({"input_ids": [*ids, EOS], "labels": i % 3})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    width = max(len(r["input_ids"]) for r in rows)
    return {
        "input_ids": torch.tensor([r["input_ids"] + [PAD] * (width - len(r["input_ids"])) for r in rows]),
        "attention_mask": torch.tensor([[1] * len(r["input_ids"]) + [0] * (width - len(r["input_ids"])) for r in rows]),
        "labels": torch.tensor([r["labels"] for r in rows]),
    }


def arguments(folder: Any, **changes: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "max_grad_norm": 0.0,
        "seed": 3,
    }
    return TrainingArguments(**settings | changes)


def trainer(model: nn.Module, objective: Any, folder: Any, *, rows: int = 8, **changes: Any) -> Trainer:
    cls = type("Tested", (ObjectiveMixin, Trainer), {})
    return cls(
        model=model,
        args=arguments(folder, **changes),
        train_dataset=Rows(rows),
        eval_dataset=Rows(rows),
        data_collator=collate,
        objective=objective,
    )


def batch(count: int = 4) -> dict[str, torch.Tensor]:
    rows = Rows(count)
    return collate([rows[i] for i in range(count)])


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}
