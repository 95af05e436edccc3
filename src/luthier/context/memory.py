"""How much memory training at a length takes, from a model's sizes alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from luthier.training.estimates import gathered_numbers

# Numbers that a decoder's layer keeps for its backward pass: of the hidden width those of two norms and the residual
# stream, of queries and of keys and values, and four of the feed-forward part.
_PER_HIDDEN, _PER_QUERY, _PER_KEY, _PER_INNER, _CHUNK = 6, 3, 2, 4, 1 << 22
# What the allocator holds for each number that is kept; and the layers that a backward pass takes for a moment, more
# of them where it computes activations again. `benchmarks/context_memory.py` holds them against processes.
_HELD, _BACKWARD, _AGAIN = 1.3, 0.7, 4.0
# Copies of the gathered keys and values of a layer that are there for a moment: as they come from the processes, in the
# order of the row, and their gradients, of each piece, of the row and by process.
_MOVING = 8
# The process before it has a model, on a machine without an accelerator.
LIBRARIES = 535_000_000


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
    config: Any,
    total: int,
    tokens: int,
    length: int,
    *,
    checkpointing: bool = False,
    masked: bool = False,
    states: int | None = None,
    sharing: int = 1,
) -> MemoryEstimate:
    """The peak of a training step in float32.

    Args:
        config: of the model, as transformers has it.
        total: its parameters.
        tokens: of the rows of one forward pass.
        length: of a row.
        checkpointing: whether activations are computed again in the backward pass.
        masked: whether documents in a row are told apart, by a mask of the row's square.
        states: bytes of weights, gradients and moments in a process that does not hold all of them.
        sharing: processes that share these rows, each with its slice, and with the keys and values of all.
    """
    hidden, layers = int(config.hidden_size), int(config.num_hidden_layers)
    heads = int(config.num_attention_heads)
    head = int(getattr(config, "head_dim", None) or hidden // heads)
    keys = int(getattr(config, "num_key_value_heads", None) or heads) * head
    inner = int(getattr(config, "intermediate_size", 4 * hidden))
    layer = _PER_HIDDEN * hidden + _PER_QUERY * heads * head + _PER_KEY * keys + _PER_INNER * inner
    kept = layers * hidden * _HELD + _AGAIN * layer if checkpointing else (layers * _HELD + _BACKWARD) * layer
    squares = 1 if checkpointing else layers  # each layer keeps the mask as numbers that are added
    square = length * tokens * squares if masked else 0
    gathered, per_parameter = 0.0, 16
    if sharing > 1:
        gathered = gathered_numbers(config, tokens) * (_MOVING + (1 if checkpointing else layers * _HELD))
        per_parameter += 4  # gradients once more, as they are added up over processes
        tokens //= sharing
    chunk = max(_CHUNK, tokens * min(1024, hidden))
    return MemoryEstimate(
        states=per_parameter * total if states is None else states,
        activations=int(4 * (tokens * kept + gathered)) + 4 * square,
        loss=4 * (3 * chunk + 4 * tokens * hidden),
        libraries=LIBRARIES,
    )
