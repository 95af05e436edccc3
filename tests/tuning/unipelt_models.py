"""Tiny models with UniPELT."""

from __future__ import annotations

from typing import Any

from peft import get_peft_model

from luthier.tuning.unipelt import UniPELTConfig
from tests.tuning.tiny_models import build, shake, task_type

APL = ["adapter", "prefix", "lora"]
SMALL = {"prefix_length": 3, "adapter_bottleneck": 12, "lora_rank": 4}


def tuned(kind: str = "bert", disturb: bool = True, attention: str | None = None, **settings: Any) -> Any:
    parts = settings.setdefault("parts", APL)
    small = {name: value for name, value in SMALL.items() if name != "adapter_bottleneck" or "adapter" in parts}
    if "adapter_reduction" in settings:
        small.pop("adapter_bottleneck", None)
    if "prefix" in parts and settings.get("prefix_projection", True):
        small["prefix_projection_width"] = 16
    config = UniPELTConfig(task_type=task_type(kind), **{**small, **settings})
    model = get_peft_model(build(kind, attention), config).eval()
    if disturb:
        shake(model)
    return model


def layers_of(model: Any) -> list[Any]:
    return list(model.base_model.model.bert.encoder.layer)


def parts_of(layer: Any) -> Any:
    return layer.unipelt.unipelt_parts["default"]
