"""Run directories as the runner leaves them, for the report's tests."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

METHODS = ("full", "lora", "prompt", "residual_prompt")
HOSTILE = "<script>alert(1)</script></style>&\u202eevil\x00" + "long" * 60


def write_stage(folder: Path, score: float, *, done: bool = True, details: dict[str, Any] | None = None) -> None:
    folder.mkdir(parents=True)
    metrics = {
        "stage": folder.name[3:],
        "scores": {"validation/accuracy": score, "validation/loss": 1 - score},
        "intervals": {"validation/accuracy": [score - 0.02, score + 0.02]},
        "primary": "validation/accuracy",
        "cost": {
            "trainable_parameters": 1000,
            "seconds": 12.5,
            "peak_memory_bytes": 5e8,
            "tokens_per_second": 900,
            "bytes_on_disk": 2e6,
        },
        "details": details or {},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    draw = random.Random(int(1000 * score))
    with (folder / "log.jsonl").open("w") as log:
        for step in range(0, 50, 10):
            log.write(json.dumps({"event": "log", "step": step, "loss": 1 - step / 60 + draw.random() / 10}) + "\n")
        for step in (20, 40):
            log.write(json.dumps({"event": "evaluate", "step": step, "validation/accuracy": score * step / 40}) + "\n")
    if done:
        (folder / "done.json").write_text("{}")


def grid(folder: Path, seeds: tuple[int, ...] = (1, 2, 3), gap: float = 0.01) -> Path:
    """Four methods over seeds; each method beats the one before by `gap`, with seeds moving together."""
    folder.mkdir(parents=True)
    over = json.dumps({"stages.0.tune.method": list(METHODS), "seed": list(seeds)})
    (folder / "recipe.yaml").write_text(f"name: grid\nnote: {json.dumps(HOSTILE)}\ncompare: {{over: {over}}}\n")
    (folder / "environment.json").write_text(json.dumps({"python": "3.11", "libraries": {"torch": "2.13"}}))
    for number, method in enumerate(METHODS):
        for seed in seeds:
            cell = folder / "cells" / f"method={method},seed={seed}"
            write_stage(cell / "00-tune", 0.7 + gap * number + 0.02 * seed + 0.001 * ((number * seed) % 3))
            factors = {"stages.0.tune.method": method, "seed": seed}
            (cell / "cell.json").write_text(json.dumps({"factors": factors}))
    return folder
