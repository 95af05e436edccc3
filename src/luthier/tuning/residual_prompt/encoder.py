"""The prompt and the network over it.

Shapes: B examples, n prompt rows, d embedding width.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BasePromptEncoder
from torch import Tensor, nn
from torch.nn import functional

from luthier.methods.prompt_start import file_rows, token_rows, uniform_rows, vocabulary_rows
from luthier.peft_bridge.own_prompts import register_prompt_encoder
from luthier.peft_bridge.prompt_learning import install
from luthier.peft_bridge.registration import register_tuner
from luthier.tuning.residual_prompt.config import ResidualPromptConfig
from luthier.tuning.residual_prompt.networks import NETWORKS

STORED = "residual_prompt."


class ResidualPromptEncoder(BasePromptEncoder):
    """P and phi; its output is the prompt that the model sees, Phi(P) = phi(P) + P.

    Attributes:
        embedding: holds P (n, d).
        network: phi, or None for plain prompt tuning.
    """

    def __init__(self, config: ResidualPromptConfig, embeddings: nn.Embedding | None) -> None:
        """Build both; in inference mode P starts as zeros, since it is about to be loaded.

        Raises:
            ValueError: the width does not fit the network.
            ModelError: the first prompt can't be made.
        """
        super().__init__()
        rows = torch.zeros(config.num_virtual_tokens, config.token_dim)
        if not config.inference_mode and embeddings is not None:
            rows = first_prompt(config, embeddings)
        self.embedding = nn.Embedding.from_pretrained(rows, freeze=config.inference_mode)
        build = NETWORKS.get(config.reparameterizer)
        self.network = build(config) if build else None
        self.residual = bool(config.residual)
        if config.inference_mode:
            self.requires_grad_(False)

    def branch(self) -> Tensor:
        """phi(P): (n, d); zeros without a network."""
        return torch.zeros_like(self.embedding.weight) if self.network is None else self.network(self.embedding.weight)

    def prompt(self) -> Tensor:
        """Phi(P): (n, d), what is put before the token embeddings."""
        if self.network is None:
            return self.embedding.weight
        return self.branch() + self.embedding.weight if self.residual else self.branch()

    def forward(self, indices: Tensor) -> Tensor:
        """(B, n) row numbers -> (B, n, d)."""
        return functional.embedding(indices, self.prompt())

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: PeftModel,
        config: ResidualPromptConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        """P and phi, so that a stopped run goes on from what was saved."""
        names = model.prompt_encoder[adapter_name].state_dict()
        return {STORED + name: state_dict[f"prompt_encoder.{adapter_name}.{name}"] for name in names}

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return key if key.startswith(STORED) else super()._remove_adapter_name_from_key(key, adapter_name)

    def _load_adapter_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        self.load_state_dict(own_state(state_dict))


def own_state(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The part of a stored adapter that belongs to the prompt encoder, named as in the encoder."""
    return {k.removeprefix(STORED): v for k, v in state_dict.items() if k.startswith(STORED)}


def first_prompt(config: ResidualPromptConfig, embeddings: nn.Embedding) -> Tensor:
    """P before training: float32 (n, d)."""
    length, seed = config.num_virtual_tokens, config.prompt_init_seed
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    if config.prompt_init == "uniform":
        return uniform_rows(config.token_dim, length, generator)
    if config.prompt_init == "tensor":
        assert config.prompt_init_file
        return file_rows(config.prompt_init_file, length, config.token_dim)
    if config.prompt_init == "text":
        return token_rows(embeddings, config.prompt_init_ids or _text_ids(config), length)
    return vocabulary_rows(embeddings, length, generator)


def _text_ids(config: ResidualPromptConfig) -> list[int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(config.tokenizer_name_or_path)
    return tokenizer(config.prompt_init_text, add_special_tokens=False)["input_ids"]


def encoder_of(model: Any, adapter_name: str | None = None) -> ResidualPromptEncoder:
    """The prompt encoder of an adapter, by default of the active one.

    Raises:
        ValueError: the adapter is not a residual prompt.
    """
    name = adapter_name or model.active_adapter
    encoder = model.prompt_encoder[name] if hasattr(model, "prompt_encoder") else None
    if not isinstance(encoder, ResidualPromptEncoder):
        raise ValueError(f"adapter {name!r} is not a residual prompt")
    return encoder


@torch.no_grad()
def branch_ratio(model: PeftModel, adapter_name: str | None = None) -> Tensor:
    """|phi(P)| / |P| of every prompt row: (n,). Far above 1, the network swamps the private vectors.

    Raises:
        ValueError: the adapter is not a residual prompt.
    """
    encoder = encoder_of(model, adapter_name)
    return encoder.branch().norm(dim=-1) / encoder.embedding.weight.norm(dim=-1)


def parameter_counts(model: PeftModel, adapter_name: str | None = None) -> dict[str, int]:
    """Numbers trained in prompt and network, stored to go on training, and left after folding; without heads.

    Raises:
        ValueError: the adapter is not a residual prompt.
    """
    encoder = encoder_of(model, adapter_name)
    return {
        "trainable": sum(p.numel() for p in encoder.parameters() if p.requires_grad),
        "stored": sum(p.numel() for p in encoder.parameters()),
        "folded": encoder.embedding.weight.numel(),
    }


register_tuner("residual_prompt", ResidualPromptConfig, ResidualPromptEncoder)
register_prompt_encoder(ResidualPromptConfig, ResidualPromptEncoder)
install()
