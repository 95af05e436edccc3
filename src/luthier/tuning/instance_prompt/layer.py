"""The tuner's part inside the model: it holds the generators, and hooks on the body insert what they make.

Shapes: B examples, T tokens, t prompt positions, L = T + t, d model width, g sentence vector width.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from luthier.models.layers.placement import Placement, context_columns, insertion_columns, last_columns
from luthier.models.layers.trunk import Trunk, bare_pass, pool
from luthier.storage.arrays import evaluating
from luthier.tuning.instance_prompt import key_value
from luthier.tuning.instance_prompt.config import InstancePromptConfig
from luthier.tuning.instance_prompt.generator import PromptGenerator
from luthier.tuning.instance_prompt.output import without_prompt
from luthier.tuning.instance_prompt.running import Given, Note, Running
from luthier.tuning.instance_prompt.visibility import shown_from

logger = logging.getLogger(__name__)
_NOTE = "instance_prompt"


class InstancePromptLayer(nn.Module, BaseTunerLayer):
    """Holds the generators of all adapters; becomes a child of the model's body.

    Attributes:
        instance_prompt_generators: by adapter name.
        configs: by adapter name, with position and pooling filled in.
        store: where sentence vectors are looked up that the caller does not pass; None computes them.
    """

    adapter_layer_names = ("instance_prompt_generators",)
    other_param_names = ("configs",)

    def __init__(self, trunk: Trunk, model: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.instance_prompt_generators = nn.ModuleDict()
        self.configs: dict[str, InstancePromptConfig] = {}
        self.merged_adapters: list[str] = []
        self.store: Any = None
        self._given = Given()
        self._running: Running | None = None
        self._generating: int | None = None
        self._warned = False
        self._handles = [
            model.register_forward_pre_hook(self._read_arguments, with_kwargs=True),
            trunk.module.register_forward_pre_hook(self._insert, with_kwargs=True),
            trunk.module.register_forward_hook(self._remove),
        ]
        self._handles += [
            layer.register_forward_pre_hook(self._layer_hook(index), with_kwargs=True)
            for index, layer in enumerate(trunk.layers)
        ]
        if trunk.decoder is not None:
            self._handles.append(trunk.decoder.register_forward_pre_hook(self._extend_cross, with_kwargs=True))

    def add(self, name: str, config: InstancePromptConfig, generator: PromptGenerator) -> None:
        """Take up one adapter."""
        self.configs[name] = config
        self.instance_prompt_generators[name] = generator
        if config.insertion == "key_value":
            key_value.install(self.trunk.config)

    def get_base_layer(self) -> nn.Module:
        """The token embeddings, whose device and number format the generators take."""
        embeddings: nn.Module = self.trunk.module.get_input_embeddings()
        return embeddings

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Raises ValueError for more than one adapter."""
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        if len(names) > 1:
            raise ValueError(f"one instance prompt can be active at a time, not {', '.join(names)}")
        super().set_adapter(names, inference_mode=inference_mode)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Always raises ValueError: a prompt that depends on the input can't be folded into weights."""
        raise ValueError("an instance prompt can't be merged: its generator needs every input")

    def detach_hooks(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()
        key_value.uninstall(self.trunk.config)

    @contextmanager
    def generating(self, columns: int, vectors: Tensor | None) -> Iterator[None]:
        """While text is generated: the first `columns` are the context, however long the row has become."""
        before = self._generating, self._given
        self._generating, self._given = columns, Given(vectors)
        try:
            yield
        finally:
            self._generating, self._given = before

    # -- hooks ---------------------------------------------------------------------------------------------

    def _read_arguments(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kwargs = dict(kwargs)
        vectors, context = kwargs.pop("sentence_vectors", None), kwargs.pop("context_end", None)
        if self._generating is not None:
            return args, kwargs
        labels, mask = kwargs.get("labels"), kwargs.get("attention_mask")
        if context is None and self.trunk.predicts_tokens and labels is not None:
            context = context_columns(labels, torch.ones_like(labels) if mask is None else mask)
        self._given = Given(vectors, context)
        return args, kwargs

    def _insert(self, _trunk: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._running = None
        config = self._active()
        if config is None:
            return None
        call = self.trunk.arguments(args, kwargs)
        cache = call.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            note = getattr(cache, _NOTE, None)
            return None if note is None else ((), self._continued(call, note))
        return (), self._started(call, config)

    def _remove(self, _trunk: nn.Module, _args: Any, output: Any) -> Any:
        running, self._running = self._running, None
        if running is None or running.continues:
            return None
        cache = getattr(output, "past_key_values", None)
        if cache is not None:
            setattr(cache, _NOTE, Note(running.placement, running.extras))
        if running.placement is None:
            return None
        return without_prompt(output, running.placement, keep_in_front=self.trunk.decoder is not None)

    def _layer_hook(self, index: int) -> Any:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return None if self._running is None else self._prompted(index, layer, args, kwargs)

        return hook

    def _extend_cross(self, _decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        states, mask = kwargs.get("encoder_hidden_states"), kwargs.get("encoder_attention_mask")
        config = self._active()
        if config is None or states is None or mask is None or states.shape[1] != mask.shape[1] + config.inserted:
            return None
        return args, {
            **kwargs,
            "encoder_attention_mask": torch.cat([mask.new_ones(len(mask), config.inserted), mask], 1),
        }

    # -- the body's inputs ---------------------------------------------------------------------------------

    @property
    def _active_name(self) -> str:
        names: Any = self.active_adapters
        return names[0] if names else ""

    def _active(self) -> InstancePromptConfig | None:
        if self.disable_adapters or not self._active_name:
            return None
        return self.configs.get(self._active_name)

    def _started(self, call: dict[str, Any], config: InstancePromptConfig) -> dict[str, Any]:
        embeds, mask = self.trunk.embed(call), call.get("attention_mask")
        if mask is not None and getattr(mask, "ndim", 0) != 2:
            raise ValueError("an instance prompt needs an attention mask of shape (batch, tokens), or none")
        width = embeds.shape[1]
        self.trunk.check_room(width, config.inserted)
        full = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device) if mask is None else mask
        last = self._last(full)
        vectors = self._vectors(call, config, embeds, full, last)
        running = Running(config, self._generator(), vectors, full, last, None)
        self._running = running
        if not config.inserted:
            # Keys that are made do not turn with their position, so that those of the text must not count padding.
            if mask is not None and call.get("position_ids") is None and (at := self.trunk.positions(full)) is not None:
                return {**call, "position_ids": at}
            return call
        assert config.position is not None
        at = insertion_columns(config.position, full, call.get("input_ids"), config.separator_token_id)
        placement = Placement(at, width, config.inserted, config.margin)
        running.placement, running.last = placement, placement.moved(last)
        running.mask = placement.insert(full, full.new_zeros(len(full), config.inserted))
        return self._lengthened(call, embeds, mask, full, running)

    def _lengthened(
        self, call: dict[str, Any], embeds: Tensor, mask: Tensor | None, full: Tensor, running: Running
    ) -> dict[str, Any]:
        placement, config = running.placement, running.config
        assert placement is not None
        hidden = config.first_layer > 0
        if hidden:
            prompt = embeds.new_zeros(len(embeds), config.prompt_length, embeds.shape[2])
        else:
            assert running.vectors is not None
            prompt = running.generator(running.vectors, 0).to(embeds.dtype)
        if config.margin:
            separator = self._separator(config, embeds)
            prompt = torch.cat([separator, prompt, separator], 1)
        call = {**call, "inputs_embeds": placement.insert(embeds, prompt)}
        call.pop("input_ids", None)
        prompt_mask = full.new_full((len(full), config.inserted), 0 if hidden else 1)
        if mask is not None or hidden:
            call["attention_mask"] = placement.insert(full, prompt_mask)
        given = call.get("position_ids")
        if given is not None or mask is not None or hidden:
            call["position_ids"] = self._positions(placement, full, given, moved=not hidden)
            if call["position_ids"] is None:
                del call["position_ids"]
        types = call.get("token_type_ids")
        if types is not None:
            before = types.gather(1, (placement.at - 1).clamp(min=0)[:, None])
            call["token_type_ids"] = placement.insert(types, before.expand(-1, config.inserted))
        return call

    def _separator(self, config: InstancePromptConfig, embeds: Tensor) -> Tensor:
        """(B, margin, d) embeddings of the separator."""
        assert config.separator_token_id is not None
        ids = torch.full((1, config.margin), config.separator_token_id, device=embeds.device)
        return self.trunk.embed({"input_ids": ids}).to(embeds.dtype).expand(len(embeds), -1, -1)

    def _positions(self, placement: Placement, mask: Tensor, given: Tensor | None, *, moved: bool) -> Tensor | None:
        """Text behind the prompt moves by its length, unless the prompt is hidden from the first layers."""
        text = given.expand(len(mask), -1) if given is not None else self.trunk.positions(mask)
        if text is None:
            return None
        behind = text.gather(1, placement.at.clamp(max=text.shape[1] - 1)[:, None])
        before = text.gather(1, (placement.at - 1).clamp(min=0)[:, None])
        start = torch.where((placement.at < last_columns(mask) + 1)[:, None], behind, before + 1)
        if not moved:
            return placement.insert(text, before.expand(-1, placement.length))
        column = torch.arange(text.shape[1], device=text.device)[None]
        real = mask.bool() if given is None else torch.ones_like(mask, dtype=torch.bool)
        shifted = text + placement.length * ((column >= placement.at[:, None]) & real)
        return placement.insert(shifted, start + torch.arange(placement.length, device=text.device))

    def _continued(self, call: dict[str, Any], note: Note) -> dict[str, Any]:
        config, placement, mask = self._active(), note.placement, call.get("attention_mask")
        assert config is not None
        nothing = torch.empty(0)
        running = Running(config, self._generator(), None, nothing, nothing, None, True, note.extras)
        self._running = running
        if placement is None:
            return call
        hidden = config.first_layer > 0
        given = call.get("position_ids")
        if given is not None and not hidden:
            call["position_ids"] = given + placement.length
        embeds = self.trunk.embed(call)
        if mask is None and hidden:
            columns = call["past_key_values"].get_seq_length() - placement.length + embeds.shape[1]
            mask = torch.ones(len(embeds), columns, dtype=torch.long, device=embeds.device)
        if mask is None:
            return call
        running.placement = Placement(placement.at, mask.shape[1], placement.length)
        prompt_mask = mask.new_full((len(mask), placement.length), 0 if hidden else 1)
        call["attention_mask"] = running.placement.insert(mask, prompt_mask)
        if given is None and (counted := self.trunk.positions(call["attention_mask"])) is not None:
            call["position_ids"] = counted[:, -embeds.shape[1] :]
        return call

    # -- sentence vectors ----------------------------------------------------------------------------------

    def _generator(self) -> PromptGenerator:
        generator: Any = self.instance_prompt_generators[self._active_name]
        return generator

    def _last(self, mask: Tensor) -> Tensor:
        """(B,) column that the sentence vector may reach up to."""
        if self._generating is not None:
            return last_columns(mask[:, : self._generating])
        if self._given.context is not None:
            return self._given.context.to(mask.device)
        if self.trunk.predicts_tokens and self._given.vectors is None:
            self._context_is_unknown()
        return last_columns(mask)

    def _context_is_unknown(self) -> None:
        if self.training and torch.is_grad_enabled():
            raise ValueError(
                "a language model's prompt must not be made from the tokens that it learns to predict: pass labels, or "
                "context_end (the column of each row's last token before them)"
            )
        if not self._warned:
            self._warned = True
            logger.info("the whole input is the context of the instance prompt: pass context_end to score its tokens")

    def _vectors(
        self, call: dict[str, Any], config: InstancePromptConfig, embeds: Tensor, mask: Tensor, last: Tensor
    ) -> Tensor | None:
        given = self._given.vectors
        if given is not None:
            if len(mask) % len(given):
                raise ValueError(f"there are {len(given)} sentence vectors for {len(mask)} rows")
            return given.to(embeds.device).repeat_interleave(len(mask) // len(given), 0)
        if config.vector_source == "static":
            return pool(embeds.detach(), "mean", mask, last)
        if config.vector_source == "previous_layer" and config.first_layer > 0:
            return None
        if self.store is not None and call.get("input_ids") is not None:
            until, segments = last if self.trunk.predicts_tokens else None, call.get("token_type_ids")
            found = self.store.of_tokens(call["input_ids"], mask, until, segments)
            if found is not None:
                return found.to(embeds.device)
        if config.vector_source == "given":
            raise ValueError(
                "this instance prompt is made from given vectors: pass sentence_vectors of shape (batch, width)"
            )
        with nullcontext() if config.first_pass_dropout else evaluating(self.trunk.module):
            return bare_pass(self.trunk, call, mask, str(config.pooling), last)

    def _vectors_at(self, index: int, hidden: Tensor, running: Running) -> Tensor:
        from_below = running.config.vector_source == "previous_layer" and index > 0
        if running.vectors is not None and not from_below:
            return running.vectors
        return pool(hidden, str(running.config.pooling), running.mask, running.last)

    # -- layers --------------------------------------------------------------------------------------------

    def _prompted(self, index: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        running = self._running
        assert running is not None
        config, slot = running.config, index - running.config.first_layer
        if slot < 0:
            return None
        call = dict(zip(inspect.signature(layer.forward).parameters, args, strict=False))
        if running.continues:
            if index in running.extras:
                return args, {**kwargs, key_value.ARGUMENT: running.extras[index]}
            if config.first_layer == 0 or running.placement is None:
                return None
            return self._uncovered(call, args, kwargs, running)
        first = next(iter(call), "hidden_states")
        hidden = call[first] if call else kwargs["hidden_states"]
        makes_prompt = slot == 0 or config.multi_layer
        if config.insertion == "key_value":
            if not makes_prompt:
                return None
            made = running.generator(self._vectors_at(index, hidden, running), slot).to(hidden.dtype)
            running.extras[index] = key_value.project(layer, made)
            return args, {**kwargs, key_value.ARGUMENT: running.extras[index]}
        if config.first_layer > 0:
            args, kwargs = self._uncovered(call, args, kwargs, running)
        if makes_prompt and index > 0:
            assert running.placement is not None
            made = running.generator(self._vectors_at(index, hidden, running), slot).to(hidden.dtype)
            hidden = running.placement.write(hidden, made, add=config.insertion == "add" and slot > 0)
        if call:
            return (hidden, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": hidden}

    def _uncovered(
        self, call: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any], running: Running
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The layer's arguments with an attention mask in which the prompt can be seen."""
        covered = kwargs.get("attention_mask", call.get("attention_mask"))
        if id(covered) not in running.shown:
            assert running.placement is not None
            running.shown[id(covered)] = shown_from(covered, running.placement.is_prompt(), self.trunk.causal)
        shown = running.shown[id(covered)]
        if "attention_mask" in kwargs:
            return args, {**kwargs, "attention_mask": shown}
        return tuple(shown if name == "attention_mask" else value for name, value in call.items()), kwargs
