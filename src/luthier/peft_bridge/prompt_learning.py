"""Makes PEFT run prompt methods that it does not know.

PEFT decides what to do with a prompt by comparing `peft_type` with its own list. Four members of `PeftModel` are
wrapped, and the forward of classifiers, in which a prompt may stand behind [CLS]. The forward and generate code sees
a prompt of ours as plain prompt tuning whose encoder is always called; the encoder itself is exchanged for ours;
`from_pretrained(..., is_trainable=True)` is allowed for it. And `disable_adapter`, which for prompts of any kind
fails on models that don't generate and leaves the trained head in place, gives the base model. For every other
adapter the wrapped members do exactly what they did.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, PeftModelForSequenceClassification
from peft.tuners.prompt_tuning import PromptTuningInit
from peft.utils import AuxiliaryTrainingWrapper, PeftType
from torch import nn

from luthier.peft_bridge.own_prompts import CHECKS, ENCODERS, is_own_prompt
from luthier.peft_bridge.prompt_placement import keep_prompt_beside_text, moved_after_first, rows_before_text
from luthier.peft_bridge.trainable_prompts import load_trainable_prompt


class PlainPromptView:
    """The config of a prompt of ours as PEFT's prompt tuning sees it.

    All else is read from, and written to, the config itself.
    """

    peft_type = PeftType.PROMPT_TUNING
    prompt_tuning_init = PromptTuningInit.RANDOM
    inference_mode = False  # PEFT reads the embedding instead of calling the encoder when this is set

    def __init__(self, config: PeftConfig) -> None:
        object.__setattr__(self, "_config", config)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._config, name, value)


def install() -> None:
    """Wrap the members, once."""
    if hasattr(PeftModel._setup_prompt_encoder, "__wrapped__"):
        return
    PeftModel._setup_prompt_encoder = _setup_with_ours(PeftModel._setup_prompt_encoder)
    PeftModel.active_peft_config = property(_active_config(PeftModel.active_peft_config.fget))
    PeftModel.disable_adapter = _disable_all_of(PeftModel.disable_adapter)
    PeftModel.from_pretrained = classmethod(_from_pretrained_trainable(PeftModel.from_pretrained.__func__))
    classifier = PeftModelForSequenceClassification
    classifier.forward = _with_prompt_after_first(classifier.forward)


def _setup_with_ours(stock: Any) -> Any:
    @functools.wraps(stock)
    def setup_prompt_encoder(self: PeftModel, adapter_name: str) -> None:
        config = self.peft_config[adapter_name]
        if not is_own_prompt(config):
            return stock(self, adapter_name)
        CHECKS[type(config)](config, self.base_model)
        self.peft_config[adapter_name] = PlainPromptView(config)
        try:
            stock(self, adapter_name)
        finally:
            self.peft_config[adapter_name] = config
        # Where embeddings are narrower than the hidden states, the prompt is as wide as the embeddings.
        config.token_dim = self.word_embeddings.embedding_dim
        encoder = ENCODERS[type(config)](config, self.word_embeddings)
        self.prompt_encoder[adapter_name] = encoder.to(self.device).train(self.training)
        keep_prompt_beside_text(self.base_model, config.task_type, rows_before_text(config))
        if config.freeze_dropout:
            silence_dropout(self.base_model)

    return setup_prompt_encoder


def _with_prompt_after_first(stock: Any) -> Any:
    @functools.wraps(stock)
    def forward(self: PeftModel, *args: Any, **kwargs: Any) -> Any:
        config = self.peft_config[self.active_adapter]
        if not is_own_prompt(config) or config.insert == "before_text":
            return stock(self, *args, **kwargs)

        def move(_model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return args, moved_after_first(kwargs, config.num_virtual_tokens)

        handle = self.base_model.register_forward_pre_hook(move, with_kwargs=True)
        try:
            return stock(self, *args, **kwargs)
        finally:
            handle.remove()

    return forward


def _active_config(stock: Any) -> Any:
    @functools.wraps(stock)
    def active_peft_config(self: PeftModel) -> Any:
        config = stock(self)
        return PlainPromptView(config) if is_own_prompt(config) else config

    return active_peft_config


def _disable_all_of(stock: Any) -> Any:
    @functools.wraps(stock)
    @contextmanager
    def disable_adapter(self: PeftModel) -> Iterator[None]:
        if not self.peft_config[self.active_adapter].is_prompt_learning:
            with stock(self):
                yield
            return
        heads = [m for m in self.base_model.modules() if isinstance(m, AuxiliaryTrainingWrapper)]
        before = {name: self.__dict__.get(name) for name in ("forward", "generate")}, self._adapters_disabled
        try:
            # The base's forward, not its call: the hooks that serve the prompt stay out of it as well.
            self.forward = self.base_model.forward
            if hasattr(self.base_model, "generate"):
                self.generate = self.base_model.generate
            self._adapters_disabled = True
            for head in heads:
                head.enable_adapters(False)
            yield
        finally:
            for name, value in before[0].items():
                self.__dict__.pop(name, None)
                if value is not None:
                    setattr(self, name, value)
            self._adapters_disabled = before[1]
            for head in heads if not before[1] else ():
                head.enable_adapters(True)

    return disable_adapter


def _from_pretrained_trainable(stock: Any) -> Any:
    @functools.wraps(stock)
    def from_pretrained(
        cls: type[PeftModel],
        model: Any,
        model_id: str | Path,
        adapter_name: str = "default",
        is_trainable: bool = False,
        config: PeftConfig | None = None,
        **kwargs: Any,
    ) -> PeftModel:
        if is_trainable and not kwargs:
            known = config or PeftConfig.from_pretrained(model_id)
            if is_own_prompt(known):
                return load_trainable_prompt(model, model_id, adapter_name, known)
        return stock(cls, model, model_id, adapter_name, is_trainable, config, **kwargs)

    return from_pretrained


def silence_dropout(model: nn.Module) -> None:
    """Make `model` run as in evaluation whenever it is put in training mode.

    Layers with gradient checkpointing stay in training mode themselves, since transformers checkpoints only then;
    the dropout modules inside them are off all the same.
    """
    if _quieten not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_quieten)


def _quieten(model: nn.Module, _inputs: Any) -> None:
    if model.training:
        for module in model.modules():
            module.training = bool(getattr(module, "gradient_checkpointing", False))
        model.training = False
