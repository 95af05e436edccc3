"""IDPG as a PEFT tuner."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from luthier.models.layers import extra_keys
from luthier.models.layers.placement import AFTER_FIRST, BEFORE_TEXT, OWN_SEGMENT, context_columns
from luthier.models.layers.trunk import Trunk, find_trunk
from luthier.peft_bridge.registration import register_tuner
from luthier.tuning.instance_prompt.config import InstancePromptConfig
from luthier.tuning.instance_prompt.generator import PromptGenerator
from luthier.tuning.instance_prompt.layer import InstancePromptLayer

CHILD, GENERATORS = "instance_prompt", "instance_prompt_generators"


class InstancePromptModel(BaseTuner):
    """A model whose frozen body gets prompts that a small generator makes from every input.

    The forward takes two arguments beside the model's own: `sentence_vectors` (batch, width), which stand in for
    the pass without prompts, and, for language models without `labels`, `context_end` (batch,), the column of the
    last token that the prompt may depend on. Outputs have one position a token of the input; attentions and the
    encoder states that a decoder reads hold the prompt's positions too.

    Source: Wu et al., NAACL 2022.
    """

    prefix = "instance_prompt_"
    tuner_layer_cls = InstancePromptLayer
    uses_shared_state = True

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, Tensor] | None = None,
    ) -> None:
        """Freeze the model and add one generator.

        Raises:
            ValueError: the configuration does not fit the model.
        """
        trunk = find_trunk(model)
        config = self.peft_config[adapter_name]
        fit(config, trunk)
        super().inject_adapter(model, adapter_name, autocast_adapter_dtype, low_cpu_mem_usage)
        place = torch.device("meta") if low_cpu_mem_usage else trunk.module.get_input_embeddings().weight.device
        with place:
            generator = build_generator(config, trunk)
        generator.to(trunk.module.get_input_embeddings().weight.dtype)
        layer = getattr(trunk.module, CHILD, None)
        if layer is None:
            layer = InstancePromptLayer(trunk, model)
            trunk.module.add_module(CHILD, layer)
            layer._active_adapter = self.active_adapters
        active = adapter_name in self.active_adapters
        layer.add(adapter_name, config, generator.requires_grad_(active and not config.inference_mode))
        layer.train(model.training)

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
        if not self.prompt_layer.trunk.predicts_tokens:
            return {}
        mask = torch.ones_like(labels) if attention_mask is None else attention_mask
        return {"context_end": context_columns(labels, mask)}

    def generate(self, *args: Any, sentence_vectors: Tensor | None = None, **kwargs: Any) -> Any:
        """The model's `generate`; the prompt is made from the given tokens only, with a cache and without one."""
        ids = args[0] if args else next((kwargs[k] for k in ("input_ids", "inputs") if kwargs.get(k) is not None), None)
        if ids is None:
            raise ValueError("an instance prompt generates from input_ids")
        with self.prompt_layer.generating(ids.shape[1], sentence_vectors):
            return self.model.generate(*args, **kwargs)

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict[str, Any]) -> PeftConfig:
        return peft_config

    def _create_and_replace(self, *args: Any, **kwargs: Any) -> None:
        """Nothing in the model is replaced; `inject_adapter` adds a child to its body."""

    def _unload_and_optionally_merge(self, merge: bool = True, *args: Any, **kwargs: Any) -> nn.Module:
        if merge:
            self.prompt_layer.merge()
        layer = self.prompt_layer
        layer.detach_hooks()
        delattr(layer.trunk.module, CHILD)
        model: nn.Module = super()._unload_and_optionally_merge(False, *args, **kwargs)
        return model

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        marker = f".{GENERATORS}.{adapter_name}."
        if marker in key:
            return key.replace(marker, f".{GENERATORS}.")
        return str(super()._remove_adapter_name_from_key(key, adapter_name))


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


def build_generator(config: InstancePromptConfig, trunk: Trunk) -> PromptGenerator:
    """The generator for a model's body."""
    layers = len(trunk.layers) - config.first_layer if config.multi_layer else 1
    own = trunk.embedding_width if config.vector_source == "static" else trunk.width
    return PromptGenerator(config, config.vector_width or own, trunk.width, layers)


register_tuner("instance_prompt", InstancePromptConfig, InstancePromptModel)
