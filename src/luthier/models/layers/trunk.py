"""The part of a model that reads token ids and gives one hidden state a token, found in any architecture.

Shapes: B examples, T positions, d model width.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from luthier.errors import a_model
from luthier.models.inspect import first_position, is_decoder, table_width
from luthier.models.layers.placement import last_columns

# Decoders that are known as causal language models and see the whole text where they are given no mask of their own.
_BOTH_WAYS = ("xlnet",)
# Encoders with the relative positions of T5 whose texts start with a token that stands for all of them.
_RELATIVE_WITH_FIRST = ("mpnet",)


@dataclass
class Trunk:
    """A frozen body and what has to be known about it.

    Attributes:
        module: what is called with `input_ids` or `inputs_embeds` and returns `last_hidden_state`.
        layers: its blocks, in order.
        decoder: of an encoder-decoder, whose `module` is the encoder; else None.
        causal: whether a position sees only those before it.
        predicts_tokens: whether the model is a causal language model, whose labels are its input.
        width: d, of the hidden states.
        embedding_width: of the token embeddings.
    """

    module: Any
    layers: list[nn.Module]
    decoder: nn.Module | None
    causal: bool
    predicts_tokens: bool
    width: int
    embedding_width: int

    @property
    def config(self) -> Any:
        return self.module.config

    @property
    def pooling(self) -> Literal["first", "last", "mean"]:
        """The token that stands for a text by default."""
        if self.causal:
            return "last"
        return "first" if self.has_first_token else "mean"

    @property
    def has_first_token(self) -> bool:
        """Whether texts start with a token that stands for all of them, as in BERT."""
        return not self.causal and self.decoder is None and not _lacks_first_token(self.module)

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """A call of the body as keyword arguments."""
        return dict(zip(inspect.signature(self.module.forward).parameters, args, strict=False)) | kwargs

    def embed(self, call: dict[str, Any]) -> Tensor:
        """(B, T, d) token embeddings of a call."""
        given = call.get("inputs_embeds")
        return given if given is not None else self.module.get_input_embeddings()(call["input_ids"])

    def positions(self, mask: Tensor) -> Tensor | None:
        """(B, T) mask -> (B, T) position ids counted over real tokens; None where the body takes none."""
        if "position_ids" not in inspect.signature(self.module.forward).parameters:
            return None
        counted, first = mask.long().cumsum(1), first_position(self.config)
        return counted * mask.long() + first - 1 if first else (counted - 1).clamp(min=0)

    def check_room(self, length: int, inserted: int) -> None:
        """Raise ValueError where text and prompt are longer than the positions that the body has learned."""
        table = getattr(getattr(self.module, "embeddings", None), "position_embeddings", None)
        if not isinstance(table, nn.Embedding):
            return
        room = table.num_embeddings - (table.padding_idx + 1 if table.padding_idx is not None else 0)
        if length + inserted > room:
            raise ValueError(
                f"{length} tokens and {inserted} prompt positions are more than the {room} positions of the model: "
                f"cut the text to {room - inserted} tokens"
            )


def find_trunk(model: Any) -> Trunk:
    """The body of a transformers model.

    Raises:
        ValueError: its layers are not found, it has fewer of them than it runs, or no table of token embeddings.
    """
    kind, outer = model.config.model_type, model.base_model
    parts = [part for name in ("encoder", "decoder") if isinstance(part := getattr(outer, name, None), PreTrainedModel)]
    module = parts[0] if parts else outer
    decoder = parts[1] if len(parts) > 1 else None
    layers = _layers(module)
    if not layers:
        raise ValueError(f"no list of {module.config.num_hidden_layers} layers was found in {a_model(kind)}")
    embedding_width = table_width(module)
    if embedding_width is None:
        raise ValueError(f"{a_model(kind)} has no table of token embeddings")
    # Not every decoder says it of its layers: BLOOM, MPT and Mamba do not.
    causal = any(getattr(part, "is_causal", False) is True for part in layers[0].modules()) or _reads_forward(outer)
    predicts = causal and decoder is None and model.get_output_embeddings() is not None
    width = getattr(module.config, "hidden_size", embedding_width)
    return Trunk(module, layers, decoder, causal, predicts, width, embedding_width)


def pool(hidden: Tensor, pooling: str, mask: Tensor, last: Tensor | None = None) -> Tensor:
    """One vector a row: (B, T, d) -> (B, d).

    Args:
        hidden: hidden states.
        pooling: first, last or mean, over real tokens.
        mask: (B, T), 1 at real tokens.
        last: (B,) column that counts as the last one; the end of the text by default.
    """
    last = last_columns(mask) if last is None else last
    if pooling == "mean":
        column = torch.arange(mask.shape[1], device=mask.device)[None]
        weight = (mask.bool() & (column <= last[:, None])).to(hidden.dtype)[..., None]
        return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)
    column = last if pooling == "last" else mask.int().argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), column]


def bare_pass(trunk: Trunk, call: dict[str, Any], mask: Tensor, pooling: str, last: Tensor | None = None) -> Tensor:
    """The sentence vectors (B, d) of a pass without prompts, without gradients.

    Args:
        trunk: the body, in the mode (training or evaluation) that the pass should have.
        call: holds `input_ids` or `inputs_embeds`, and what else of the inputs there is.
        mask: (B, T).
        pooling, last: as in `pool`.
    """
    inputs: dict[str, Any] = {
        k: call[k] for k in ("input_ids", "inputs_embeds", "token_type_ids", "position_ids") if k in call
    }
    if inputs.get("position_ids") is None:
        inputs["position_ids"] = trunk.positions(mask)
    inputs = {k: v for k, v in inputs.items() if v is not None}
    if call.get("attention_mask") is not None:
        inputs["attention_mask"] = mask
    if trunk.causal:
        inputs["use_cache"] = False
    with torch.no_grad():
        # The method itself, not the module's call, so that the hooks which insert prompts stay out of it.
        output = trunk.module.forward(**inputs)
    return pool(output[0], pooling, mask, last)


def _layers(module: Any) -> list[nn.Module]:
    count = module.config.num_hidden_layers
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList) and len(part) == count]
    return list(lists[0]) if lists else []


def _reads_forward(outer: Any) -> bool:
    return is_decoder(outer.config) and outer.config.model_type not in _BOTH_WAYS


def _lacks_first_token(module: Any) -> bool:
    """Of T5, which has none, and of XLNet, whose last token it is."""
    relative = any(hasattr(part, "relative_attention_bias") for part in module.modules())
    return (relative and module.config.model_type not in _RELATIVE_WITH_FIRST) or module.config.model_type in _BOTH_WAYS
