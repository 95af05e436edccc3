"""How much memory training at a length takes, from a model's sizes alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Numbers of the hidden width that a decoder's layer keeps for its backward pass, beside those of its feed-forward
# part and its attention: inputs of norms and of projections, the residual stream.
_PER_HIDDEN, _PER_KEY, _PER_INNER, _CHUNK = 7, 2, 4, 1 << 22


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the peak of a training step.

    Attributes:
        states: weights, gradients, and the two moments of AdamW, in float32.
        activations: what layers keep for the backward pass, or of one layer under checkpointing, with all inputs.
        loss: hidden vectors and logits of a chunk.
        libraries: the process before it has a model.
    """

    states: int
    activations: int
    loss: int
    libraries: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.states + self.activations + self.loss + self.libraries


def training_memory(
    config: Any, total: int, tokens: int, length: int, *, checkpointing: bool = False, masked: bool = False
) -> MemoryEstimate:
    """The peak of a training step in float32.

    Args:
        config: of the model, as transformers has it.
        total: its parameters.
        tokens: of one forward pass.
        length: of a row.
        checkpointing: whether activations are computed again in the backward pass.
        masked: whether documents in a row are told apart, by a mask of the row's square.
    """
    hidden, layers = int(config.hidden_size), int(config.num_hidden_layers)
    heads = int(config.num_attention_heads)
    head = int(getattr(config, "head_dim", None) or hidden // heads)
    keys = int(getattr(config, "num_key_value_heads", None) or heads) * head
    inner = int(getattr(config, "intermediate_size", 4 * hidden))
    layer = _PER_HIDDEN * hidden + _PER_KEY * (heads * head + keys) + _PER_INNER * inner + heads
    kept = layers * hidden + layer if checkpointing else layers * layer
    square = length * tokens if masked else 0  # one boolean, and the additive copy of a pass
    chunk = max(_CHUNK, tokens * min(1024, hidden))
    return MemoryEstimate(
        states=16 * total,
        activations=4 * tokens * kept + 5 * square,
        loss=4 * (3 * chunk + 4 * tokens * hidden),
        libraries=LIBRARIES,
    )


LIBRARIES = 620_000_000
