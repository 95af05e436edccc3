"""Run directories as the runner leaves them, for the report's tests."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

METHODS = ("full", "lora", "prompt", "residual_prompt")
TRAINED = dict(zip(METHODS, (22_713_986, 295_682, 8_450, 313_362), strict=True))
HOSTILE = "<script>alert(1)</script></style>&\u202eevil\x00" + "long" * 60
BINS = [
    {"low": n / 5, "high": (n + 1) / 5, "confidence": n / 5 + 0.1, "accuracy": n / 5 + 0.06, "count": 20 * n}
    for n in range(5)
]
SECTIONS = [
    {"title": HOSTILE, "text": HOSTILE, "table": {"columns": ["a", HOSTILE], "rows": [[1, HOSTILE], [0.25, None]]}},
    {"title": "Share by set", "plot": {"kind": "bars", "values": {HOSTILE: 0.3, "b": [0.4, 0.5]}}},
    {"title": "Five sides", "plot": {"kind": "radar", "series": {"x": {"clean": 0.5, "shift": 0.2, "noise": 0.9}}}},
    {"title": "Lines", "plot": {"kind": "lines", "series": {"x": [[0, 1], [1, 2]]}, "x_label": "round"}},
    {"title": "Heat", "plot": {"kind": "heatmap", "rows": ["r"], "columns": ["c", "d"], "values": [[1, 2]]}},
    {
        "title": "Of another version",
        "plot": {"kind": "pie"},
        "video": HOSTILE,
        "facts": {"a fact": 3, HOSTILE: HOSTILE},
    },
    {"title": "Empty", "plot": {"kind": "bars", "values": {"a": []}}},
    {"title": "Broken", "table": {"columns": ["a", "b"], "rows": [[1]]}},
    {"title": "Samples", "samples": [HOSTILE, "second", {"prompt": "あ\u3000い", "response": HOSTILE}]},
]


def write_stage(
    folder: Path,
    score: float,
    *,
    done: bool = True,
    method: str = "lora",
    seed: int = 0,
    details: dict[str, Any] | None = None,
) -> None:
    """A tune or evaluate stage; only the first writes learning curves and trained parameters."""
    folder.mkdir(parents=True)
    stage = folder.name[3:]
    split = "validation" if stage == "tune" else "test"
    cost: dict[str, float] = {"total_parameters": 22_713_986, "seconds": 3.5, "peak_memory_bytes": 974_569_472}
    if stage == "tune":
        share = math.log10(TRAINED[method])
        cost |= {"trainable_parameters": TRAINED[method], "seconds": 12.0 * share + seed, "tokens_per_second": 1400.2}
        cost |= {"bytes_on_disk": 4 * TRAINED[method], "peak_memory_bytes": 2e8 * share}
        (folder / "log.jsonl").write_text(_log(score, seed))
    metrics = {
        "stage": stage,
        "scores": {f"{split}/accuracy": score, f"{split}/loss": 1 - score},
        "intervals": {f"{split}/accuracy": [score - 0.02, score + 0.02]},
        "primary": f"{split}/accuracy",
        "cost": cost,
        "details": details or {},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    if done:
        (folder / "done.json").write_text("{}")


def _log(score: float, seed: int) -> str:
    """Loss every 10 steps and a validation score every 20, both levelling off."""
    draw = random.Random(f"{score}/{seed}")
    records: list[dict[str, Any]] = [{"event": "start", "time": 1.0, "step": 0, "epoch": 0.0}]
    for step in range(10, 201, 10):
        loss = 1 - score + 0.5 * math.exp(-step / 40) + draw.gauss(0, 0.008)
        records.append({"event": "log", "time": 2.0, "step": step, "epoch": step / 100, "loss": loss})
        if step % 20 == 0:
            reached = 0.5 + (score - 0.5) * (1 - math.exp(-step / 45)) + draw.gauss(0, 0.003)
            records.append({"event": "evaluate", "step": step, "epoch": step / 100, "validation/accuracy": reached})
    return "".join(json.dumps(record) + "\n" for record in [*records, {"event": "end", "step": 200}])


def cell_folder(run: Path, method: str, seed: int) -> Path:
    return run / "cells" / f"method={method},seed={seed}"


def write_recipe(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(text)


def grid(folder: Path, seeds: tuple[int, ...] = (1, 2, 3), gap: float = 0.01, note: str = "") -> Path:
    """Four methods over seeds; each method beats the one before by `gap`, with seeds moving together."""
    over = json.dumps({"stages.0.tune.method": list(METHODS), "seed": list(seeds)})
    head = f"name: grid\nnote: {json.dumps(note)}\nstages:\n- tune:\n    epochs: 1\n"
    write_recipe(folder, f"{head}compare: {{over: {over}}}\n")
    environment = {
        "python": "3.11.7",
        "libraries": {"torch": "2.13.0", "peft": "0.21.2"},
        "memory_bytes": 25_276_502_016,
    }
    (folder / "environment.json").write_text(json.dumps(environment | {"git_revision": "cf4e9a5", "accelerator": None}))
    for number, method in enumerate(METHODS):
        for seed in seeds:
            cell = cell_folder(folder, method, seed)
            score = 0.7 + gap * number + 0.012 * seed + 0.003 * ((number * seed * seed + seed) % 4)
            write_stage(cell / "00-tune", score, method=method, seed=seed)
            write_recipe(cell, f"name: grid\nseed: {seed}\nstages:\n- tune:\n    method: {method}\n")
            factors = {"stages.0.tune.method": method, "seed": seed}
            (cell / "cell.json").write_text(json.dumps({"factors": factors}))
    return folder


def add_evaluation(run: Path, method: str, seed: int, details: dict[str, Any]) -> None:
    """A second stage for one cell of a grid."""
    cell = cell_folder(run, method, seed)
    write_recipe(cell, f"seed: {seed}\nstages:\n- tune: {{method: {method}}}\n- evaluate: {{}}\n")
    write_stage(cell / "01-evaluate", 0.72, details=details)


def fail(run: Path, method: str, seed: int, error: str) -> None:
    """Turn one cell into one that stopped in its first stage."""
    cell = cell_folder(run, method, seed)
    (cell / "00-tune" / "done.json").unlink()
    (cell / "00-tune" / "metrics.json").unlink()
    (cell / "failed.json").write_text(json.dumps({"error": error}))
