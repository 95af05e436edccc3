"""The networks phi of Residual Prompt Tuning.

Shapes: n prompt rows, d embedding width, m bottleneck; c is 1 for a network that all rows share, n for one per
row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from luthier.tuning.residual_prompt.config import ResidualPromptConfig

LAYER_NORM_EPS = 1e-5
TRANSFORMER_HEADS = 2
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


class RowLinear(nn.Module):
    """A linear map of every row, shared (c = 1) or one per row (c = n), initialised as torch does."""

    def __init__(self, copies: int, in_features: int, out_features: int) -> None:
        super().__init__()
        bound = in_features**-0.5
        self.weight = nn.Parameter(torch.empty(copies, out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(copies, out_features).uniform_(-bound, bound))

    def forward(self, rows: Tensor) -> Tensor:
        """(n, in) -> (n, out)."""
        if self.weight.shape[0] == 1:
            return functional.linear(rows, self.weight[0], self.bias[0])
        return torch.baddbmm(self.bias[:, None], rows[:, None], self.weight.mT)[:, 0]


class RowNorm(nn.Module):
    """LayerNorm over d with gain and bias, shared (c = 1) or one per row (c = n)."""

    def __init__(self, copies: int, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(copies, width))
        self.bias = nn.Parameter(torch.zeros(copies, width))

    def forward(self, rows: Tensor) -> Tensor:
        """(n, d) -> (n, d)."""
        return functional.layer_norm(rows, rows.shape[-1:], eps=LAYER_NORM_EPS) * self.gain + self.bias


class Bottleneck(nn.Module):
    """phi(x) = LN(W_up a(W_down x + b_down) + b_up), the paper's network."""

    def __init__(self, config: ResidualPromptConfig) -> None:
        super().__init__()
        assert config.bottleneck
        assert config.activation
        assert config.dropout is not None
        copies = 1 if config.shared else config.num_virtual_tokens
        self.down = RowLinear(copies, config.token_dim, config.bottleneck)
        self.up = RowLinear(copies, config.bottleneck, config.token_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.norm = RowNorm(copies, config.token_dim) if config.layer_norm else nn.Identity()
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, rows: Tensor) -> Tensor:
        """(n, d) -> (n, d)."""
        return self.norm(self.dropout(self.up(self.activation(self.down(rows)))))


class DoubleBottleneck(nn.Module):
    """Two bottlenecks in a row; tied, the second has the weights of the first, as in the released code."""

    def __init__(self, config: ResidualPromptConfig) -> None:
        super().__init__()
        self.first = Bottleneck(config)
        self.second = None if config.tied else Bottleneck(config)

    def forward(self, rows: Tensor) -> Tensor:
        """(n, d) -> (n, d)."""
        return (self.second or self.first)(self.first(rows))


class RecurrentNetwork(nn.Module):
    """A bidirectional LSTM over the rows with hidden width d / 2."""

    def __init__(self, config: ResidualPromptConfig) -> None:
        super().__init__()
        width = config.token_dim
        if width % 2:
            raise ValueError(f"the LSTM needs an even embedding width, but the model has {width}")
        assert config.layers
        assert config.dropout is not None
        self.lstm = nn.LSTM(
            width, width // 2, config.layers, dropout=config.dropout, bidirectional=True, batch_first=True
        )
        self.norm = RowNorm(1, width) if config.layer_norm else nn.Identity()

    def forward(self, rows: Tensor) -> Tensor:
        """(n, d) -> (n, d)."""
        # With gradients off torch takes another kernel, whose rounding differs: a folded prompt, and one that is
        # evaluated, must be equal to the one that was trained.
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            outputs = self.lstm(rows[None])[0][0]
        return self.norm(outputs if wanted else outputs.detach())


class TransformerNetwork(nn.Module):
    """Transformer encoder layers with two heads over the rows."""

    def __init__(self, config: ResidualPromptConfig) -> None:
        super().__init__()
        width = config.token_dim
        if width % TRANSFORMER_HEADS:
            raise ValueError(f"the transformer needs an even embedding width, but the model has {width}")
        assert config.layers
        assert config.bottleneck
        assert config.activation
        assert config.dropout is not None
        # Rows first: with batch_first torch takes a fused path when gradients are off, whose rounding differs.
        layer = nn.TransformerEncoderLayer(
            width,
            TRANSFORMER_HEADS,
            config.bottleneck,
            config.dropout,
            activation=ACTIVATIONS[config.activation],
            batch_first=False,
        )
        self.encoder = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.norm = RowNorm(1, width) if config.layer_norm else nn.Identity()

    def forward(self, rows: Tensor) -> Tensor:
        """(n, d) -> (n, d)."""
        return self.norm(self.encoder(rows[:, None])[:, 0])


NETWORKS: dict[str, Callable[[ResidualPromptConfig], nn.Module]] = {
    "mlp": Bottleneck,
    "mlp2": DoubleBottleneck,
    "lstm": RecurrentNetwork,
    "transformer": TransformerNetwork,
}
