"""What a dry run says of time and memory."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import torch

# What the estimates are within on a machine that does nothing else; `benchmarks/estimates.py` measures it.
TIME_FACTOR, MEMORY_FACTOR = 3.0, 2.0
# Bytes of a process that has imported what trains and has trained something.
LIBRARIES = 550_000_000
# Numbers of the hidden width that a block of the usual shape keeps of a token for its backward pass.
_KEPT = 36
# Numbers for every word of the vocabulary that a scored token takes: its logits, their softmax, and the gradient.
_SCORED = 3
# Operations that training does in the time in which the optimiser moves a number: it reads and writes four arrays.
_UPDATE = 150
# How often rows are held at a time while they are read, as cells, as columns and as Arrow arrays.
_READING = 5


def memory_estimate(
    total: int,
    trainable: int,
    config: Any,
    tokens: int,
    held: int = 0,
    *,
    backward: bool = True,
    scored: bool = False,
) -> int:
    """Bytes at the highest: libraries, weights, gradients and two moments in float32, and activations of the longest
    batch.

    Reading holds the rows of the data several times for a moment; where that is more, it is the peak.

    Args:
        total, trainable: parameters.
        config: of the model.
        tokens: of the longest batch, padding included.
        held: bytes of the rows.
        backward: whether the gradient comes back through the layers; else one layer's activations are there at a time.
        scored: whether every token has a number for each word of the vocabulary.
    """
    width = getattr(config, "hidden_size", 768)
    layers = getattr(config, "num_hidden_layers", 12) if backward else 1
    activations = 4 * tokens * _KEPT * width * layers
    if scored:
        activations += 4 * tokens * _SCORED * getattr(config, "vocab_size", 0)
    training = 4 * total + 12 * trainable + activations + held
    return int(LIBRARIES + max(training, _READING * held))


def split_states(total: int, whole: int, processes: int) -> int:
    """Bytes in each process of weights, gradients and two moments in float32 that are split over processes: its part of
    them, and what is whole at a time, weights and gradients.

    Args:
        total: parameters.
        whole: as `luthier.training.split.whole_at_once` counts them.
        processes: that have them together.
    """
    return 16 * total // processes + 8 * whole


def gathered_numbers(config: Any, tokens: int) -> int:
    """Numbers of the keys and values of a layer that a process has of whole rows, of which it trains on a slice
    (`luthier.language_modeling.context_parallel`).

    Args:
        config: of transformers.
        tokens: of these rows.
    """
    heads = int(config.num_attention_heads)
    width = int(getattr(config, "head_dim", None) or int(config.hidden_size) // heads)
    return 2 * tokens * width * int(getattr(config, "num_key_value_heads", None) or heads)


def time_estimate(
    model: Any, total: int, tokens: float, steps: int, *, backward: bool = True, length: float = 0.0
) -> float:
    """Seconds, at the speed of a measured matrix product: for each token 2 operations per weight that is multiplied
    forward, 2 where the gradient comes back through it, and 2 per weight that is trained; and in attention 4 for every
    number of the hidden width and every token that is looked at, and twice that backward. The optimiser adds to each
    step.

    Args:
        model: with the parameters that are trained marked.
        total: its parameters.
        tokens: of one optimiser step.
        steps: how many of them.
        backward: whether the gradient comes back through the layers, as it does unless the head alone is trained.
        length: of a row, in tokens.
    """
    embedded = sum(p.numel() for n, p in model.named_parameters() if "embedding" in n or n.endswith("wte.weight"))
    multiplied = total - embedded
    moved = sum(p.numel() for p in model.parameters() if p.requires_grad)
    trained = min(multiplied, moved)
    attended = 4 * length * getattr(model.config, "hidden_size", 768) * getattr(model.config, "num_hidden_layers", 12)
    operations = 2 * multiplied * (2 if backward else 1) + 2 * trained + attended * (3 if backward else 1)
    return (operations * tokens + _UPDATE * moved) * steps / operations_per_second()


def operations_per_second() -> float:
    """Floating-point operations of training that this machine does in a second: half of those of a matrix product. It
    is measured once a process.

    On processors it is the processor time of each thread that counts, so that other work on the machine changes little.
    """
    return _operations_per_second("cuda" if torch.cuda.is_available() else "cpu", torch.get_num_threads())


@cache
def _operations_per_second(device: str, threads: int) -> float:
    a = torch.randn(512, 512, device=device)
    speed = 0.0
    for _ in range(5):
        started, used = time.perf_counter(), time.process_time()
        for _ in range(8):
            a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        wall, each = time.perf_counter() - started, (time.process_time() - used) / threads
        speed = max(speed, 8 * 2 * 512**3 / (wall if device == "cuda" else max(each, 1e-9)))
    return 0.5 * speed
