"""Recorded gates as sections of the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from luthier.report.sections import Bands, Section
from luthier.tuning.unipelt.layer import UniPELTLayer
from luthier.tuning.unipelt.record import GateRecord


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


@contextmanager
def record_gates(model: nn.Module) -> Iterator[GateRecord]:
    """Record the values of all learned gates while the context is open; outside of it nothing is kept.

    Args:
        model: with UniPELT adapters.

    Raises:
        ValueError: it has none.
    """
    layers = [module for module in model.modules() if isinstance(module, UniPELTLayer)]
    if not layers:
        raise ValueError("the model has no UniPELT adapter whose gates could be recorded")
    record = GateRecord()
    base: Any = model
    base = base.get_base_model() if hasattr(base, "get_base_model") else base
    handle = base.register_forward_pre_hook(record._begin)
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
