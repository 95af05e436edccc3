"""The tuner's part inside the model: it holds the generators, and hooks on the body insert what they make.

Shapes: B examples, T tokens, t prompt positions, L = T + t, d model width, g sentence vector width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from luthier.models.layers import extra_keys
from luthier.models.layers.attached import AttachedLayer, argument_of, with_argument
from luthier.models.layers.blocks import argument_place
from luthier.models.layers.inserted_prompt import (
    ones_mask,
    showing_prompt,
    with_prompt,
    with_prompt_in_cache,
    without_prompt,
)
from luthier.models.layers.placement import Placement, context_columns, insertion_columns, last_columns
from luthier.models.layers.trunk import Trunk, bare_pass, pool
from luthier.storage.arrays import evaluating
from luthier.tuning.instance_prompt.generator import PromptGenerator
from luthier.tuning.instance_prompt.settings import ConfigurationOptions

logger = logging.getLogger(__name__)
GENERATORS = "instance_prompt_generators"
_NOTE = "instance_prompt"
_Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class Running:
    """What the hooks of one forward pass share. A pass that goes on from a cache makes no prompts.

    Attributes:
        generator: of the active adapter.
        placement: where the prompt stands; None where it takes no positions.
        extras: by layer, the keys and values made.
        makes: whether the pass makes prompts; those of one that doesn't are in the cache.
        vectors: (B, g) that the first prompt is made from; None takes the running hidden states.
        mask: (B, T), or (B, L) with a placement: 1 at the tokens that may be summarised.
        last: (B,) column that counts as the last of the text.
        shown: the attention mask in which the prompt can be seen, by that in which it can't.
    """

    generator: PromptGenerator
    placement: Placement | None = None
    extras: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    makes: bool = False
    vectors: Tensor | None = None
    mask: Tensor | None = None
    last: Tensor | None = None
    shown: dict[int, Tensor] = field(default_factory=dict)

    def prompt(self, layer: int, hidden: Tensor) -> Tensor | None:
        """What goes into the model's layer-th layer, whose input is `hidden`; None where it gets no prompt of its own.

        Returns:
            (B, t, d), or (B, 2 t, d) for keys and values.
        """
        config, vectors = self.generator.config, self.vectors
        if not self.makes or (layer != config.first_layer and not config.multi_layer):
            return None
        if vectors is None or (config.vector_source == "previous_layer" and layer > 0):
            assert self.mask is not None
            vectors = pool(hidden, str(config.pooling), self.mask, self.last)
        return self.generator(vectors, layer - config.first_layer).to(hidden.dtype)


class InstancePromptLayer(AttachedLayer):
    """Holds the generators of all adapters; becomes a child of the model's body.

    Attributes:
        instance_prompt_generators: by adapter name; each knows its configuration, with position and pooling filled in.
        store: where sentence vectors are looked up that the caller does not pass; None computes them.
    """

    def __init__(self, trunk: Trunk, model: nn.Module) -> None:
        super().__init__(trunk.module, GENERATORS)
        self.trunk = trunk
        self.store: Any = None
        self._running: Running | None = None
        # What the caller passed beside the model's own arguments: vectors (B, g), and the column (B,) up to which a
        # causal model may summarise.
        self._given_vectors: Tensor | None = None
        self._context_end: Tensor | None = None
        self._prompt_columns: int | None = None
        self._warned = False
        self.hook(model, "before", self._read_arguments)
        self.hook("", "before", self._insert)
        for index, layer in enumerate(trunk.layers):
            self.hook(layer, "before", partial(self._before_layer, index))
        if trunk.decoder is not None:
            self.hook(trunk.decoder, "before", self._extend_cross)
        self.hook("", "after", self._remove)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Raises ValueError for more than one adapter."""
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        if len(names) > 1:
            raise ValueError(f"one instance prompt can be active at a time, not {', '.join(names)}")
        super().set_adapter(names, inference_mode=inference_mode)

    def detach(self) -> None:
        super().detach()
        extra_keys.uninstall(self.trunk.config)

    @contextmanager
    def generating(self, columns: int, vectors: Tensor | None) -> Iterator[None]:
        """While text is generated: the first `columns` are the context, however long the row has become."""
        before = self._prompt_columns, self._given_vectors, self._context_end
        self._prompt_columns, self._given_vectors, self._context_end = columns, vectors, None
        try:
            yield
        finally:
            self._prompt_columns, self._given_vectors, self._context_end = before

    # -- hooks ---------------------------------------------------------------------------------------------

    def _read_arguments(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Arguments:
        kwargs = dict(kwargs)
        vectors, context = kwargs.pop("sentence_vectors", None), kwargs.pop("context_end", None)
        if self._prompt_columns is not None:
            return args, kwargs
        labels = kwargs.get("labels")
        if context is None and self.trunk.predicts_tokens and labels is not None:
            context = context_columns(labels, kwargs.get("attention_mask"))
        self._given_vectors, self._context_end = vectors, context
        return args, kwargs

    def _insert(self, _body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Arguments | None:
        self._running = None
        generator = self._active_generator()
        if generator is None:
            return None
        call = self.trunk.arguments(args, kwargs)
        cache = call.get("past_key_values")
        if cache is None or cache.get_seq_length() == 0:
            return (), self._start(call, generator)
        if not hasattr(cache, _NOTE):
            return None
        placement, extras = getattr(cache, _NOTE)
        if placement is not None:
            hidden = generator.config.first_layer > 0
            call, placement = with_prompt_in_cache(self.trunk, call, placement, hidden=hidden)
        self._running = Running(generator, placement, extras)
        return (), call

    def _remove(self, _body: nn.Module, _args: Any, output: Any) -> Any:
        running, self._running = self._running, None
        if running is None or not running.makes:
            return None
        cache = getattr(output, "past_key_values", None)
        if cache is not None:
            setattr(cache, _NOTE, (running.placement, running.extras))
        if running.placement is None:
            return None
        return without_prompt(output, running.placement, keep_in_front=self.trunk.decoder is not None)

    def _before_layer(
        self, index: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> _Arguments | None:
        """The layer's arguments with its prompt added to, or in place of, what the prompt's positions hold, or with
        extra keys and values."""
        running = self._running
        if running is None or index < running.generator.config.first_layer:
            return None
        config, states_at = running.generator.config, ("hidden_states", 0)
        hidden = argument_of(states_at, args, kwargs)
        if config.insertion == "key_value":
            if (prompt := running.prompt(index, hidden)) is not None:
                running.extras[index] = extra_keys.project(layer, prompt)
            extra = running.extras.get(index)
            return None if extra is None else (args, {**kwargs, extra_keys.ARGUMENT: extra})
        if config.first_layer > 0:
            by_name = "attention_mask" in kwargs
            mask_at = ("attention_mask", 0) if by_name else argument_place(type(layer).forward, ("attention_mask",))
            mask = self._showing_prompt(argument_of(mask_at, args, kwargs), running)
            args, kwargs = with_argument(mask_at, mask, args, kwargs)
        # The lowest layer's prompt is among the embeddings.
        if index > 0 and (prompt := running.prompt(index, hidden)) is not None:
            assert running.placement is not None
            adds = config.insertion == "add" and index > config.first_layer
            args, kwargs = with_argument(states_at, running.placement.write(hidden, prompt, add=adds), args, kwargs)
        return args, kwargs

    def _extend_cross(self, _decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Arguments | None:
        states, mask = kwargs.get("encoder_hidden_states"), kwargs.get("encoder_attention_mask")
        generator = self._active_generator()
        inserted = generator.config.inserted if generator is not None else 0
        if not inserted or states is None or mask is None or states.shape[1] != mask.shape[1] + inserted:
            return None
        longer = torch.cat([mask.new_ones(len(mask), inserted), mask], 1)
        return args, {**kwargs, "encoder_attention_mask": longer}

    def _active_generator(self) -> PromptGenerator | None:
        return next(self.active_parts(), None)

    def _showing_prompt(self, covered: Any, running: Running) -> Tensor:
        """The attention mask of a layer in which the prompt can be seen, made once for all layers that share it."""
        if id(covered) not in running.shown:
            assert running.placement is not None
            running.shown[id(covered)] = showing_prompt(covered, running.placement, causal=self.trunk.causal)
        return running.shown[id(covered)]

    # -- the body's inputs ---------------------------------------------------------------------------------

    def _start(self, call: dict[str, Any], generator: PromptGenerator) -> dict[str, Any]:
        config, embeds, mask = generator.config, self.trunk.embed(call), call.get("attention_mask")
        if mask is not None and getattr(mask, "ndim", 0) != 2:
            raise ValueError("an instance prompt needs an attention mask of shape (batch, tokens), or none")
        self.trunk.check_room(embeds.shape[1], config.inserted)
        full = ones_mask(embeds) if mask is None else mask
        last = self._last(full)
        vectors = self._vectors(call, config, embeds, full, last)
        running = self._running = Running(generator, makes=True, vectors=vectors, mask=full, last=last)
        if not config.inserted:
            # Keys that are made do not turn with their position, so that those of the text must not count padding.
            if mask is not None and call.get("position_ids") is None and (at := self.trunk.positions(full)) is not None:
                return {**call, "position_ids": at}
            return call
        assert config.position is not None
        at = insertion_columns(config.position, full, call.get("input_ids"), config.separator_token_id)
        placement = running.placement = Placement(at, embeds.shape[1], config.inserted, config.margin)
        hidden = config.first_layer > 0
        prompt = None if hidden else running.prompt(0, embeds)
        if prompt is None:
            prompt = embeds.new_zeros(len(embeds), config.prompt_length, embeds.shape[2])
        if config.margin:
            assert config.separator_token_id is not None
            separator_ids = torch.full((1, config.margin), config.separator_token_id, device=embeds.device)
            separator = self.trunk.embed({"input_ids": separator_ids}).to(embeds.dtype).expand(len(embeds), -1, -1)
            prompt = torch.cat([separator, prompt, separator], 1)
        running.last = placement.moved(last)
        running.mask = placement.insert(full, full.new_zeros(len(full), config.inserted))
        return with_prompt(self.trunk, call, embeds, prompt, placement, hidden=hidden)

    # -- sentence vectors ----------------------------------------------------------------------------------

    def _last(self, mask: Tensor) -> Tensor:
        """(B,) column that the sentence vector may reach up to."""
        if self._prompt_columns is not None:
            return last_columns(mask[:, : self._prompt_columns])
        if self._context_end is not None:
            return self._context_end.to(mask.device)
        if self.trunk.predicts_tokens and self._given_vectors is None:
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
        self, call: dict[str, Any], config: ConfigurationOptions, embeds: Tensor, mask: Tensor, last: Tensor
    ) -> Tensor | None:
        """The sentence vectors (B, g) that the first prompt is made from; None takes the running hidden states."""
        given = self._given_vectors
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
            stored = self.store.of_tokens(call["input_ids"], mask, until, segments)
            if stored is not None:
                return stored.to(embeds.device)
        if config.vector_source == "given":
            raise ValueError(
                "this instance prompt is made from given vectors: pass sentence_vectors of shape (batch, width)"
            )
        with nullcontext() if config.first_pass_dropout else evaluating(self.trunk.module):
            return bare_pass(self.trunk, call, mask, str(config.pooling), last)
