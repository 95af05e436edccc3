"""Which layers of a model a method works on, found by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from luthier.errors import ModelError, RecipeError, a_model, nearest

_KEY_VALUE = ("key", "value", "k", "v", "k_proj", "v_proj", "k_lin", "v_lin", "key_proj", "value_proj")
QUERY = ("query", "q", "q_proj", "q_lin", "query_proj")
FUSED = ("Wqkv", "qkv", "qkv_proj", "c_attn", "query_key_value", "in_proj")
ATTENTION_PROJECTIONS = (*QUERY, *_KEY_VALUE, *FUSED)
KEY_VALUE_PROJECTIONS = (*_KEY_VALUE, *FUSED)
FEEDFORWARD_OUTPUTS = (
    *("lin2", "down_proj", "fc2", "mlp.Wo", "wo", "output.dense", "dense_4h_to_h", "fc_out", "ffn_output"),
    *("mlp.c_proj", "w2"),
)
ALL_LINEAR = "all-linear"


def layer_names(model: nn.Module) -> list[str]:
    """Names of the layers that can be adapted, without their place in the model: query, value, dense, ..."""
    return sorted({name.rpartition(".")[2] for name in _layers(model)})


def check_targets(model: nn.Module, wanted: list[str] | str) -> None:
    """Make sure that every wanted name matches a layer, so that a typo does not silently train less.

    Raises:
        RecipeError: a name matches nothing; names the nearest one.
    """
    names = [wanted] if isinstance(wanted, str) else wanted
    layers = _layers(model)
    for name in names:
        if name != ALL_LINEAR and not any(_ends(layer, name) for layer in layers):
            known = layer_names(model)
            guess = nearest(name, known)
            raise RecipeError(
                f"target_modules: no layer of this model is called {name!r}",
                fix=(f"did you mean {guess!r}? " if guess else "") + f"its layers: {', '.join(known)}",
            )


def default_targets(model: Any, mapping: Mapping[str, Any], names: tuple[str, ...]) -> list[str] | None:
    """None where PEFT knows the architecture, else those of `names` that the model has.

    Raises:
        ModelError: it has none of them.
    """
    if model.config.model_type in mapping:
        return None
    matching = names_in(model, names)
    if not matching:
        raise ModelError(
            f"no attention projections were found by name in {a_model(model.config.model_type)}",
            fix=f"set target_modules; its layers: {', '.join(layer_names(model))}",
        )
    return matching


def names_in(model: nn.Module, names: tuple[str, ...]) -> list[str]:
    """Those of some names that layers of the model have."""
    layers = _layers(model)
    return [name for name in names if any(_ends(layer, name) for layer in layers)]


def _layers(model: nn.Module) -> list[str]:
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding, Conv1D)
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


def _ends(layer: str, name: str) -> bool:
    return layer == name or layer.endswith(f".{name}")
