"""Where the parts of a transformer layer are: its attention modules with their projections, its feed-forward output
and its last norm, found by the names that transformers' architectures use."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import nn

from luthier.errors import a_model

_SELF_ATTENTION = ("attention.self", "self_attn", "attn", "attention", "layer.0.SelfAttention")
_CROSS_ATTENTION = ("crossattention.self", "encoder_attn", "layer.1.EncDecAttention")
_PROJECTIONS = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("q", "k", "v"),
    ("query_proj", "key_proj", "value_proj"),
)
_FUSED = ("Wqkv", "qkv_proj", "c_attn")
_ATTENTION_OUTPUT = (
    "attention.output.dense",
    "self_attn.o_proj",
    "self_attn.out_proj",
    "self_attn.dense",
    "attn.Wo",
    "attn.c_proj",
    "attention.out_lin",
    "layer.0.SelfAttention.o",
)
_FEED_FORWARD_OUTPUT = (
    "output.dense",
    "mlp.down_proj",
    "mlp.Wo",
    "mlp.c_proj",
    "mlp.fc2",
    "fc2",
    "ffn.lin2",
    "layer.2.DenseReluDense.wo",
    "layer.1.DenseReluDense.wo",
)
# The norm over feed-forward output plus its input. Models that norm before a sub-layer have no such norm.
_OUTPUT_NORM = ("output.LayerNorm", "output_layer_norm")
_OUTPUT_NORM_OF_BART = "final_layer_norm"
_POSITION_PROJECTIONS = ("pos_key_proj", "pos_query_proj")
_NORMS_BEFORE_ATTENTION = ("input_layernorm", "attn_norm", "ln_1", "self_attn_layer_norm", "layer.0.layer_norm")


@dataclass(frozen=True)
class Projection:
    """The part of a linear layer's output that holds queries, keys or values.

    Attributes:
        path: of the linear layer, below the transformer layer.
        start, stop: the columns; all of them unless the layer makes queries, keys and values at once.
        inputs: width of its input.
    """

    path: str
    start: int
    stop: int
    inputs: int

    @property
    def outputs(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Attention:
    """An attention module of a transformer layer.

    Attributes:
        path: of the module that makes the attention call, below the transformer layer.
        projections: by "query", "key" and "value".
        key_value_heads, head_width: G and d of its keys.
    """

    path: str
    module: nn.Module
    projections: dict[str, Projection]
    key_value_heads: int
    head_width: int


@dataclass(frozen=True)
class Block:
    """A transformer layer.

    Attributes:
        name: its place in the model: bert.encoder.layer.0.
        index: its number within its stack.
        stack: "encoder" or "decoder" in an encoder-decoder, else "".
        stack_name: place of the smallest model that holds the stack; "" is the whole model.
        width: D of its hidden states.
        self_attention, cross_attention: cross_attention is None outside decoders of encoder-decoders.
        attention_output, feed_forward_output: paths of the sub-layers' last linear layers, below the layer.
        output_norm: path of the norm over residual plus feed-forward output, None where the layer has none.
        causal: whether a position sees only those before it.
    """

    name: str
    module: nn.Module
    index: int
    stack: str
    stack_name: str
    width: int
    self_attention: Attention
    cross_attention: Attention | None
    attention_output: str
    feed_forward_output: str
    output_norm: str | None
    causal: bool

    @property
    def attentions(self) -> dict[str, Attention]:
        """By "self" and "cross"."""
        found = {"self": self.self_attention}
        return found if self.cross_attention is None else {**found, "cross": self.cross_attention}

    @property
    def norms_before_attention(self) -> tuple[str, ...]:
        """Paths of norms that run before the self-attention."""
        if self.output_norm is not None:
            return ()
        return tuple(path for path in _NORMS_BEFORE_ATTENTION if _below(self.module, path) is not None)

    @property
    def position_projections(self) -> tuple[str, ...]:
        """Paths of linear layers that read position embeddings and no text (DeBERTa)."""
        names = (f"{self.self_attention.path}.{name}" for name in _POSITION_PROJECTIONS)
        return tuple(path for path in names if _below(self.module, path) is not None)

    def bias_terms(self, skip: tuple[str, ...] = ()) -> dict[str, int]:
        """Size of every bias term of the layer's own modules, by the module's path.

        Args:
            skip: modules left out.
        """
        return {
            path: module.bias.shape[0]
            for path, module in self.module.named_modules()
            if isinstance(module._parameters.get("bias"), nn.Parameter) and path not in skip and "_parts." not in path
        }


def find_blocks(model: Any) -> list[Block]:
    """The transformer layers of a model, in order; an encoder's before its decoder's.

    Raises:
        ValueError: no layer with attention and feed-forward parts of known names is found.
    """
    stacks = {name: m for name, m in model.named_modules() if hasattr(m, "config") and hasattr(m, "post_init")}
    blocks: list[Block] = []
    for list_name, layers in model.named_modules():
        if isinstance(layers, nn.ModuleList):
            stack_name = max((name for name in stacks if _inside(list_name, name)), key=len, default="")
            stack = stacks.get(stack_name, model)
            for index, layer in enumerate(layers):
                found = _block(f"{list_name}.{index}", layer, index, stack_name, stack, model)
                if found is not None:
                    blocks.append(found)
    if not blocks:
        kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        raise ValueError(
            f"the layers of {a_model(kind)} are not of a known make: "
            "no attention with query, key and value projections beside a feed-forward part was found"
        )
    return blocks


def argument_place(function: Any, names: tuple[str, ...]) -> tuple[str, int]:
    """Name and position (without self) of the first argument of a method that has one of these names.

    Raises:
        ValueError: it has none of them.
    """
    arguments = [name for name in inspect.signature(function).parameters if name != "self"]
    for name in names:
        if name in arguments:
            return name, arguments.index(name)
    raise ValueError(f"{function.__qualname__} has no argument called {' or '.join(names)}")


def _block(name: str, layer: nn.Module, index: int, stack_name: str, stack: Any, model: Any) -> Block | None:
    config = stack.config
    attention = _attention(layer, _SELF_ATTENTION, config)
    last_of_attention = _first(layer, _ATTENTION_OUTPUT)
    last_of_feed_forward = _first(layer, _FEED_FORWARD_OUTPUT)
    if attention is None or last_of_attention is None or last_of_feed_forward is None:
        return None
    norms = (*_OUTPUT_NORM, _OUTPUT_NORM_OF_BART) if config.model_type == "bart" else _OUTPUT_NORM
    half = ""
    if getattr(model.config, "is_encoder_decoder", False):
        half = "decoder" if "decoder" in name.split(".") else "encoder"
    return Block(
        name=name,
        module=layer,
        index=index,
        stack=half,
        stack_name=stack_name,
        width=attention.projections["query"].inputs,
        self_attention=attention,
        cross_attention=_attention(layer, _CROSS_ATTENTION, config),
        attention_output=last_of_attention,
        feed_forward_output=last_of_feed_forward,
        output_norm=_first(layer, norms),
        causal=bool(getattr(attention.module, "is_causal", False)),
    )


def _attention(layer: nn.Module, paths: tuple[str, ...], config: Any) -> Attention | None:
    for path in paths:
        module = _below(layer, path)
        projections = {} if module is None else _projections(module, path, config)
        if projections:
            assert module is not None
            width = _head_width(module, config)
            return Attention(path, module, projections, projections["key"].outputs // width, width)
    return None


def _projections(module: nn.Module, path: str, config: Any) -> dict[str, Projection]:
    for names in _PROJECTIONS:
        layers = [getattr(module, name, None) for name in names]
        if all(isinstance(layer, nn.Module) for layer in layers):
            return {
                role: Projection(f"{path}.{name}", 0, *reversed(_sizes(layer)))
                for role, name, layer in zip(("query", "key", "value"), names, layers, strict=True)
            }
    for name in _FUSED:
        layer = getattr(module, name, None)
        if isinstance(layer, nn.Module):
            inputs, outputs = _sizes(layer)
            heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
            width = heads * _head_width(module, config)
            queries = outputs - 2 * width
            return {
                "query": Projection(f"{path}.{name}", 0, queries, inputs),
                "key": Projection(f"{path}.{name}", queries, queries + width, inputs),
                "value": Projection(f"{path}.{name}", queries + width, outputs, inputs),
            }
    return {}


def _sizes(layer: Any) -> tuple[int, int]:
    """(inputs, outputs) of a linear layer, or of GPT-2's transposed one."""
    if hasattr(layer, "in_features"):
        return layer.in_features, layer.out_features
    return tuple(layer.weight.shape)


def _head_width(module: nn.Module, config: Any) -> int:
    for name in ("head_dim", "attention_head_size", "key_value_proj_dim"):
        if isinstance(width := getattr(module, name, None), int):
            return width
    return int(config.hidden_size // config.num_attention_heads)


def _first(layer: nn.Module, paths: tuple[str, ...]) -> str | None:
    return next((path for path in paths if _below(layer, path) is not None), None)


def _below(layer: nn.Module, path: str) -> nn.Module | None:
    module: Any = layer
    for part in path.split("."):
        module = module._modules.get(part) if isinstance(module, nn.Module) else None
    return module


def _inside(name: str, ancestor: str) -> bool:
    return not ancestor or name.startswith(f"{ancestor}.")
