"""Running a body on text that has a prompt in it: its inputs, its attention masks and its outputs.

Shapes: B examples, T tokens, t inserted positions, L = T + t, d model width, Q queries.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from luthier.models.layers.placement import Placement, last_columns
from luthier.models.layers.trunk import Trunk


def with_prompt(
    trunk: Trunk, call: dict[str, Any], embeds: Tensor, prompt: Tensor, placement: Placement, *, hidden: bool
) -> dict[str, Any]:
    """A call of the body with the prompt among its inputs.

    Args:
        trunk: the body.
        call: its arguments, with or without an attention mask (B, T).
        embeds: (B, T, d) token embeddings of the call.
        prompt: (B, t, d).
        placement: where the prompt stands.
        hidden: nothing attends to the prompt, and the text keeps the positions that it has without one.
    """
    given_mask, given_positions = call.get("attention_mask"), call.get("position_ids")
    mask = ones_mask(embeds) if given_mask is None else given_mask
    longer = {name: value for name, value in call.items() if name not in ("input_ids", "position_ids")}
    longer["inputs_embeds"] = placement.insert(embeds, prompt)
    if given_mask is not None or hidden:
        longer["attention_mask"] = placement.insert(mask, _prompt_mask(mask, placement, hidden))
    if given_mask is not None or given_positions is not None or hidden:
        positions = _positions(trunk, placement, mask, given_positions, hidden)
        if positions is not None:
            longer["position_ids"] = positions
    types = call.get("token_type_ids")
    if types is not None:
        before = types.gather(1, (placement.at - 1).clamp(min=0)[:, None])
        longer["token_type_ids"] = placement.insert(types, before.expand(-1, placement.length))
    return longer


def with_prompt_in_cache(
    trunk: Trunk, call: dict[str, Any], placement: Placement, *, hidden: bool
) -> tuple[dict[str, Any], Placement]:
    """A call that goes on from a cache which holds the prompt already, and where the prompt stands in it.

    Args:
        trunk: the body.
        call: its arguments; the mask, if any, covers the text alone.
        placement: where the prompt stands in the text that the cache began with.
        hidden: as in `with_prompt`.
    """
    mask, given_positions = call.get("attention_mask"), call.get("position_ids")
    call = dict(call)
    if given_positions is not None and not hidden:
        call["position_ids"] = given_positions + placement.length
    embeds = trunk.embed(call)
    if mask is None and hidden:
        columns = call["past_key_values"].get_seq_length() - placement.length + embeds.shape[1]
        mask = torch.ones(len(embeds), columns, dtype=torch.long, device=embeds.device)
    if mask is None:
        return call, placement
    placement = Placement(placement.at, mask.shape[1], placement.length)
    call["attention_mask"] = placement.insert(mask, _prompt_mask(mask, placement, hidden))
    if given_positions is None and (counted := trunk.positions(call["attention_mask"])) is not None:
        call["position_ids"] = counted[:, -embeds.shape[1] :]
    return call, placement


def without_prompt(output: Any, placement: Placement, *, keep_in_front: bool) -> Any:
    """The body's output with hidden states of T instead of L positions; attentions stay as they are.

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
        return (text, *(_without(value, placement) for value in output[1:]))
    if "hidden_states" in output:
        output["hidden_states"] = _without(output["hidden_states"], placement)
    output["last_hidden_state"] = text
    return output


def showing_prompt(mask: Any, placement: Placement, *, causal: bool) -> Tensor:
    """The prepared attention mask (B, 1, Q, L) of a layer with the prompt's columns made visible.

    Args:
        mask: boolean, true where a query sees a key, or numbers that are added to the scores.
        placement: where the prompt stands.
        causal: a query sees only the columns up to its own.

    Raises:
        ValueError: the mask has another form.
    """
    known = isinstance(mask, Tensor) and mask.ndim == 4 and (mask.dtype == torch.bool or mask.is_floating_point())
    if not known:
        raise ValueError(
            "first_layer above 0 needs a model whose layers take the attention mask of sdpa or eager attention"
        )
    columns = placement.is_prompt()[:, None, None, :]
    if causal:
        queries, keys = mask.shape[2], mask.shape[3]
        before = torch.ones(queries, keys, dtype=torch.bool, device=mask.device).tril(keys - queries)
        columns = columns & before[None, None]
    return mask | columns if mask.dtype == torch.bool else mask.masked_fill(columns, 0.0)


def ones_mask(embeds: Tensor) -> Tensor:
    """(B, T, d) embeddings without padding -> their attention mask (B, T)."""
    return torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)


def _prompt_mask(mask: Tensor, placement: Placement, hidden: bool) -> Tensor:
    return mask.new_full((len(mask), placement.length), 0 if hidden else 1)


def _positions(trunk: Trunk, placement: Placement, mask: Tensor, given: Tensor | None, hidden: bool) -> Tensor | None:
    """(B, L) position ids: text behind a prompt that can be seen moves by its length."""
    text = given.expand(len(mask), -1) if given is not None else trunk.positions(mask)
    if text is None:
        return None
    before = text.gather(1, (placement.at - 1).clamp(min=0)[:, None])
    if hidden:
        return placement.insert(text, before.expand(-1, placement.length))
    behind = text.gather(1, placement.at.clamp(max=text.shape[1] - 1)[:, None])
    start = torch.where((placement.at < last_columns(mask) + 1)[:, None], behind, before + 1)
    column = torch.arange(text.shape[1], device=text.device)[None]
    real = mask.bool() if given is None else torch.ones_like(mask, dtype=torch.bool)
    shifted = text + placement.length * ((column >= placement.at[:, None]) & real)
    return placement.insert(shifted, start + torch.arange(placement.length, device=text.device))


def _without(value: Any, placement: Placement) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_without(states, placement) for states in value)
    if isinstance(value, Tensor) and value.ndim == 3 and value.shape[1] == placement.width + placement.length:
        return placement.remove(value)
    return value
