"""Recorded gates as sections of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def gate_sections(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One section with a plot for every stack of layers.

    Args:
        rows: as of `GateRecord.rows`.
    """
    stacks = dict.fromkeys(row["stack"] for row in rows)
    return [_section(stack, [row for row in rows if row["stack"] == stack]) for stack in stacks]


def _section(stack: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    series: dict[str, list[list[float]]] = {}
    for row in rows:
        series.setdefault(_name(row["gate"]), []).append([row["layer"], row["mean"], row["deviation"]])
    examples = max(row["examples"] for row in rows)
    return {
        "title": f"Gates by layer, {stack}" if stack else "Gates by layer",
        "text": f"Mean of every gate over {examples} validation examples, in a band of one standard deviation. A gate "
        "of 0 shuts its part off, and one of 1 lets all of it through; training starts near 0.5.",
        "plot": {"kind": "bands", "series": series, "x_label": "layer, from 0", "y_label": "gate"},
    }


def _name(gate: str) -> str:
    """`lora-self-query` -> `lora query`: self-attention goes without saying."""
    return " ".join(part for part in gate.split("-") if part != "self")
