"""The body's output at the caller's own tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from luthier.models.layers.placement import Placement


def without_prompt(output: Any, placement: Placement, *, keep_in_front: bool) -> Any:
    """The output with hidden states of T instead of L positions; attentions stay as they are.

    Args:
        output: of the body, a `ModelOutput` or a tuple that starts with the last hidden state.
        placement: where the prompt stands.
        keep_in_front: leave the prompt's last states, moved in front of the text, for a decoder to attend to.
    """
    last = output[0]
    text = placement.remove(last)
    if keep_in_front:
        text = torch.cat([placement.prompt_of(last), text], 1)
    if not isinstance(output, ModelOutput):
        return (text, *(_stripped(value, placement) for value in output[1:]))
    changed = {name: _stripped(output[name], placement) for name in output if name == "hidden_states"}
    for name, value in {**changed, "last_hidden_state": text}.items():
        output[name] = value
    return output


def _stripped(value: Any, placement: Placement) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_stripped(one, placement) for one in value)
    length = placement.width + placement.length
    if isinstance(value, Tensor) and value.ndim == 3 and value.shape[1] == length:
        return placement.remove(value)
    return value
