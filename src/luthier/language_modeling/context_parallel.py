"""Training with rows that several processes share (context parallelism): each takes a slice of every row.

torch's own `context_parallel`, which accelerate calls, cuts up SDPA's kernels for accelerators and has none for a CPU,
and it knows no documents; so keys and values are gathered here (`luthier.language_modeling.sliced_attention`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from luthier.errors import LuthierError, ModelError
from luthier.language_modeling.row_slices import Batch, RowSlices
from luthier.language_modeling.rows import logits_agree
from luthier.language_modeling.sliced_attention import SlicedAttention, refuse_window
from luthier.storage.ranks import agree, rank, world_size

NAME = "luthier_slices"
# Kinds of layers that look back over a window, and the field of the configuration that has its tokens.
_WINDOWS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
_PIECE = 4  # tokens of a piece of the row that is looked at before training
_FIX = "set `context_parallel_size: 1`, or take another architecture, such as llama"


def row_groups(size: int) -> int:
    """How many groups of processes there are, of which each has rows of its own.

    Args:
        size: processes of a group.
    """
    return max(1, world_size() // size)


def own_group(size: int) -> int:
    """The number of this process's group."""
    return rank() // size


def own_slices(size: int) -> RowSlices:
    """The share of this process in the rows of its group."""
    return RowSlices(size, rank() % size)


def refuse_to_share_rows(model: Any, size: int, length: int) -> None:
    """Say what can be told of a model without running it.

    Args:
        model: that is to be trained; it may be on the meta device.
        size: processes that share a row; 1 asks nothing of it.
        length: tokens of the longest rows.

    Raises:
        ModelError: its attention is not SDPA, or some layers don't attend to the whole row.
    """
    config = model.config
    if size == 1:
        return
    if config._attn_implementation != "sdpa":
        raise ModelError(
            f"processes that share a row attend by SDPA, and the attention of {type(model).__name__} is "
            f"{config._attn_implementation}",
            fix="leave the model's `attention` out, or set `context_parallel_size: 1`",
        )
    kinds = set(getattr(config, "layer_types", None) or ("full_attention", "sliding_attention"))
    if others := sorted(kinds.difference(_WINDOWS, ["full_attention"])):
        raise ModelError(f"{type(model).__name__} has layers of {others[0]}, which need the whole row", fix=_FIX)
    for kind, window in _WINDOWS.items():
        if kind in kinds:
            refuse_window(getattr(config, window, None), length)


@contextmanager
def sharing_rows(model: Any, size: int, length: int) -> Iterator[None]:
    """Inside the block a model takes batches of `RowSlices.of_batch`, and whole rows as before. All processes of the
    run have to come here together.

    Args:
        model: with a causal language-model head.
        size: processes that share a row; 1 changes nothing.
        length: tokens of the longest rows.

    Raises:
        ModelError: slices of a short row don't get the logits of the whole.
    """
    if size == 1:
        yield
        return
    before = model.config._attn_implementation
    slices = own_slices(size)
    attention = SlicedAttention(slices, _processes(size), ALL_ATTENTION_FUNCTIONS[before], length)
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS[before])
    model.set_attn_implementation(NAME)
    try:
        agree(_what_is_wrong(model, slices))
        yield
    finally:
        model.set_attn_implementation(before)


@cache
def _processes(size: int) -> Any:
    """The group of this process; all processes of the run ask for it together."""
    return dist.new_subgroups(group_size=size)[0]


def _what_is_wrong(model: Any, slices: RowSlices) -> LuthierError | None:
    """Look at two documents in a row, of which the first ends inside of a piece."""
    was_training = model.training
    model.eval()
    batch = two_documents(len(model.get_input_embeddings().weight), 2 * slices.processes * _PIECE)
    batch = {name: values.to(next(model.parameters()).device) for name, values in batch.items()}
    second = int(batch["position_ids"][0].eq(0).nonzero()[1])
    try:
        with torch.no_grad():
            alone = [_logits(model, {"input_ids": part}) for part in batch["input_ids"].tensor_split([second], dim=1)]
            found = _logits(model, {k: v for k, v in slices.of_batch(batch).items() if k != "labels"})
    except LuthierError as error:
        return error
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return ModelError(f"{type(model).__name__} can't take a row in slices: {reason}", fix=_FIX)
    finally:
        model.train(was_training)
    expected = slices.of(torch.cat(alone, dim=1).mT).mT
    if logits_agree(found, expected, next(model.parameters()).dtype):
        return None
    return ModelError(
        f"{type(model).__name__} gives other logits for slices of a row than for the whole, so processes can't share "
        "rows: its layers mix positions in another way than by plain attention",
        fix=_FIX,
    )


def two_documents(vocabulary: int, length: int) -> Batch:
    """A row of two documents, the first of them half of it and a token, with their positions and labels, (1, L)."""
    ids = (torch.arange(length) * 7 % max(2, vocabulary - 1) + 1)[None]
    first = length // 2 + 1
    positions = torch.cat([torch.arange(first), torch.arange(length - first)])[None]
    return {"input_ids": ids, "position_ids": positions, "labels": ids}


def _logits(model: Any, inputs: Batch) -> Tensor:
    logits: Tensor = model(**inputs, use_cache=False).logits
    return logits.float()
