"""A model whose weights, gradients and optimiser states are split over the processes of a run, by torch's FSDP2.

Each process holds a part of every parameter, of the gradient and of what the optimiser knows of it. The weights of a
layer are whole in all processes only while it runs; those outside layers, such as the embeddings, from the forward pass
to the end of the backward pass, so that a loss behind the model may read them (Zhao et al., “PyTorch FSDP: Experiences
on Scaling Fully Sharded Data Parallel”, VLDB 2023; Rajbhandari et al., “ZeRO”, SC 2020, stage 3).
"""

from __future__ import annotations

import copy
import ctypes
from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from luthier.errors import ModelError
from luthier.models.layers.blocks import find_blocks
from luthier.storage.ranks import is_main

# Of glibc's malloc.h, and a size in bytes.
_MMAP_THRESHOLD, _LARGE = -3, 1 << 20


def is_split(model: nn.Module) -> bool:
    """Whether the processes of the run have this model's weights together."""
    return isinstance(model, FSDPModule)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that is split, which all processes have to ask for together; another one as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What this process has of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def layers_of(model: nn.Module) -> list[str]:
    """Names of the layers that are put together one at a time.

    Raises:
        ModelError: none is found, so that the whole model would have to be there at once.
    """
    try:
        return [block.name for block in find_blocks(model)]
    except ValueError as error:
        raise ModelError(
            f"the weights can't be split layer by layer: {error}",
            fix="leave `split_weights` out, or take another architecture, such as bert, roberta, gpt2 or llama",
        ) from None


def whole_at_once(model: nn.Module) -> int:
    """How many parameters of a split model are whole at a time: those outside its layers, and those of two layers,
    since the next one is fetched while the gradient of one is shared out.

    Raises:
        ModelError: as `layers_of`.
    """
    sizes = [sum(p.numel() for p in model.get_submodule(name).parameters()) for name in layers_of(model)]
    return sum(p.numel() for p in model.parameters()) - sum(sizes) + 2 * max(sizes)


def split_over_processes(
    model: nn.Module, layers: list[str], groups: list[dict[str, Any]], device: torch.device
) -> nn.Module:
    """A copy of a model whose weights are split over all processes. The model itself keeps its form and loses its
    weights, until `put_together`. All processes have to come here together, with the same weights.

    Args:
        model: whole, on the CPU.
        layers: names of the parts that are put together one at a time.
        groups: of the optimiser; the parameters of the copy take the place of the model's.
        device: of the copy.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    wanted = [[names[id(p)] for p in group["params"]] for group in groups]
    split: Any = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    _put_parameters(model, empty)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in map(split.get_submodule, layers):
        fully_shard(layer, mesh=mesh)
    fully_shard(split, mesh=mesh, reshard_after_forward=False)
    found = dict(split.named_parameters())
    for group, own in zip(groups, wanted, strict=True):
        group["params"] = [found[name] for name in own]
    return split


def give_freed_memory_back() -> None:
    """Let glibc return pieces of a megabyte or more to the system as soon as they are freed. On a CPU it else keeps the
    weights of every layer that was whole for a while: torch asks for aligned pieces, and those that were freed rarely
    fit the next one. Where the C library is another one, nothing changes."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)


def put_together(split: nn.Module, model: nn.Module) -> None:
    """Give the main process's whole model, on the CPU, the weights of the split one that was made of it. All processes
    have to come here together; in the others the model stays without weights."""
    state = _on_main(split, trained=False)
    if is_main():
        named = model.named_parameters()
        _put_parameters(model, {id(p): nn.Parameter(state[name], p.requires_grad) for name, p in named})


def trained_on_main(split: nn.Module) -> dict[str, Tensor]:
    """Every parameter that requires a gradient, whole and by its name, on the CPU of the main process; nothing in the
    others. All processes have to come here together."""
    return _on_main(split, trained=True)


def put(parameter: Tensor, value: Tensor) -> None:
    """Write whole numbers, which all processes have, into a parameter or into this process's part of it."""
    if isinstance(parameter, DTensor):
        value = value.to(parameter.device)
        value = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    with torch.no_grad():
        parameter.copy_(value)


def part_of(parameter: Tensor, value: Tensor) -> Tensor:
    """What the optimiser knows of a parameter, from what this process has of it: a tensor of the parameter's shape is
    split as that is, and a number of steps is not."""
    if not isinstance(parameter, DTensor) or value.ndim == 0:
        return value
    return DTensor.from_local(
        value.to(parameter.device),
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def _on_main(split: nn.Module, *, trained: bool) -> dict[str, Tensor]:
    """One parameter after another, so that no more than one is whole in the other processes."""
    state = {}
    for name, parameter in split.named_parameters():
        if parameter.requires_grad or not trained:
            value = whole(parameter.detach())
            if is_main():
                state[name] = value.cpu().contiguous()
    return state


def _put_parameters(model: nn.Module, new: dict[int, nn.Parameter]) -> None:
    """Put other parameters in the places of a model's, tied ones in all of theirs.

    Args:
        new: `id` of the parameter that is there -> that which takes its place.
    """
    places = [(m, name, p) for m in model.modules() for name, p in m.named_parameters(recurse=False)]
    for module, name, parameter in places:
        setattr(module, name, new[id(parameter)])
