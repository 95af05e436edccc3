"""A PEFT tuner that leaves every module of the model where it is: it attaches one child to each transformer layer,
which holds the trained parts and acts through forward hooks.

So names, attribute look-ups and types inside the model stay those of the model, which architectures with unlike
layers need. The hooks sit on modules inside the layer wherever they must run again when gradient checkpointing
computes the layer anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import PeftType
from torch import nn

from luthier.models.layers.blocks import Block, find_blocks


class AttachedLayer(nn.Module, BaseTunerLayer):
    """The trained parts of one transformer layer (or of a whole stack), by adapter name.

    Args:
        host: the module that it is attached to.
        parts_name: attribute of the parts; contains the tuner's prefix, by which PEFT knows trained parameters.
    """

    def __init__(self, host: nn.Module, parts_name: str) -> None:
        super().__init__()
        # In a tuple, so that the host does not become a child of its child.
        self._host = (host,)
        self._handles: dict[tuple[str | int, str], Any] = {}
        self.adapter_layer_names: tuple[str, ...] = (parts_name,)
        self.other_param_names: tuple[str, ...] = ()
        self.merged_adapters: list[str] = []
        setattr(self, parts_name, nn.ModuleDict())

    @property
    def parts(self) -> nn.ModuleDict:
        """The trained parts by adapter name."""
        found: nn.ModuleDict = getattr(self, self.adapter_layer_names[0])
        return found

    def active_parts(self) -> Iterator[Any]:
        """The parts of the active adapters, none while adapters are disabled."""
        if not self.disable_adapters:
            parts = self.parts
            active: Any = self.active_adapters
            for name in active:
                if name in parts:
                    yield parts[name]

    def hook(self, place: str | nn.Module, kind: str, function: Callable[..., Any]) -> None:
        """Put a forward hook on a module, once for each place and kind.

        Args:
            place: path of the module below the host, or a module outside of it.
            kind: "before" (called with module, args, kwargs) or "after" (with module, args, output).
            function: a method of this object, so that a copy of the model calls the copy.
        """
        key = place if isinstance(place, str) else id(place), kind
        if key in self._handles:
            return
        module = self._host[0].get_submodule(place) if isinstance(place, str) else place
        if kind == "before":
            handle = module.register_forward_pre_hook(function, with_kwargs=True)
        else:
            # In front of the hooks that record hidden states, which should see the tuned ones.
            handle = module.register_forward_hook(function, prepend=True)
        self._handles[key] = handle

    def hook_output(self, norm: str | None) -> None:
        """Have `adapted` asked at the end of the host, a transformer layer.

        Args:
            norm: path of the norm over residual plus feed-forward output, None where the layer has none.
        """
        self.hook(norm or "", "after", self._after_layer if norm is None else self.after_norm)

    def adapted(self, total: torch.Tensor, states: torch.Tensor) -> torch.Tensor | None:
        """What adapters make of the end of a layer, (B, T, D): total + A(states), None where none is active.

        Args:
            total: what leaves the layer, or goes into its last norm.
            states: what leaves the layer.
        """
        return None

    def after_norm(self, norm: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        """The hook behind a layer's last norm N: N(total + A(N(total))) in the place of N(total)."""
        summed = self.adapted(args[0], output)
        # The norm's own forward: its call would run this hook again.
        return output if summed is None else norm.forward(summed)

    def _after_layer(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        states, *others = output if isinstance(output, tuple) else (output,)
        summed = self.adapted(states, states)
        if summed is None:
            return output
        return (summed, *others) if isinstance(output, tuple) else summed

    def detach(self) -> None:
        """Take all hooks off."""
        for handle in self._handles.values():
            handle.remove()
        self._handles.clear()

    def get_base_layer(self) -> nn.Module:
        return self._host[0]

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise ValueError(NO_MERGE)

    def unmerge(self) -> None:
        raise ValueError(NO_MERGE)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return False

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        if adapter_name in self.parts:
            self.parts[adapter_name].to(device or placement(self._host[0])[0])


NO_MERGE = (
    "these adapters can't be merged into the model: their non-linear layers and gates depend on the input, which no "
    "change of the model's own weights can express; keep the adapter beside the model (save_pretrained), or take it "
    "off with unload()"
)


@dataclass
class AttachedConfig(PeftConfig):
    """What the configurations of attached tuners have in common.

    A subclass also inherits from its `luthier.methods.options.Options`, which come first, and sets `adapter_type`.

    Raises:
        ValueError: a value out of range, or an option that would have no effect.
    """

    adapter_type: ClassVar[str]
    # PEFT reads this from every tuner's configuration; an attached tuner finds its place in the model by itself.
    target_modules: ClassVar[str | None] = None

    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules outside the tuner's parts that are trained and saved: the task head."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType[self.adapter_type]
        self.check()

    def check(self) -> None:
        """Raise ValueError where an option is wrong; the options define it."""


class AttachedTuner(BaseTuner):
    """Attaches an `AttachedLayer` to every transformer layer that a configuration asks for.

    A subclass sets `prefix`, `child_name` and `parts_name`, which begins with the prefix, and defines `attach`.
    """

    tuner_layer_cls = AttachedLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}
    child_name: ClassVar[str]
    parts_name: ClassVar[str]

    def attach(self, block: Block, config: Any, adapter_name: str) -> None:
        """Make the parts of one adapter for one transformer layer."""
        raise TypeError(f"{type(self).__name__} does not define attach()")

    def wanted(self, blocks: list[Block], config: Any) -> list[Block]:
        """The layers that get parts under this configuration."""
        return blocks

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        return peft_config

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        blocks = find_blocks(model)
        deepest = max(block.index for block in blocks) + 1
        dropped = getattr(peft_config, "drop_first_layers", 0)
        if dropped >= deepest:
            raise ValueError(f"drop_first_layers is {dropped}, but the model has {deepest} layers")
        self._blocks = {block.name: block for block in self.wanted(blocks, peft_config)}

    def _check_target_module_exists(self, peft_config: Any, key: str) -> bool:
        return key in self._blocks

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        self.attach(self._blocks[current_key], peft_config, adapter_name)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        self.refuse_clashing_names(model)

    def refuse_clashing_names(self, model: nn.Module) -> None:
        """Raise ValueError where an adapter is called as a part of the model is."""
        names: set[str] = set()
        for name, _ in model.named_parameters():
            outside, _, inside = name.partition(f".{self.parts_name}.")
            if ".modules_to_save." not in name:
                names |= {*outside.split("."), *inside.split(".")[1:]}
        clash = sorted(names & set(self.peft_config))
        if clash:
            raise ValueError(
                f"an adapter can't be called {clash[0]!r}, as a part of the model is: PEFT finds an adapter's "
                "parameters by its name"
            )

    def child_of(self, host: nn.Module, make: Callable[[], AttachedLayer]) -> Any:
        """The host's attached layer, made when it has none."""
        if self.child_name not in host._modules:
            child = make()
            child.train(host.training)
            host.add_module(self.child_name, child)
        return host._modules[self.child_name]

    def merge_and_unload(self, *args: Any, **kwargs: Any) -> nn.Module:
        raise ValueError(NO_MERGE)

    def merge_adapter(self, *args: Any, **kwargs: Any) -> None:
        raise ValueError(NO_MERGE)

    def unload(self) -> nn.Module:
        """The base model without any trace of the adapters."""
        for host in list(self.model.modules()):
            child = host._modules.get(self.child_name)
            if isinstance(child, AttachedLayer):
                child.detach()
                del host._modules[self.child_name]
        model: nn.Module = super().unload()
        return model

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # Only saved heads are ever replaced here; PEFT's own would look for a weight in them.
        setattr(parent, child_name, new_module)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        parts = f".{cls.parts_name}."
        if parts in key:
            return key.replace(f"{parts}{adapter_name}.", parts, 1)
        shorter: str = super()._remove_adapter_name_from_key(key, adapter_name)
        return shorter


