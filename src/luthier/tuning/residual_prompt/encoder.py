"""The PEFT configuration, the prompt and the networks over it.

Shapes: B examples, n prompt rows, d embedding width, m bottleneck; c is 1 for a network that all rows share, n for one
per row. Source: Razdaibiedina et al., Findings of ACL 2023, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel
from peft.config import PromptLearningConfig
from peft.utils import PeftType
from torch import Tensor, nn
from torch.nn import functional

from luthier.methods.options import option
from luthier.methods.placed_prompts import register_placed_prompt
from luthier.methods.prompt_start import file_rows, token_rows, uniform_rows, vocabulary_rows
from luthier.peft_bridge.own_prompts import OwnPromptEncoder, lstm_outputs
from luthier.tuning.residual_prompt.settings import FirstPromptOptions, ResidualPromptOptions

LAYER_NORM_EPS = 1e-5
TRANSFORMER_HEADS = 2


@dataclass
class ResidualPromptConfig(ResidualPromptOptions, FirstPromptOptions, PromptLearningConfig):
    """Configuration of Residual Prompt Tuning; the defaults are the paper's.

    An option that is None takes the default of the chosen network (`luthier.tuning.residual_prompt.settings.DEFAULTS`)
    and is written to the saved configuration with that value.

    Raises:
        ValueError: an option that would have no effect, or a value out of range.
    """

    num_virtual_tokens: int = option(10, "Prompt length n.", gt=0)
    num_transformer_submodules: int | None = field(
        default=1, metadata={"help": "Always 1: in an encoder-decoder the prompt stands before the encoder only."}
    )
    prompt_init_seed: int | None = field(
        default=None, metadata={"help": "Seed of the first prompt; None draws from torch's global generator."}
    )
    prompt_init_text: str | None = field(default=None, metadata={"help": "The text of prompt_init='text'."})
    prompt_init_ids: list[int] | None = field(
        default=None, metadata={"help": "Token ids of that text, in place of prompt_init_text."}
    )
    tokenizer_name_or_path: str | None = field(default=None, metadata={"help": "What tokenizes prompt_init_text."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["RESIDUAL_PROMPT"]
        self.check()
        for name, value in self.network_options().items():
            setattr(self, name, value)

    def check(self) -> None:
        super().check()
        if self.num_transformer_submodules != 1:
            raise ValueError("the prompt stands before the encoder only: num_transformer_submodules must be 1")
        from_text = self.prompt_init == "text"
        needed = {
            "prompt_init_text": from_text and self.prompt_init_ids is None,
            "tokenizer_name_or_path": from_text and self.prompt_init_ids is None,
            "prompt_init_ids": from_text and self.prompt_init_text is None,
            "prompt_init_file": self.prompt_init == "tensor",
        }
        for name, has_effect in needed.items():
            if has_effect and not getattr(self, name):
                raise ValueError(f"prompt_init {self.prompt_init!r} needs {name}")
            if getattr(self, name) and not has_effect:
                raise ValueError(f"{name} would have no effect here: leave it out")


class RowLinear(nn.Module):
    """A linear map of every row, shared (c = 1) or one per row (c = n), initialised as torch does: (n, in) -> (n, out).

    Attributes:
        weight: (c, out, in).
        bias: (c, out).
    """

    def __init__(self, copies: int, in_features: int, out_features: int) -> None:
        super().__init__()
        bound = in_features**-0.5
        self.weight = nn.Parameter(torch.empty(copies, out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(copies, out_features).uniform_(-bound, bound))

    def forward(self, rows: Tensor) -> Tensor:
        if len(self.weight) == 1:
            return functional.linear(rows, self.weight[0], self.bias[0])
        return torch.baddbmm(self.bias[:, None], rows[:, None], self.weight.mT)[:, 0]


class RowNorm(nn.Module):
    """LayerNorm over d with gain and bias (c, d): (n, d) -> (n, d)."""

    def __init__(self, copies: int, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(copies, width))
        self.bias = nn.Parameter(torch.zeros(copies, width))

    def forward(self, rows: Tensor) -> Tensor:
        return functional.layer_norm(rows, rows.shape[-1:], eps=LAYER_NORM_EPS) * self.gain + self.bias


class Bottleneck(nn.Module):
    """phi(x) = LN(W_up a(W_down x + b_down) + b_up): (n, d) -> (n, d), the paper's network."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        copies = 1 if config.shared else config.num_virtual_tokens
        self.down = RowLinear(copies, config.token_dim, config.bottleneck)
        self.up = RowLinear(copies, config.bottleneck, config.token_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.norm = _norm(config, copies)
        self.activation = getattr(torch, config.activation)

    def forward(self, rows: Tensor) -> Tensor:
        return self.norm(self.dropout(self.up(self.activation(self.down(rows)))))


class DoubleBottleneck(nn.Module):
    """Two bottlenecks in a row: (n, d) -> (n, d); tied, the second has the weights of the first, as released."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.first = Bottleneck(config)
        self.second = None if config.tied else Bottleneck(config)

    def forward(self, rows: Tensor) -> Tensor:
        return (self.second or self.first)(self.first(rows))


class RecurrentNetwork(nn.Module):
    """A bidirectional LSTM over the rows with hidden width d / 2: (n, d) -> (n, d)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width, dropout = config.token_dim, config.dropout
        self.lstm = nn.LSTM(width, width // 2, config.layers, dropout=dropout, bidirectional=True, batch_first=True)
        self.norm = _norm(config)

    def forward(self, rows: Tensor) -> Tensor:
        return self.norm(lstm_outputs(self.lstm, rows))


class TransformerNetwork(nn.Module):
    """Transformer encoder layers with two heads over the rows: (n, d) -> (n, d)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        # Rows first: with batch_first torch takes a fused path when gradients are off, whose rounding differs.
        layer = nn.TransformerEncoderLayer(
            config.token_dim, TRANSFORMER_HEADS, config.bottleneck, config.dropout, getattr(torch, config.activation)
        )
        self.encoder = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.norm = _norm(config)

    def forward(self, rows: Tensor) -> Tensor:
        return self.norm(self.encoder(rows[:, None])[:, 0])


def _norm(config: Any, copies: int = 1) -> nn.Module:
    return RowNorm(copies, config.token_dim) if config.layer_norm else nn.Identity()


# Each is built from a configuration whose options are filled in, which the types of its fields don't say.
NETWORKS: dict[str, Callable[[Any], nn.Module] | None] = {
    "mlp": Bottleneck,
    "mlp2": DoubleBottleneck,
    "lstm": RecurrentNetwork,
    "transformer": TransformerNetwork,
    "none": None,
}


class ResidualPromptEncoder(OwnPromptEncoder):
    """P and phi; its output is the prompt that the model sees, Phi(P) = phi(P) + P.

    Attributes:
        embedding: holds P (n, d).
        network: phi, or None for plain prompt tuning.
    """

    stored_as = "residual_prompt."

    def __init__(self, config: ResidualPromptConfig, embeddings: nn.Embedding | None) -> None:
        """Build both; in inference mode P starts as zeros, since it is about to be loaded.

        Raises:
            ValueError: the network needs an even width.
            ModelError: the first prompt can't be made.
        """
        super().__init__()
        if config.reparameterizer in ("lstm", "transformer") and config.token_dim % 2:
            raise ValueError(
                f"the {config.reparameterizer} needs an even embedding width, but the model has {config.token_dim}"
            )
        rows = torch.zeros(config.num_virtual_tokens, config.token_dim)
        if not config.inference_mode and embeddings is not None:
            rows = first_prompt(config, embeddings)
        self.embedding = nn.Embedding.from_pretrained(rows, freeze=config.inference_mode)
        build = NETWORKS[config.reparameterizer]
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


def first_prompt(config: ResidualPromptConfig, embeddings: nn.Embedding) -> Tensor:
    """P before training: float32 (n, d)."""
    length, seed = config.num_virtual_tokens, config.prompt_init_seed
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    if config.prompt_init == "uniform":
        return uniform_rows(config.token_dim, length, generator)
    if config.prompt_init == "tensor":
        return file_rows(str(config.prompt_init_file), length, config.token_dim)
    if config.prompt_init == "vocabulary":
        return vocabulary_rows(embeddings, length, generator)
    ids = config.prompt_init_ids
    if ids is None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(config.tokenizer_name_or_path)
        ids = tokenizer(config.prompt_init_text, add_special_tokens=False)["input_ids"]
    return token_rows(embeddings, ids, length)


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


register_placed_prompt("residual_prompt", ResidualPromptConfig, ResidualPromptEncoder)
