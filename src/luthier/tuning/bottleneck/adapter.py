"""The bottleneck itself: W_up act(W_down x)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class Bottleneck(nn.Module):
    """D -> hidden -> D with biases and without a residual connection.

    Args:
        width: D.
        hidden: width in between.
        activation: relu, gelu, silu or tanh.
        init: normal, near_identity or identity; see `BottleneckConfig`.
        dropout: after the activation.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        activation: str = "relu",
        init: str = "normal",
        dropout: float = 0.0,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.down = nn.Linear(width, hidden, device=device, dtype=dtype)
        self.up = nn.Linear(hidden, width, device=device, dtype=dtype)
        self.activation, self.dropout = activation, dropout
        self.reset(init)

    def reset(self, init: str) -> None:
        """Draw first weights; biases are 0."""
        for layer in (self.down, self.up):
            nn.init.zeros_(layer.bias)
            if init == "near_identity":
                nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
            else:
                nn.init.normal_(layer.weight, std=0.02)
        if init == "identity":
            nn.init.zeros_(self.up.weight)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (..., D), in the dtype of `states`."""
        hidden = _ACTIVATIONS[self.activation](self.down(states.to(self.down.weight.dtype)))
        if self.dropout:
            hidden = F.dropout(hidden, self.dropout, self.training)
        return self.up(hidden).to(states.dtype)
