"""Values and combinations that the settings of bottleneck adapters, UniPELT and task prefixes may have, checked without
torch."""

from __future__ import annotations

import math
import re
from typing import Any, Literal, get_args

Placement = Literal["pfeiffer", "houlsby"]
Activation = Literal["relu", "gelu", "silu", "tanh"]
Init = Literal["normal", "near_identity", "identity"]
Part = Literal["adapter", "prefix", "lora", "bitfit"]
GatePooling = Literal["mask_aware", "all", "first_token", "per_token"]
Role = Literal["query", "key", "value"]
Site = Literal["encoder", "decoder", "cross"]
GateKind = Literal["learned", "none"]
LEARNED: GateKind = "learned"
NO_GATE: GateKind = "none"
PROJECTION_WIDTH = 512
NETWORK_RATE = 1e-3
# Tasks and heads of a shared encoder are saved under their names.
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
FILE_NAME_RULE = "use letters, digits, `_`, `-` and `.`, 100 at most"


def check_bottleneck(options: Any) -> None:
    """Check the settings of a bottleneck adapter.

    Raises:
        ValueError: a value out of range, or two settings of one thing.
    """
    _one_of(options, placement=Placement, activation=Activation, init=Init)
    _at_least(options, 1, "bottleneck")
    _at_least(options, 0, "drop_first_layers")
    _positive(options, "reduction")
    _fraction(options, "dropout")
    if options.bottleneck is not None and options.reduction is not None:
        raise ValueError("reduction and bottleneck both set the hidden width: give one of them")


def check_unipelt(options: Any) -> None:
    """Check the settings of UniPELT.

    Raises:
        ValueError: a value out of range, two settings of one thing, or one that would have no effect.
    """
    for name, known in (("parts", Part), ("lora_targets", Role), ("prefix_sites", Site)):
        for value in getattr(options, name) or ():
            if value not in get_args(known):
                raise ValueError(f"{name} has {value!r}, but knows only {', '.join(get_args(known))}")
    for name in ("parts", "lora_targets", "prefix_sites"):
        if getattr(options, name) == []:
            raise ValueError(f"{name} is empty")
    if options.gate_pooling is not None:
        _one_of(options, gate_pooling=GatePooling)
    _one_of(options, adapter_activation=Activation, adapter_init=Init)
    _at_least(options, 1, "prefix_length", "prefix_projection_width", "lora_rank", "adapter_bottleneck")
    _at_least(options, 0, "drop_first_layers")
    _positive(options, "lora_alpha", "adapter_reduction")
    _fraction(options, "adapter_dropout")
    if options.adapter_bottleneck is not None and options.adapter_reduction is not None:
        raise ValueError("adapter_reduction and adapter_bottleneck both set the hidden width: give one of them")
    _check_gates(options)
    _check_idle(options)


def check_task_prefix(options: Any) -> None:
    """Check the settings of a task prefix.

    Raises:
        ValueError: a value out of range, or one that would have no effect.
    """
    _at_least(options, 1, "prefix_length", "projection_width")
    _positive(options, "init_std")
    weight = getattr(options, "weight", 1.0)
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight is {weight}, but must be a number from 0 on")
    for name in ("layers", "sites"):
        if getattr(options, name) == []:
            raise ValueError(f"{name} is empty")
    if min(options.layers or [0]) < 0:
        raise ValueError(f"layers has {min(options.layers)}, but layers are counted from 0")
    for site in options.sites or ():
        if site not in get_args(Site):
            raise ValueError(f"sites has {site!r}, but knows only {', '.join(get_args(Site))}")
    if options.projection_width != PROJECTION_WIDTH and not options.projection:
        raise ValueError("projection_width would have no effect without projection: leave it out")


def check_network_rate(options: Any) -> None:
    """Check that the learning rate of the network behind a prefix is set only where there is one.

    Raises:
        ValueError: the rate would have no effect.
    """
    if options.network_learning_rate != NETWORK_RATE and not options.projection:
        raise ValueError("network_learning_rate would have no effect without projection: leave it out")


def gate_of(gates: Any, part: str) -> str | float:
    """The gate of a part: "learned", "none" or a fixed number."""
    gate: str | float = gates.get(part, LEARNED) if isinstance(gates, dict) else gates
    return gate


def _check_gates(options: Any) -> None:
    if isinstance(options.gates, dict):
        stray = [part for part in options.gates if part not in options.parts]
        if stray:
            raise ValueError(f"gates names {', '.join(stray)}, but the parts are {', '.join(options.parts)}")
    for part in options.parts:
        gate = gate_of(options.gates, part)
        number = isinstance(gate, int | float) and not isinstance(gate, bool)
        if not number and gate not in get_args(GateKind):
            raise ValueError(f"the gate of {part} is {gate!r}, but must be learned, none or a number")


def _check_idle(options: Any) -> None:
    parts = set(options.parts)
    learned = any(gate_of(options.gates, part) == LEARNED for part in parts)
    projected = options.prefix_projection and "prefix" in parts
    shares_gate = "lora" in parts and gate_of(options.gates, "lora") == LEARNED
    idle = {
        "gate_pooling": options.gate_pooling is not None and not learned and not options.add_central_gate,
        "shared_lora_gate": options.shared_lora_gate and not shares_gate,
        "add_central_gate": options.add_central_gate and not {"lora", "prefix"} <= parts,
        "prefix_projection_width": options.prefix_projection_width != PROJECTION_WIDTH and not projected,
        "prefix_sites": options.prefix_sites is not None and "prefix" not in parts,
        "drop_first_layers": bool(options.drop_first_layers) and not {"adapter", "prefix"} & parts,
        "adapter_bottleneck": options.adapter_bottleneck is not None and "adapter" not in parts,
        "adapter_reduction": options.adapter_reduction is not None and "adapter" not in parts,
        "adapter_dropout": bool(options.adapter_dropout) and "adapter" not in parts,
    }
    named = [name for name, unused in idle.items() if unused]
    if named:
        raise ValueError(f"{', '.join(named)} would have no effect with these settings: leave it out")


def _one_of(options: Any, **choices: Any) -> None:
    for name, known in choices.items():
        if getattr(options, name) not in get_args(known):
            raise ValueError(f"{name} is {getattr(options, name)!r}, but must be one of {', '.join(get_args(known))}")


def _at_least(options: Any, lowest: int, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value is not None and value < lowest:
            raise ValueError(f"{name} is {value}, but must be at least {lowest}")


def _positive(options: Any, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name} is {value}, but must be above 0")


def _fraction(options: Any, name: str) -> None:
    if not 0 <= getattr(options, name) < 1:
        raise ValueError(f"{name} is {getattr(options, name)}, but must be at least 0 and below 1")