def placement(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device of a module, and the dtype that parameters beside it should have: float32 beside quantised weights."""
    parameter = next(module.parameters())
    return parameter.device, parameter.dtype if parameter.is_floating_point() else torch.float32


def argument_of(place: tuple[str, int], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The argument of a call at the place that `argument_place` found, None where it was not given."""
    name, position = place
    return kwargs[name] if name in kwargs else (args[position] if position < len(args) else None)


def with_argument(place: tuple[str, int], value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The arguments of a call, (args, kwargs), with this value at the place that `argument_place` found."""
    name, position = place
    if name in kwargs or position >= len(args):
        return args, {**kwargs, name: value}
    return (*args[:position], value, *args[position + 1 :]), kwargs


def visible_tokens(mask: torch.Tensor | None, multiplicative: bool = False) -> torch.Tensor | None:
    """Which positions hold text, from the mask that an attention module gets.

    A token that may look at itself is text: the diagonal holds the padding whatever else a mask hides (the future, or
    what lies outside of a window).

    Args:
        mask: None; (B, S); or (B, 1, T, S), boolean, or added to the scores.
        multiplicative: a floating-point mask holds 1 for visible and 0 for hidden (DeBERTa) instead.

    Returns:
        (B, T), or None where nothing is hidden.
    """
    if mask is None:
        return None
    if mask.ndim == 4:
        mask = mask[:, 0].diagonal(offset=mask.shape[3] - mask.shape[2], dim1=1, dim2=2)
    return mask >= 0 if mask.is_floating_point() and not multiplicative else mask.bool()
