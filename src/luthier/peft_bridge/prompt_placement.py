"""Prompts and padding: a prompt stands directly before the text, however much padding the batch needs.

PEFT puts the prompt before the whole padded row and counts positions over the padding, so that in a decoder the
distance between prompt and text, and with it every logit, depends on the other rows of the batch. A decoder that
classifies reads the last position, which PEFT's input embeddings no longer let it find.

Shapes: B examples, T positions of the input, P positions of prompt and cache before it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft.utils import PeftType
from torch import Tensor, nn


def keep_prompt_beside_text(model: nn.Module, task_type: str | None, length: int = 0) -> None:
    """Make a decoder's logits independent of padding under prompt, P- and prefix tuning; encoders need nothing.

    Args:
        model: the base model.
        task_type: PEFT's; CAUSAL_LM takes positions from the attention mask and moves padding before the prompt,
            SEQ_CLS on a decoder that pools the last position moves all padding to the left.
        length: P, rows of a prompt among the input embeddings; 0 for prefixes.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        return
    if task_type == "CAUSAL_LM" and length:
        hook: Callable[..., Any] = _PaddingFirst(length)
    elif task_type == "CAUSAL_LM" and _takes_positions(model):
        hook = _count_positions
    elif task_type == "SEQ_CLS" and _reads_last(model.config):
        hook = _pad_left
    else:
        return
    if hook not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(hook, with_kwargs=True)


def _reads_last(config: Any) -> bool:
    """Whether a classifier reads the last token of a text: a decoder, whatever its head is called."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING


def rows_before_text(config: Any) -> int:
    """How many rows of input embeddings a PEFT prompt takes; prefixes, which are keys and values, take none."""
    return 0 if config.peft_type in (PeftType.PREFIX_TUNING, PeftType.CARTRIDGE) else int(config.num_virtual_tokens)


def moved_after_first(kwargs: dict[str, Any], length: int) -> dict[str, Any]:
    """The arguments of a model with the prompt in front of each row moved behind the row's first token.

    Args:
        kwargs: `inputs_embeds` (B, P + T, d) and, where given, `attention_mask` and `token_type_ids` (B, P + T).
        length: P.
    """
    embeds, mask = kwargs["inputs_embeds"], kwargs.get("attention_mask")
    rows, width = embeds.shape[:2]
    first = torch.zeros(rows, 1, dtype=torch.long, device=embeds.device)
    if mask is not None:
        first = mask[:, length:].int().argmax(1, keepdim=True)
    column = torch.arange(width, device=embeds.device)[None]
    source = torch.where(column <= first + length, column - first - 1, column)
    source = torch.where(column <= first, column + length, source)
    moved = {"inputs_embeds": embeds.gather(1, source[..., None].expand_as(embeds))}
    for name in ("attention_mask", "token_type_ids"):
        if kwargs.get(name) is not None:
            moved[name] = kwargs[name].gather(1, source)
    return {**kwargs, **moved}


def _takes_positions(model: nn.Module) -> bool:
    return "position_ids" in inspect.signature(model.forward).parameters


def positions_from_mask(mask: Tensor) -> Tensor:
    """(B, P + T) attention mask -> (B, P + T) position of every token among those that are attended to."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def _inputs_of(kwargs: dict[str, Any]) -> Tensor | None:
    embeds = kwargs.get("inputs_embeds")
    return embeds if embeds is not None else kwargs.get("input_ids")


def _count_positions(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mask, inputs = kwargs.get("attention_mask"), _inputs_of(kwargs)
    if mask is None or mask.ndim != 2 or inputs is None or kwargs.get("position_ids") is not None:
        return args, kwargs
    if not _takes_positions(model):
        return args, kwargs
    positions = positions_from_mask(mask)[:, -inputs.shape[1] :]
    return args, {**kwargs, "position_ids": positions}


@dataclass(frozen=True)
class _PaddingFirst:
    """Moves the padding between a prompt and its text before the prompt.

    Layers that see a window of the text would lose the prompt behind it, and those whose distances count padding see
    it further away. Text stays in its columns, so that labels and logits fit as before.

    Attributes:
        length: P.
    """

    length: int

    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        mask, inputs = kwargs.get("attention_mask"), _inputs_of(kwargs)
        if mask is None or mask.ndim != 2 or inputs is None or mask.shape[1] <= self.length:
            return _count_positions(model, args, kwargs)
        order = self._order(mask)
        moved = {"attention_mask": mask.gather(1, order)}
        if inputs.shape[1] == mask.shape[1] and kwargs.get("inputs_embeds") is not None:
            moved["inputs_embeds"] = inputs.gather(1, order[..., None].expand_as(inputs))
            for name in ("position_ids", "token_type_ids"):
                if kwargs.get(name) is not None:
                    moved[name] = kwargs[name].expand_as(order).gather(1, order)
        return _count_positions(model, args, {**kwargs, **moved})

    def _order(self, mask: Tensor) -> Tensor:
        """(B, P + T) the column that each column is filled from."""
        length = self.length
        padded = mask[:, length:].int().argmax(1, keepdim=True) * mask[:, :length].all(1, keepdim=True)
        column = torch.arange(mask.shape[1], device=mask.device)[None]
        order = torch.where(column < padded + length, column - padded, column)
        return torch.where(column < padded, column + length, order)


def _pad_left(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mask, embeds = kwargs.get("attention_mask"), kwargs.get("inputs_embeds")
    if mask is None or mask.ndim != 2 or embeds is None or embeds.shape[1] != mask.shape[1]:
        return _count_positions(model, args, kwargs)
    order = torch.argsort(mask, dim=1, stable=True)
    moved = embeds.gather(1, order[..., None].expand_as(embeds))
    return _count_positions(model, args, {**kwargs, "inputs_embeds": moved, "attention_mask": mask.gather(1, order)})
