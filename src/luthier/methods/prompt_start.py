"""What a prompt starts from: rows of the vocabulary, noise, a text, or a given tensor.

Shapes: n prompt rows, d embedding width. All rows are float32 and on the CPU, or on `meta` where the model has no
weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from luthier.errors import ModelError

UNIFORM_BOUND = 0.5


def vocabulary_rows(embeddings: nn.Embedding, length: int, generator: torch.Generator | None = None) -> Tensor:
    """Embeddings of n tokens drawn with replacement from the whole vocabulary: (n, d)."""
    ids = torch.randint(embeddings.num_embeddings, (length,), generator=generator, device="cpu")
    return token_rows(embeddings, ids.tolist(), length)


def uniform_rows(width: int, length: int, generator: torch.Generator | None = None) -> Tensor:
    """Noise from uniform(-0.5, 0.5): (n, d)."""
    rows = torch.empty(length, width, device="cpu")
    return rows.uniform_(-UNIFORM_BOUND, UNIFORM_BOUND, generator=generator)


def token_rows(embeddings: nn.Embedding, ids: Sequence[int], length: int) -> Tensor:
    """Embeddings of `ids`, cut or repeated to n rows: (n, d).

    Raises:
        ModelError: `ids` is empty, or holds an id outside the vocabulary.
    """
    outside = [i for i in ids if not 0 <= i < embeddings.num_embeddings]
    if outside or not ids:
        raise ModelError(
            f"token {outside[0]} is outside the model's vocabulary" if outside else "the text has no tokens",
            fix="start the prompt from a text that the model's own tokenizer turns into at least one token",
        )
    filled = torch.tensor([ids[i % len(ids)] for i in range(length)], device=embeddings.weight.device)
    with torch.no_grad():
        rows = embeddings(filled).float()
    return rows if rows.is_meta else rows.cpu().clone()


def file_rows(path: str | Path, length: int, width: int) -> Tensor:
    """The single tensor of a safetensors file: (n, d).

    Raises:
        ModelError: the file can't be read, holds several tensors, or one of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"the first prompt can't be read: {error}", where=str(path), fix="give a whole safetensors file"
        ) from error
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if list(shapes.values()) != [(length, width)]:
        raise ModelError(
            f"the first prompt must be one tensor of shape ({length}, {width}), but the file holds {shapes}",
            where=str(path),
            fix="change the prompt length, or save the prompt alone in the file",
        )
    # A copy: what safetensors hands out is not aligned as torch's own memory is, and rounds differently.
    return next(iter(tensors.values())).float().clone()
