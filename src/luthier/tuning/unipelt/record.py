"""Reading gates out: which parts a model leans on, by layer and example."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

GateKey = tuple[str, int, str]


@dataclass
class GateRecord:
    """Gate values of the forwards that ran while recording.

    Attributes:
        batches: for each forward of the model, the values (examples,) on the CPU by (stack, layer, gate). stack is
            "encoder" or "decoder" in encoder-decoders, else ""; gate is "adapter", "prefix-self", "lora-self-query",
            "lora-self-value", "bitfit", ... Gates per token are averaged over the text.
    """

    batches: list[dict[GateKey, torch.Tensor]] = field(default_factory=list)

    def note(self, stack: str, layer: int, gate: str, values: torch.Tensor) -> None:
        """File the values of one gate; a layer that gradient checkpointing computes anew files the same again."""
        if not self.batches:
            self.batches.append({})
        self.batches[-1][stack, layer, gate] = values.detach().float().cpu()

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

    def _begin(self, *_: Any) -> None:
        self.batches.append({})


def text_mean(values: torch.Tensor, visible: torch.Tensor | None) -> torch.Tensor:
    """(B, 1 or T, 1) -> (B,): mean over the text; over all positions where the mask is that of another sequence."""
    values = values.detach()[..., 0]
    if visible is None or values.shape[1] != visible.shape[1]:
        return values.mean(dim=1)
    return (values * visible).sum(dim=1) / visible.sum(dim=1).clamp(min=1)
