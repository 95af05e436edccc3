"""Chooses embeddings that are updated row by row: those of which a step with a sampled softmax reads few rows."""

from __future__ import annotations

import torch
from torch import nn

from luthier.errors import ModelError
from luthier.language_modeling.in_place import is_plain, takes_in_place
from luthier.language_modeling.rows import output_embeddings
from luthier.models.inspect import base_of
from luthier.storage.ranks import world_size
from luthier.training.row_gradient import collect_by_rows
from luthier.training.row_rules import refused_settings
from luthier.training.settings import TrainingSettings

# From how many tokens on it is quicker: `benchmarks/row_updates.py`.
FROM_TOKENS = 200_000


def update_by_rows(model: nn.Module, settings: TrainingSettings, samples: int | None, wanted: bool | None) -> bool:
    """Make input and output embeddings of a model, tied or not, such as are updated row by row in the training that
    follows (`luthier.training.row_adamw`).

    Args:
        model: with a language-model head.
        settings: of the training.
        samples: tokens that a step draws to normalise by; None takes the whole vocabulary.
        wanted: whether it has to be; None does it where it can be done and pays.

    Returns:
        Whether they are.

    Raises:
        ModelError: it is wanted, and can't be done.
    """
    if wanted is False or (wanted is None and len(output_embeddings(model).weight) < FROM_TOKENS):
        return False
    if (reason := _refused(model, settings, samples)) is not None:
        if wanted:
            raise ModelError(f"`row_updates` can't be done: {reason}", fix="leave it out")
        return False
    for parameter in {id(p): p for p in _embeddings(model)}.values():
        collect_by_rows(parameter)
    return True


def _embeddings(model: nn.Module) -> list[nn.Parameter]:
    return [base_of(model).get_input_embeddings().weight, output_embeddings(model).weight]


def _refused(model: nn.Module, settings: TrainingSettings, samples: int | None) -> str | None:
    layer, matrices = base_of(model).get_input_embeddings(), _embeddings(model)
    if samples is None or samples >= len(matrices[1]):
        return f"the softmax is over all {len(matrices[1]):,} tokens, so every step moves all of them"
    if world_size() > 1:
        return "it works in one process alone"
    if not is_plain(layer) or not takes_in_place(matrices[1]):
        return "the embeddings are not trained, or read in a way of their own"
    if any(matrix.dtype not in (torch.float32, torch.float64) for matrix in matrices):
        return "the embeddings have less than single precision, in which small steps are lost that it would take"
    own = {id(layer), id(output_embeddings(model))}
    for name, module in model.named_modules():
        if id(module) not in own and any(p is matrix for p in module._parameters.values() for matrix in matrices):
            return f"{name} reads the embeddings too"
    return refused_settings(settings)
