"""The networks that can stand between a trained prompt and the model, and the options each of them has.

Kept free of torch, so that a recipe is checked without loading it.
"""

from __future__ import annotations

from typing import Any, Literal

Reparameterizer = Literal["mlp", "mlp2", "lstm", "transformer", "none"]
Activation = Literal["relu", "tanh", "sigmoid"]

_BOTTLENECK: dict[str, Any] = {
    "residual": True,
    "bottleneck": 400,
    "layer_norm": True,
    "activation": "relu",
    "dropout": 0.0,
    "shared": True,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "mlp": _BOTTLENECK,
    "mlp2": {**_BOTTLENECK, "tied": True},
    "lstm": {"residual": True, "layer_norm": False, "dropout": 0.0, "layers": 1},
    "transformer": {
        "residual": True,
        "layer_norm": False,
        "bottleneck": 2048,
        "activation": "relu",
        "dropout": 0.05,
        "layers": 2,
    },
    "none": {},
}
OPTION_NAMES = tuple(sorted({name for options in OPTIONS.values() for name in options}))
ACTIVATIONS = ("relu", "tanh", "sigmoid")
_STACKED_LSTM_DROPOUT = 0.05


def complete_options(reparameterizer: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options of one network with every default filled in; an option it does not have stays None.

    Args:
        reparameterizer: one of `OPTIONS`.
        given: any of `OPTION_NAMES`; None means the network's own default.

    Raises:
        ValueError: an unknown network, an option that would have no effect, or a value out of range.
    """
    if reparameterizer not in OPTIONS:
        raise ValueError(f"reparameterizer is {reparameterizer!r}, but must be one of {', '.join(OPTIONS)}")
    defaults = dict(OPTIONS[reparameterizer])
    if reparameterizer == "lstm" and (given.get("layers") or 1) > 1:
        defaults["dropout"] = _STACKED_LSTM_DROPOUT
    idle = [name for name, value in given.items() if value is not None and name not in defaults]
    if idle:
        raise ValueError(
            f"{', '.join(idle)} would have no effect with reparameterizer {reparameterizer!r}: leave it out"
        )
    chosen = {name: given.get(name) if given.get(name) is not None else defaults.get(name) for name in OPTION_NAMES}
    _check_values(reparameterizer, chosen)
    return chosen


def _check_values(reparameterizer: str, options: dict[str, Any]) -> None:
    for name in ("bottleneck", "layers"):
        if options[name] is not None and options[name] < 1:
            raise ValueError(f"{name} is {options[name]}, but must be at least 1")
    if options["dropout"] is not None and not 0 <= options["dropout"] < 1:
        raise ValueError(f"dropout is {options['dropout']}, but must be at least 0 and below 1")
    if options["activation"] is not None and options["activation"] not in ACTIVATIONS:
        raise ValueError(f"activation is {options['activation']!r}, but must be one of {', '.join(ACTIVATIONS)}")
    if reparameterizer == "lstm" and options["dropout"] and options["layers"] == 1:
        raise ValueError("dropout acts between LSTM layers and would have no effect with layers 1")
