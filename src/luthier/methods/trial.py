"""A first pass through a model that a method was put on: what can't run is known before anything is computed.

Whether a model takes a prompt, or keys and values from outside, can't be read off its architecture: some take what
they have no use for and fail in the middle of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from luthier.models.inspect import is_of_choices

# Task types whose models take token ids alone.
_ON_IDS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "CAUSAL_LM", "SEQ_2_SEQ_LM")
FAILURES = (ValueError, KeyError, IndexError, TypeError, AttributeError, NotImplementedError, RuntimeError)


def first_failure(model: Any, task_type: str | None) -> Exception | None:
    """What a pass over one text of three tokens ends with; None where it runs, or can't be tried.

    It can't where the model needs more than token ids, or has no weights yet and asks for values of them. Modes,
    gradients and the state of random numbers stay as they are.

    Args:
        model: a transformers model, or a PEFT model around one.
        task_type: PEFT's.

    Raises:
        torch.OutOfMemoryError: there is no memory for three tokens.
    """
    devices = {one.device.type for one in model.parameters()}
    if task_type not in _ON_IDS or len(devices) > 1:
        return None
    ids = torch.arange(3, device=next(model.parameters()).device)[None] % model.config.get_text_config().vocab_size
    if is_of_choices(model):
        ids = ids[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if getattr(model.config, "is_encoder_decoder", False) and task_type == "SEQ_2_SEQ_LM":
        inputs["decoder_input_ids"] = ids
    try:
        with torch.random.fork_rng(devices=[]), _evaluating(model), torch.no_grad():
            model(**inputs)
    except torch.OutOfMemoryError:
        raise
    except FAILURES as error:
        return None if "meta" in devices and "meta" in str(error) else error
    return None


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
