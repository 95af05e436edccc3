"""Residual Prompt Tuning: its options, the defaults of each network, and the method of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.errors import LuthierError, ModelError
from luthier.methods.base import MethodContext
from luthier.methods.options import Options, option, refuse_idle, setting
from luthier.methods.prompt_method import PlaceOptions, PromptMethod, check_prompts_fit, text_ids
from luthier.peft_bridge.adapter_types import register_adapter_type
from luthier.registry import METHODS
from luthier.settings import Paper
from luthier.storage.nearby import did_you_mean
from luthier.storage.paths import is_file, user_path

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

register_adapter_type(
    "RESIDUAL_PROMPT",
    "luthier.tuning.residual_prompt.encoder",
    exported_by="luthier.methods.export:folded_prompt",
)

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


@METHODS.register
class ResidualPrompt(ResidualPromptOptions, PromptMethod):
    """Prompt vectors that pass through a small network with a skip connection while they are trained."""

    name: Literal["residual_prompt"] = "residual_prompt"
    summary: ClassVar[str] = "prompt tuning through a small residual network, folded away afterwards"
    paper: ClassVar[Paper] = Paper(
        title="Residual Prompt Tuning: Improving Prompt Tuning with Residual Reparameterization",
        authors="Razdaibiedina, Mao, Khabsa, Lewis, Hou, Ba, Almahairi",
        venue="Findings of ACL 2023",
        url="https://arxiv.org/abs/2305.03937",
    )
    default_learning_rate: ClassVar[float] = 1e-3
    merges: ClassVar[bool] = False
    path_fields: ClassVar[tuple[str, ...]] = ("init_file",)
    length: int = Field(10, gt=0, description="Prompt length: trained vectors in front of the text.")
    head_learning_rate: float | None = Field(
        1e-2, gt=0, description="Peak learning rate of the task head; null takes that of the prompt."
    )
    network_learning_rate: float | None = Field(
        1e-3, gt=0, description="Peak learning rate of the network; null takes that of the prompt."
    )
    network_weight_decay: float = Field(1e-5, ge=0, description="Weight decay of the network's matrices.")
    init: Literal["vocabulary", "uniform", "text", "tensor"] = setting(
        FirstPromptOptions, "prompt_init", default="uniform"
    )
    init_text: str | None = Field(None, description="The text of `init: text`, cut or repeated to the length.")
    init_file: str | None = setting(FirstPromptOptions, "prompt_init_file")

    def check(self) -> None:
        super().check()
        for init, name in (("text", "init_text"), ("tensor", "init_file")):
            if (self.init == init) != bool(getattr(self, name)):
                raise ValueError(f"{name} goes with `init: {init}`, and only with it")
        fields = type(self).model_fields
        refuse_idle(
            **{
                name: self.reparameterizer == "none" and getattr(self, name) != fields[name].default
                for name in ("network_learning_rate", "network_weight_decay")
            }
        )

    def apply(self, model: PreTrainedModel, context: MethodContext) -> nn.Module:
        """Wrap with the Residual Prompt Tuning adapter.

        Raises:
            ModelError: the model does not take vectors in place of token ids, has no [CLS] to insert behind, or the
                first prompt can't be made.
        """
        from luthier.methods.wrapping import wrap
        from luthier.tuning.residual_prompt import ResidualPromptConfig

        check_prompts_fit(model, context, self.name)
        config = ResidualPromptConfig(
            task_type=context.task_type,
            num_virtual_tokens=self.length,
            prompt_init=self.init,
            prompt_init_seed=None if self.init in ("text", "tensor") else context.seed,
            prompt_init_ids=text_ids(self.init_text, context) if self.init_text else None,
            prompt_init_file=str(user_path(self.init_file)) if self.init_file else None,
            **self.option_values(),
        )
        return wrap(model, config, context, self)

    def files(self) -> list[Path]:
        return [user_path(self.init_file)] if self.init_file else []

    def missing(self) -> Iterator[tuple[str, LuthierError]]:
        """A first prompt that is not there."""
        for path in self.files():
            if not is_file(path):
                fix = did_you_mean(path) or "name a safetensors file that holds the prompt alone"
                yield "init_file", ModelError("there is no such file", where=str(self.init_file), fix=fix)

    def network_schedule(self, learning_rate: float, weight_decay: float) -> tuple[float, float]:
        return self.network_learning_rate or learning_rate, self.network_weight_decay
