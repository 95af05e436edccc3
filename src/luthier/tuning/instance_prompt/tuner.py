"""IDPG as a PEFT tuner."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import Tensor, nn

from luthier.models.layers import extra_keys
from luthier.models.layers.attached import AttachedConfig, AttachedTuner
from luthier.models.layers.placement import AFTER_FIRST, BEFORE_TEXT, OWN_SEGMENT, context_columns
from luthier.models.layers.trunk import Trunk, find_trunk
from luthier.peft_bridge.registration import register_tuner
from luthier.tuning.instance_prompt.generator import PromptGenerator
from luthier.tuning.instance_prompt.layer import GENERATORS, InstancePromptLayer
from luthier.tuning.instance_prompt.settings import ConfigurationOptions


@dataclass
class InstancePromptConfig(ConfigurationOptions, AttachedConfig):
    """Configuration of IDPG, instance-dependent prompt generation; the defaults are the paper's M-IDPG-PHM.

    Source: Wu et al., NAACL 2022, sections 3 and 4.

    Raises:
        ValueError: a value out of range, an option that would have no effect, or an order that does not divide
            the widths.
    """

    adapter_type = "INSTANCE_PROMPT"
    target_modules: ClassVar[str] = DUMMY_TARGET_MODULES


class InstancePromptModel(AttachedTuner):
    """A model whose frozen body gets prompts that a small generator makes from every input.

    The forward takes two arguments beside the model's own: `sentence_vectors` (batch, width), which stand in for
    the pass without prompts, and, for language models without `labels`, `context_end` (batch,), the column of the
    last token that the prompt may depend on. Outputs have one position a token of the input; attentions and the
    encoder states that a decoder reads hold the prompt's positions too.

    Source: Wu et al., NAACL 2022.
    """

    prefix = "instance_prompt_"
    child_name = "instance_prompt"
    parts_name = GENERATORS
    uses_shared_state = True

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, Tensor] | None = None,
    ) -> None:
        """Freeze the model and add one generator to its body.

        Raises:
            ValueError: the configuration does not fit the model.
        """
        trunk, config = find_trunk(model), self.peft_config[adapter_name]
        fit(config, trunk)
        super().inject_adapter(model, adapter_name, autocast_adapter_dtype, low_cpu_mem_usage)
        embeddings = trunk.module.get_input_embeddings()
        with torch.device("meta") if low_cpu_mem_usage else embeddings.weight.device:
            generator = build_generator(config, trunk).to(embeddings.weight.dtype)
        layer: InstancePromptLayer = self.child_of(trunk.module, lambda: InstancePromptLayer(trunk, model))
        layer._active_adapter = self.active_adapters
        layer.parts[adapter_name] = generator.train(model.training)
        generator.requires_grad_(adapter_name in self.active_adapters and not config.inference_mode)
        if config.insertion == "key_value":
            extra_keys.install(trunk.config)
        self.refuse_clashing_names(model)

    @property
    def prompt_layer(self) -> InstancePromptLayer:
        """Where the generators are."""
        return next(part for part in self.model.modules() if isinstance(part, InstancePromptLayer))

    def use_sentence_vectors(self, store: Any) -> None:
        """Look sentence vectors up instead of computing them; texts that are not in the store are computed.

        Args:
            store: a `SentenceVectors`, or None to compute all again.
        """
        self.prompt_layer.store = store

    def context_arguments(self, labels: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        """What the forward needs beside its inputs where a trainer keeps the labels (B, T) to itself.

        Returns:
            `context_end` for a causal language model, else nothing.
        """
        predicts_tokens = self.prompt_layer.trunk.predicts_tokens
        return {"context_end": context_columns(labels, attention_mask)} if predicts_tokens else {}

    def generate(self, *args: Any, sentence_vectors: Tensor | None = None, **kwargs: Any) -> Any:
        """The model's `generate`; the prompt is made from the given tokens only, with a cache and without one."""
        ids = args[0] if args else next((kwargs[k] for k in ("input_ids", "inputs") if kwargs.get(k) is not None), None)
        if ids is None:
            raise ValueError("an instance prompt generates from input_ids")
        with self.prompt_layer.generating(ids.shape[1], sentence_vectors):
            return self.model.generate(*args, **kwargs)

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        """Nothing in the model is replaced; `inject_adapter` adds a child to its body."""


def fit(config: InstancePromptConfig, trunk: Trunk) -> None:
    """Fill in what depends on the model.

    Raises:
        ValueError: it does not fit.
    """
    if config.first_layer >= len(trunk.layers):
        raise ValueError(f"first_layer is {config.first_layer}, but the model has {len(trunk.layers)} layers")
    if trunk.embedding_width != trunk.width and config.inserted and config.first_layer == 0:
        raise ValueError(
            f"the model's embeddings are {trunk.embedding_width} wide and its hidden states {trunk.width}: set "
            "first_layer to at least 1, or insertion to 'key_value'"
        )
    if config.first_layer and config.inserted and not _takes_mask(trunk.layers[config.first_layer]):
        raise ValueError(
            "first_layer above 0 needs a model whose layers take the attention mask of sdpa or eager attention: leave "
            "it out, or set insertion to 'key_value'"
        )
    position: Any = config.position
    if position is None and config.insertion != "key_value":
        position = AFTER_FIRST if trunk.has_first_token else BEFORE_TEXT
    if position == BEFORE_TEXT and trunk.has_first_token:
        raise ValueError("position -1 would put the prompt in front of the token that stands for the text: use 0")
    if position == OWN_SEGMENT and trunk.causal:
        raise ValueError(
            "position 4 would put the prompt behind the text, where a causal model does not see it: use -1"
        )
    separator = config.separator_token_id
    if position is not None and position > AFTER_FIRST and separator is None:
        separator = getattr(trunk.config, "sep_token_id", None)
        if separator is None and not trunk.causal and trunk.has_first_token:
            separator = getattr(trunk.config, "eos_token_id", None)
        if separator is None:
            raise ValueError(f"position {position} stands at a separator: set separator_token_id")
    if config.insertion == "key_value":
        for layer in trunk.layers:
            extra_keys.find_projections(layer)
    config.position, config.separator_token_id = position, separator
    config.pooling = config.pooling or trunk.pooling


def _takes_mask(layer: nn.Module) -> bool:
    """Whether a layer is called with a mask in which a prompt's columns can be made visible."""
    # Both DeBERTas hide whole rows of the mask.
    if any(type(part).__name__ == "DisentangledSelfAttention" for part in layer.modules()):
        return False
    parameters = inspect.signature(type(layer).forward).parameters
    return "attention_mask" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def build_generator(config: InstancePromptConfig, trunk: Trunk) -> PromptGenerator:
    """The generator for a model's body."""
    layers = len(trunk.layers) - config.first_layer if config.multi_layer else 1
    own = trunk.embedding_width if config.vector_source == "static" else trunk.width
    return PromptGenerator(config, config.vector_width or own, trunk.width, layers)


register_tuner("instance_prompt", InstancePromptConfig, InstancePromptModel)
