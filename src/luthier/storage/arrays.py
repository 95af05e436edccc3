"""What caches of a frozen model's outputs have in common: identity of weights, number formats."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

STORED = {"float32": np.float32, "bfloat16": np.uint16}
# What a configuration says about names, tools and labels changes no hidden state.
_OUTSIDE = ("_name_or_path", "transformers_version", "id2label", "label2id", "problem_type", "architectures")


def weights_fingerprint(module: nn.Module, counts: Callable[[str], bool] = lambda _name: True) -> str:
    """SHA-256, in hex, over a model's configuration and the weights and buffers whose names count."""
    digest = hashlib.sha256()
    config: Any = getattr(module, "config", None)
    about = {k: v for k, v in config.to_dict().items() if k not in _OUTSIDE} if config is not None else {}
    digest.update(json.dumps(about, sort_keys=True, default=str).encode())
    for name, tensor in module.state_dict().items():
        if counts(name):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def identity(parts: Iterable[str]) -> str:
    """A folder name that stands for all parts."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def check_dtype(dtype: str) -> None:
    """Raise ValueError for a number format that is not stored."""
    if dtype not in STORED:
        raise ValueError(f"dtype is {dtype!r}, but must be one of {', '.join(STORED)}")


def packed(values: Tensor, dtype: str) -> np.ndarray:
    """A tensor as the array that is stored."""
    values = values.detach().cpu()
    if dtype == "bfloat16":
        return values.to(torch.bfloat16).view(torch.uint16).numpy()
    return values.float().numpy()


def unpacked(array: np.ndarray, dtype: str) -> Tensor:
    """A stored array as a float32 tensor of its own."""
    values = torch.from_numpy(np.array(array))
    return values.view(torch.bfloat16).float() if dtype == "bfloat16" else values


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode, and every part of it back in its own mode afterwards."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
