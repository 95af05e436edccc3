"""Gates before the trained parts of a layer, and reading them out: which parts a model leans on, by layer and example,
and the sections of the report on it.

Shapes: B examples, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from luthier.models.inspect import base_of
from luthier.report.sections import Bands, Section

Pooling = Callable[[torch.Tensor], torch.Tensor]
GateKey = tuple[str, int, str]


def pooling_of(kind: str, visible: torch.Tensor | None, dtype: torch.dtype) -> Pooling:
    """The function that makes values (B, T, n) of the tokens one for each example, (B, 1, n).

    Args:
        kind: mask_aware, the mean over the text; all, that over all positions; first_token, the text's first; or
            per_token, which leaves the values as they are.
        visible: (B, T), true for text; None where there is no padding.
        dtype: of the weights.
    """
    if kind == "per_token":
        return lambda values: values
    if visible is None and kind == "first_token":
        return lambda values: values[:, :1]
    if visible is None or kind == "all":
        return lambda values: values.mean(dim=1, keepdim=True)
    text = visible.to(dtype)
    if kind == "first_token":
        weights = F.one_hot(visible.to(torch.int8).argmax(dim=1), visible.shape[1]).to(dtype)
    else:
        weights = text / text.sum(dim=1, keepdim=True).clamp(min=1)
    return lambda values: weights[:, None].to(values.dtype) @ values


class Gate(nn.Module):
    """pool(sigmoid(w x_t + b)); starts near one half.

    Source: Mao et al., ACL 2022 (UniPELT), section 3.2; the order of sigmoid and mean is that of the released code.
    """

    outputs = 1

    def __init__(self, width: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(self.outputs, width, device=device, dtype=dtype).normal_(std=0.02))
        self.bias = nn.Parameter(torch.zeros(self.outputs, device=device, dtype=dtype))

    def forward(self, states: torch.Tensor, pool: Pooling) -> torch.Tensor:
        """(B, T, D) -> (B, 1, 1), or (B, T, 1) per token."""
        return pool(torch.sigmoid(F.linear(states.to(self.weight.dtype), self.weight, self.bias)))


class CentralGate(Gate):
    """softmax(pool(relu(W x_t + b))) over two outputs: the shares of two parts."""

    outputs = 2

    def forward(self, states: torch.Tensor, pool: Pooling) -> torch.Tensor:
        """(B, T, D) -> (B, 1, 2), or (B, T, 2) per token."""
        return pool(F.relu(F.linear(states.to(self.weight.dtype), self.weight, self.bias))).softmax(dim=-1)


@dataclass
class GateRecord:
    """Gate values of the forwards that ran while recording.

    Attributes:
        batches: for each forward of the model, the values (examples,) on the CPU by (stack, layer, gate). stack is
            "encoder" or "decoder" in encoder-decoders, else ""; gate is "adapter", "prefix-self", "lora-self-query",
            "lora-self-value", "bitfit", ..., or "central-self-query", "central-self-prefix", ... for the shares of a
            central gate. Gates per token are averaged over the text.
    """

    batches: list[dict[GateKey, torch.Tensor]] = field(default_factory=list)

    def begin(self, *_: Any) -> None:
        """A hook before the model's forward: what is noted from now on belongs to another batch."""
        self.batches.append({})

    def note(self, stack: str, layer: int, gate: str, values: torch.Tensor, visible: torch.Tensor | None) -> None:
        """File the values of one gate; a layer that gradient checkpointing computes anew files the same again.

        Args:
            values: (B, 1 or T, 1).
            visible: (B, T), true for text. Values of another sequence are averaged over all its positions.
        """
        values = values.detach()[..., 0]
        if visible is None or values.shape[1] != visible.shape[1]:
            means = values.mean(dim=1)
        else:
            means = (values * visible).sum(dim=1) / visible.sum(dim=1).clamp(min=1)
        if not self.batches:
            self.begin()
        self.batches[-1][stack, layer, gate] = means.float().cpu()

    def values(self) -> dict[GateKey, torch.Tensor]:
        """All values (examples over all batches,) by (stack, layer, gate)."""
        keys = dict.fromkeys(key for batch in self.batches for key in batch)
        return {key: torch.cat([batch[key] for batch in self.batches if key in batch]) for key in keys}

    def rows(self) -> list[dict[str, Any]]:
        """One row for each gate: stack, layer, gate, examples, mean, deviation, lowest, highest."""
        return [
            {
                "stack": stack,
                "layer": layer,
                "gate": gate,
                "examples": len(values),
                "mean": float(values.mean()),
                "deviation": float(values.std(correction=0)),
                "lowest": float(values.min()),
                "highest": float(values.max()),
            }
            for (stack, layer, gate), values in self.values().items()
        ]


class GatedLayer(nn.Module):
    """A layer with gates, which notes their values where it has a record.

    Attributes:
        record: set by `record_gates`.
    """

    record: GateRecord | None = None


@contextmanager
def record_gates(model: nn.Module) -> Iterator[GateRecord]:
    """Record the values of all learned gates while the context is open; outside of it nothing is kept.

    Args:
        model: with layers that have gates.

    Raises:
        ValueError: it has none.
    """
    layers = [module for module in model.modules() if isinstance(module, GatedLayer)]
    if not layers:
        raise ValueError("the model has no gates that could be recorded")
    record = GateRecord()
    handle = base_of(model).register_forward_pre_hook(record.begin)
    for layer in layers:
        layer.record = record
    try:
        yield record
    finally:
        handle.remove()
        for layer in layers:
            layer.record = None


@torch.no_grad()
def gate_report(model: nn.Module, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The gates on one batch in evaluation mode, as `GateRecord.rows`; the model's mode is put back.

    Args:
        batch: keyword arguments of the model's forward.
    """
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with record_gates(model) as record:
            model(**batch)
    finally:
        for module, mode in training.items():
            module.training = mode
    return record.rows()


def gate_sections(rows: Sequence[dict[str, Any]]) -> list[Section]:
    """One section with a plot for every stack of layers.

    Args:
        rows: as of `GateRecord.rows`.
    """
    stacks = dict.fromkeys(row["stack"] for row in rows)
    return [_section(stack, [row for row in rows if row["stack"] == stack]) for stack in stacks]


def _section(stack: str, rows: Sequence[dict[str, Any]]) -> Section:
    series: dict[str, list[tuple[float, float, float]]] = {}
    for row in rows:
        series.setdefault(_name(row["gate"]), []).append((row["layer"], row["mean"], row["deviation"]))
    examples = max(row["examples"] for row in rows)
    return Section(
        f"Gates by layer, {stack}" if stack else "Gates by layer",
        text=f"Mean of every gate over {examples} validation examples, in a band of one standard deviation. A gate "
        "of 0 shuts its part off, and one of 1 lets all of it through; training starts near 0.5.",
        plot=Bands(series, x_label="layer, from 0", y_label="gate"),
    )


def _name(gate: str) -> str:
    """`lora-self-query` -> `lora query`: self-attention goes without saying."""
    return " ".join(part for part in gate.split("-") if part != "self")
