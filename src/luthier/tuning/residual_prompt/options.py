"""The options of Residual Prompt Tuning, and the defaults that each network has for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from luthier.methods.options import Options, option
from luthier.methods.prompt_method import PlaceOptions

_MLP = {"residual": True, "bottleneck": 400, "layer_norm": True, "activation": "relu", "dropout": 0.0, "shared": True}
_LSTM = {"residual": True, "layer_norm": False, "dropout": 0.0, "layers": 1}
_TRANSFORMER = {"residual": True, "layer_norm": False, "bottleneck": 2048, "activation": "relu", "dropout": 0.05}
_STACKED_LSTM_DROPOUT = 0.05
# An option that a network has no default for would have no effect on it.
DEFAULTS: dict[str, dict[str, Any]] = {
    "mlp": _MLP,
    "mlp2": {**_MLP, "tied": True},
    "lstm": _LSTM,
    "transformer": {**_TRANSFORMER, "layers": 2},
    "none": {},
}


@dataclass(init=False, repr=False, eq=False)
class ResidualPromptOptions(PlaceOptions):
    """The network over the prompt; the defaults are the paper's."""

    reparameterizer: Literal["mlp", "mlp2", "lstm", "transformer", "none"] = option(
        "mlp",
        "Network over the prompt: mlp (bottleneck), mlp2 (two in a row), lstm (bidirectional, over the prompt "
        "vectors), transformer (over the prompt vectors), none.",
    )
    residual: bool | None = option(
        None, "Add the prompt to the network's output; None is True where there is a network."
    )
    bottleneck: int | None = option(
        None, "Hidden width of the MLP, None is 400; or of the transformer's feed-forward part, None is 2048.", gt=0
    )
    layer_norm: bool | None = option(
        None, "LayerNorm at the end of the branch; None is True for mlp and mlp2, False for the others."
    )
    activation: Literal["relu", "tanh", "sigmoid"] | None = option(
        None, "Non-linearity of MLP and transformer; None is relu."
    )
    dropout: float | None = option(
        None,
        "Dropout in the network; None is 0 for MLPs and one LSTM layer, 0.05 for more of those and for the "
        "transformer.",
        ge=0,
        lt=1,
    )
    shared: bool | None = option(None, "One MLP for all prompt vectors; False gives each its own; None is True.")
    tied: bool | None = option(None, "mlp2: both halves have the same weights, as in the released code; None is True.")
    layers: int | None = option(None, "Layers of the LSTM, None is 1; or of the transformer, None is 2.", gt=0)
    freeze_dropout: bool = option(False, "Switch the dropout of the frozen model off while training.")

    def check(self) -> None:
        super().check()
        self.network_options()

    def network_options(self) -> dict[str, Any]:
        """The options that the network has, with every default filled in.

        Raises:
            ValueError: an option that would have no effect.
        """
        network, defaults = self.reparameterizer, DEFAULTS[self.reparameterizer]
        if network == "lstm" and (self.layers or 1) > 1:
            defaults = {**defaults, "dropout": _STACKED_LSTM_DROPOUT}
        elif network == "lstm" and self.dropout:
            raise ValueError("dropout acts between LSTM layers and would have no effect with layers 1")
        names = dict.fromkeys(name for known in DEFAULTS.values() for name in known)
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        if idle := [name for name in given if name not in defaults]:
            raise ValueError(f"{', '.join(idle)} would have no effect with reparameterizer {network!r}: leave it out")
        return {**defaults, **given}


@dataclass(init=False, repr=False, eq=False)
class FirstPromptOptions(Options):
    """What a configuration calls prompt_init and prompt_init_file, and a recipe init and init_file.

    They start from different prompts: a configuration from the vocabulary, as the paper and its released code do; a
    recipe from noise, since rows of the vocabulary are as small as the model's embeddings are, and of models with small
    ones, such as BERT, the network's LayerNorm would swamp the prompt.
    """

    prompt_init: Literal["vocabulary", "uniform", "text", "tensor"] = option(
        "vocabulary",
        "What the prompt starts from: embeddings of tokens drawn from the vocabulary, uniform(-0.5, 0.5), embeddings "
        "of a text, or a tensor from a file. Where it is left out, a recipe starts from uniform, and a "
        "`ResidualPromptConfig` in code from the vocabulary, as the paper does.",
    )
    prompt_init_file: str | None = option(
        None, "The safetensors file of `init: tensor`; it holds one tensor of length by width."
    )
