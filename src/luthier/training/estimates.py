"""What a dry run says of time and memory."""

from __future__ import annotations

import time
from typing import Any

import torch

# What the estimates were within of, in runs of several methods and sizes (benchmarks/estimates.py).
TIME_FACTOR, MEMORY_FACTOR = 3.0, 2.0


def memory_estimate(total: int, trainable: int, config: Any, tokens: int, held: int = 0) -> int:
    """Bytes: weights, gradients and two moments in float32, and activations of the longest batch.

    Activations are counted as 16 numbers of the hidden width per token and layer, which is what a transformer
    block of the usual shape keeps for its backward pass; libraries add about 400 MB.
    """
    width = getattr(config, "hidden_size", 768)
    layers = getattr(config, "num_hidden_layers", 12)
    return int(4 * total + 12 * trainable + 4 * 16 * width * layers * tokens + 400e6)


def time_estimate(model: Any, total: int, tokens: float, steps: int) -> float:
    """Seconds: 6 operations per weight and token that is multiplied, at the speed of a measured matrix product."""
    embedded = sum(p.numel() for n, p in model.named_parameters() if "embedding" in n or n.endswith("wte.weight"))
    return 6 * (total - embedded) * tokens * steps / operations_per_second()


def operations_per_second() -> float:
    """Floating-point operations of training that this machine does in a second: half of those of a matrix product."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(512, 512, device=device)
    for _ in range(2):
        started = time.perf_counter()
        for _ in range(8):
            a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        speed = 8 * 2 * 512**3 / (time.perf_counter() - started)
    return 0.5 * speed
