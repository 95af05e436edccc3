"""The table of tuning methods that every check in `test_methods.py` runs through: a new method adds one row.

The models are tiny, random and without dropout, so that every check is exact and fast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

VOCABULARY, WIDTH, LABELS = 61, 32, 3


@dataclass(frozen=True)
class Case:
    """One row: a method with settings, and what holds for it.

    Attributes:
        method: as in a recipe.
        trains: parts of the names of parameters that may be trained, beside the task head.
        on: the architectures it works on.
        adapter: whether the result is a PEFT model.
        checkpointing: whether it works with gradient checkpointing.
    """

    method: dict[str, Any]
    trains: tuple[str, ...]
    on: tuple[str, ...] = ("encoder", "decoder", "decoder_classifier", "encoder_decoder")
    adapter: bool = True
    checkpointing: bool = True

    def __str__(self) -> str:
        extras = [str(value) for key, value in self.method.items() if key != "name"]
        return "-".join([self.method["name"], *extras]).replace(" ", "")


PROMPT = ("prompt_encoder.",)
CASES = [
    Case({"name": "full"}, ("",), adapter=False),
    Case({"name": "head_only"}, (), on=("encoder", "decoder_classifier"), adapter=False),
    Case({"name": "bitfit"}, (".bias",), on=("encoder",), adapter=False),
    Case({"name": "lora"}, (".lora_A.", ".lora_B.")),
    Case({"name": "lora", "target_modules": "all-linear", "dora": True}, (".lora_",), on=("encoder", "decoder")),
    Case({"name": "ia3"}, (".ia3_l.",)),
    Case({"name": "prompt", "length": 4}, PROMPT),
    Case({"name": "prompt", "length": 4, "insert": "after_cls"}, PROMPT, on=("encoder",)),
    Case({"name": "p_tuning", "length": 4}, PROMPT),
    Case({"name": "p_tuning", "length": 4, "reparameterization": "lstm"}, PROMPT, on=("encoder",)),
    Case({"name": "p_tuning", "length": 4, "insert": "after_cls"}, PROMPT, on=("encoder",)),
    Case({"name": "prefix", "length": 4}, PROMPT, checkpointing=False),
    Case({"name": "prefix", "length": 4, "projection": True}, PROMPT, on=("encoder",), checkpointing=False),
    Case({"name": "residual_prompt", "length": 4, "bottleneck": 8}, PROMPT),
    Case({"name": "residual_prompt", "length": 4, "bottleneck": 8, "shared": False}, PROMPT),
    Case(
        {"name": "residual_prompt", "length": 4, "reparameterizer": "mlp2", "bottleneck": 8},
        PROMPT,
        on=("encoder",),
    ),
    Case({"name": "residual_prompt", "length": 4, "bottleneck": 8, "insert": "after_cls"}, PROMPT, on=("encoder",)),
    Case({"name": "residual_prompt", "length": 4, "reparameterizer": "lstm"}, PROMPT, on=("encoder",)),
    Case({"name": "residual_prompt", "length": 4, "reparameterizer": "transformer"}, PROMPT, on=("encoder",)),
    Case({"name": "residual_prompt", "length": 4, "reparameterizer": "none"}, PROMPT, on=("encoder",)),
    Case({"name": "idpg", "dropout": 0.0}, ("instance_prompt",)),
    Case({"name": "idpg", "dropout": 0.0, "insertion": "key_value"}, ("instance_prompt",), on=("encoder",)),
    Case({"name": "idpg", "dropout": 0.0, "multi_layer": False}, ("instance_prompt",), on=("encoder", "decoder")),
    Case({"name": "bottleneck", "bottleneck": 12}, (".bottleneck_parts.",)),
    Case(
        {"name": "bottleneck", "bottleneck": 12, "placement": "houlsby", "activation": "gelu"}, (".bottleneck_parts.",)
    ),
    Case({"name": "unipelt", "prefix_length": 4, "prefix_projection_width": 16}, (".unipelt_parts.",)),
    Case({"name": "unipelt", "gates": "none", "prefix_projection": False}, (".unipelt_parts.",)),
    Case({"name": "unipelt", "parts": ["lora", "bitfit"]}, (".unipelt_parts.",), on=("encoder",)),
    Case({"name": "task_prefix"}, (".task_prefix_parts.",)),
    Case(
        {"name": "task_prefix", "prefix_length": 3, "projection": True, "projection_width": 16, "layers": [1]},
        (".task_prefix_parts.",),
    ),
    Case({"name": "peft", "peft_type": "LOHA", "settings": {"r": 2}}, (".hada_",)),
]


@dataclass(frozen=True)
class Architecture:
    """A tiny model and how its batches look."""

    task_type: str
    build: Callable[[], Any]
    pad_side: str
    labels: Callable[[int, int], torch.Tensor] = field(repr=False)


def encoder() -> Any:
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=48,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=LABELS,
    )
    return BertForSequenceClassification(config)


def llama_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=40,
        max_position_embeddings=48,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        num_labels=LABELS,
    )


def decoder() -> Any:
    return LlamaForCausalLM(llama_config())


def decoder_classifier() -> Any:
    return LlamaForSequenceClassification(llama_config())


def encoder_decoder() -> Any:
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        d_kv=8,
        d_ff=40,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config)


ARCHITECTURES = {
    "encoder": Architecture("SEQ_CLS", encoder, "right", lambda rows, _: torch.arange(rows) % LABELS),
    "decoder": Architecture("CAUSAL_LM", decoder, "left", lambda rows, width: token_ids(rows, width, seed=7)),
    "decoder_classifier": Architecture(
        "SEQ_CLS", decoder_classifier, "right", lambda rows, _: torch.arange(rows) % LABELS
    ),
    "encoder_decoder": Architecture(
        "SEQ_2_SEQ_LM", encoder_decoder, "right", lambda rows, _: token_ids(rows, 3, seed=7)
    ),
}


def token_ids(rows: int, width: int, seed: int = 1) -> torch.Tensor:
    """(rows, width) token ids without special ones."""
    return torch.randint(3, VOCABULARY, (rows, width), generator=torch.Generator().manual_seed(seed))


def base_model(architecture: str) -> Any:
    """The architecture's tiny model, the same at every call, in eval mode."""
    torch.manual_seed(0)
    return ARCHITECTURES[architecture].build().eval()


def batch_of(architecture: str, lengths: list[int], width: int | None = None) -> dict[str, torch.Tensor]:
    """Rows of the given lengths, padded to `width` on the architecture's side; row i is the same in every batch."""
    kind = ARCHITECTURES[architecture]
    width = width or max(lengths)
    ids, mask = (
        torch.zeros(len(lengths), width, dtype=torch.long),
        torch.zeros(len(lengths), width, dtype=torch.long),
    )
    for row, length in enumerate(lengths):
        place = slice(0, length) if kind.pad_side == "right" else slice(width - length, width)
        ids[row, place] = token_ids(1, length, seed=100 + row)[0]
        mask[row, place] = 1
    batch = {"input_ids": ids, "attention_mask": mask}
    if architecture == "encoder_decoder":
        batch["decoder_input_ids"] = token_ids(1, 3, seed=5).repeat(len(lengths), 1)
    return batch


def row_logits(architecture: str, logits: torch.Tensor, row: int, length: int) -> torch.Tensor:
    """The logits of one row's text, without those of prompt and padding."""
    return logits[row, -length:] if architecture == "decoder" else logits[row]
