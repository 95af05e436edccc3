"""What a language model writes after prompts, the likeliest token each time, several prompts at once.

Shapes: N prompts, B of them in a batch, T tokens of the longest prompt there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from luthier.data.batches.collating import with_pad_token
from luthier.data.batches.encoders import turn_end
from luthier.models.greedy import GREEDY
from luthier.models.inspect import ends_of
from luthier.storage.helping import each
from luthier.tasks.running.predicting import named_task

# What a cache holds: 64 rows of 256 tokens. In a 7-billion model of 32 layers without shared heads that is 8 GB.
_CACHED = 1 << 14
# Recurrent models read padding like text.
_READ_PADDING = frozenset({"rwkv", "recurrent_gemma", "xlstm"})
# transformers mixes the states of rows of these, from the second token on.
_ONE_BY_ONE = frozenset({"rwkv"})


def written_after(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    most: Sequence[int],
    *,
    limit: int | None = None,
    batch_size: int = 64,
    on_prompt: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """The tokens that a model writes after every prompt, up to the first that ends a text. Equal prompts are answered
    once.

    Args:
        model: with a language-model head; a decoder goes on behind a prompt, an encoder-decoder reads it.
        tokenizer: the model's.
        prompts: token ids of the N prompts.
        most: tokens that each may be followed by.
        limit: positions that prompt and what follows have in a decoder; None where nothing limits them. A prompt that
            leaves no room for its `most` is not kept from them.
        batch_size: prompts in one forward pass, at most; long ones are fewer, so that the cache fits.
        on_prompt: called with the number of prompts done so far.
    """
    goes_on = named_task("prompt_response").predicts_next_token(model.config)
    asked = [(tuple(ids), allowed) for ids, allowed in zip(prompts, most, strict=True)]
    order = sorted(dict.fromkeys(asked), key=lambda one: (-len(one[0]), one[1]))
    pad = with_pad_token(tokenizer).pad_token_id
    write = partial(_written, pad=pad, goes_on=goes_on, ends=end_tokens(model, tokenizer))
    batch_size = rows_at_once(model, batch_size)
    batches = [*_batches(order, batch_size, limit if goes_on else None, alike=reads_padding(model))]
    found: dict[Any, list[int]] = {}
    was_training = model.training
    model.eval()
    try:
        for batch, texts in zip(batches, each(write, model, batches), strict=True):
            found |= zip(batch, texts, strict=True)
            if on_prompt:
                on_prompt(len(prompts) * len(found) // len(order))
    finally:
        model.train(was_training)
    return [found[one] for one in asked]


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a text: by the model's settings of generation, by the tokenizer, whose end token is learned
    behind a response, and by its chat template, which may end a turn with another one."""
    learned = {tokenizer.eos_token_id, turn_end(tokenizer)} - {None}
    return ends_of(model) | frozenset(map(int, learned))


_Asked = tuple[tuple[int, ...], int]


def _batches(order: Sequence[_Asked], size: int, limit: int | None, *, alike: bool) -> Iterator[list[_Asked]]:
    """Prompts that are written after together, in their order, the longest first.

    A short prompt may be followed by more than the longest of its batch has room for, so that the two are parted.
    """
    batch: list[_Asked] = []
    for ids, most in order:
        if batch:
            longest = len(batch[0][0])
            width = longest + max(most, *(other for _, other in batch))
            full = len(batch) == size or (len(batch) + 1) * width > _CACHED
            if full or (limit is not None and width > limit) or (alike and len(ids) != longest):
                yield batch
                batch = []
        batch.append((ids, most))
    if batch:
        yield batch


def _written(model: Any, batch: Sequence[_Asked], *, pad: int, goes_on: bool, ends: frozenset[int]) -> list[list[int]]:
    width = max(len(ids) for ids, _ in batch)
    ids_BT = torch.full((len(batch), width), pad)
    mask_BT = torch.zeros_like(ids_BT)
    for i, (ids, _) in enumerate(batch):
        # A decoder goes on at the end of its row, so that padding stands before the prompt.
        place = slice(width - len(ids), width) if goes_on else slice(0, len(ids))
        ids_BT[i, place] = torch.tensor(ids)
        mask_BT[i, place] = 1
    device = next(model.parameters()).device
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids_BT.to(device),
            attention_mask=mask_BT.to(device),
            max_new_tokens=max(most for _, most in batch),
            pad_token_id=pad,
            **({"eos_token_id": sorted(ends)} if ends else {}),
            **GREEDY,
        )
    # What an encoder-decoder writes begins with the token that starts its decoder.
    tokens = out[:, width if goes_on else 1 :].tolist()
    return [_to_end(row[:most], ends) for row, (_, most) in zip(tokens, batch, strict=True)]


def _to_end(tokens: list[int], ends: frozenset[int]) -> list[int]:
    return tokens[: next((place for place, token in enumerate(tokens) if token in ends), len(tokens))]


def rows_at_once(model: Any, batch_size: int) -> int:
    """How many prompts a model can go on from in one pass."""
    return 1 if getattr(model.config, "model_type", "") in _ONE_BY_ONE else batch_size


def reads_padding(model: Any) -> bool:
    """Whether padding before a prompt changes what is written: recurrent layers read it, and a prefix lies further away
    behind it, out of a window's reach."""
    kinds = {getattr(one.peft_type, "value", one.peft_type) for one in getattr(model, "peft_config", {}).values()}
    prefixed = bool({str(kind).upper() for kind in kinds} & {"PREFIX_TUNING", "CARTRIDGE", "UNIPELT"})
    return prefixed or str(getattr(model.config, "model_type", "")) in _READ_PADDING


__all__ = ["end_tokens", "reads_padding", "rows_at_once", "written_after"]
