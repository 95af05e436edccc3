"""Running a model up to a module, and running what comes behind it with that module's output given.

Shapes: B rows of a batch, T tokens, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions
from transformers.utils import ModelOutput

from luthier.storage.arrays import evaluating

TARGETS = ("labels", "start_positions", "end_positions", "row")


@contextmanager
def replayed(model: Any, split_point: str, values: dict[str, Tensor], mask: Tensor) -> Iterator[None]:
    """Let the split point give the stored values of a batch with this mask (B, T), and the layers before it nothing."""
    output = _replay(values, mask)
    with ExitStack() as changed:
        for earlier in _earlier_layers(model, split_point):
            changed.enter_context(replaced_forward(earlier, lambda hidden, *_args, **_kwargs: hidden))
        changed.enter_context(replaced_forward(model.get_submodule(split_point), lambda *_args, **_kwargs: output))
        yield


def _replay(values: dict[str, Tensor], mask: Tensor) -> Any:
    """The split point's output with what is stored of it; the rest of the model reads nothing else."""
    if "" in values:
        return values[""]
    if "last_hidden_state" in values:
        return BaseModelOutputWithPoolingAndCrossAttentions(**values)
    # Models find the pooled output by its place behind the hidden states.
    nothing = next(iter(values.values())).new_zeros(1, 1, 1).expand(*mask.shape, 1)
    return BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=nothing, **values)


@contextmanager
def replaced_forward(module: nn.Module, replacement: Callable[..., Any]) -> Iterator[None]:
    """Another forward function for one module, its hooks as they are."""
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = replacement
    try:
        yield
    finally:
        module.__dict__.pop("forward", None)
        if before is not None:
            module.__dict__["forward"] = before


def finished_before(model: Any, split_point: str, batch: dict[str, Tensor]) -> list[nn.Module]:
    """The modules that have run to their end when the split point has, itself among them."""
    done: list[nn.Module] = []
    handles = [m.register_forward_hook(lambda module, _args, _output: done.append(module)) for m in model.modules()]
    try:
        with torch.no_grad():
            output_of(model, split_point, batch)
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(done))


def _earlier_layers(model: Any, split_point: str) -> list[nn.Module]:
    parent, _, last = split_point.rpartition(".")
    siblings = model.get_submodule(parent) if parent else None
    return list(siblings)[: int(last)] if isinstance(siblings, nn.ModuleList) else []


def output_of(model: Any, split_point: str, batch: dict[str, Tensor]) -> Any:
    """What the split point gives for a batch, in evaluation mode; nothing behind it is run.

    Raises:
        ValueError: the model does not run it.
    """
    caught: list[Any] = []

    def stop(_module: nn.Module, _args: Any, output: Any) -> None:
        caught.append(output)
        raise _Reached

    handle = model.get_submodule(split_point).register_forward_hook(stop)
    try:
        with evaluating(model):
            model(**{k: v for k, v in batch.items() if k not in TARGETS})
    except _Reached:
        return caught[0]
    finally:
        handle.remove()
    raise ValueError(f"the model does not run {split_point!r}")


class _Reached(Exception):  # noqa: N818 - ends a forward pass early, which is no error
    pass


def names_of(output: Any) -> list[str]:
    """The tensors of a split point's output; the only one of a plain tensor has an empty name."""
    if isinstance(output, Tensor):
        return [""]
    if isinstance(output, ModelOutput):
        return [name for name in ("last_hidden_state", "pooler_output") if output.get(name) is not None]
    raise ValueError(f"a split point gives a tensor or a model's output, not a {type(output).__name__}")


def tensor_of(output: Any, name: str) -> Tensor:
    """One of them."""
    value: Tensor = output if name == "" else output[name]
    return value


def with_tensors(output: Any, values: dict[str, Tensor]) -> Any:
    """The output with these tensors in their places."""
    if "" in values:
        return values[""]
    for name, value in values.items():
        output[name] = value
    return output
