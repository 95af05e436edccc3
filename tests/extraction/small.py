"""A tiny random model and a batch of two annotated sentences, the second one padded."""

from __future__ import annotations

from typing import Any

import torch
from transformers import BertConfig

from luthier.extraction import AutoModelForJointExtraction, SinetForJointExtraction

LABELS = ["entity:A", "entity:B", "relation:r", "symmetric relation:s"]
WIDTH = 32


def model(seed: int = 0, **options: Any) -> SinetForJointExtraction:
    torch.manual_seed(seed)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    encoder = BertConfig(vocab_size=64, **sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    encoder.id2label = dict(enumerate(LABELS))
    config = AutoModelForJointExtraction.head_config(encoder)
    for name, value in ({"max_span_size": 3} | options).items():
        setattr(config, name, value)
    made = AutoModelForJointExtraction.from_config(config).double().eval()
    with torch.no_grad():  # large enough that every part of an equation counts
        for name, parameter in made.named_parameters():
            if not name.startswith("encoder."):
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    return made


def batch() -> dict[str, torch.Tensor]:
    """Pieces: [CLS] 1 2-3 4 5-6 7 [SEP] and [CLS] 1-2 3 4 [SEP]; the last entity is longer than the span limit."""
    ids = torch.randint(5, 60, (2, 9), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    none = [-1, -1]
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "text_mask": mask,
        "word_start": torch.tensor([[1, 2, 4, 5, 7], [1, 3, 4, -1, -1]]),
        "word_end": torch.tensor([[2, 4, 5, 7, 8], [3, 4, 5, -1, -1]]),
        "entity_words": torch.tensor([[[0, 1], [1, 3], [1, 5]], [[0, 1], none, none]]),
        "entity_types": torch.tensor([[1, 2, 2], [1, -1, -1]]),
        "relations": torch.tensor([[[0, 1, 0], [0, 1, 1], [2, 0, 0]], [[-1] * 3] * 3]),
    }


ANNOTATIONS = ("entity_words", "entity_types", "relations")


def asked(given: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """The batch without its annotations."""
    return {name: value for name, value in (given or batch()).items() if name not in ANNOTATIONS}


def row(given: dict[str, torch.Tensor], place: int, pieces: int, words: int) -> dict[str, torch.Tensor]:
    """One sentence without padding."""
    sizes = {"word_start": words, "word_end": words, "entity_words": 3, "entity_types": 3, "relations": 3}
    return {name: value[place : place + 1, : sizes.get(name, pieces)] for name, value in given.items()}
