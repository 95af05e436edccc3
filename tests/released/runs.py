"""Whole run directories as `luthier run` writes them, and what is predicted with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luthier.prediction import predict_texts
from tests.released.reading import PAIR_TEXTS, chosen_of, command, predictions_of, vectors_of
from tests.released.tiny import data_file

LORA = {"name": "lora", "rank": 2}
# Name of the run -> model, task, method, further settings of the data, suites.
RUNS: dict[str, tuple[str, str, Any, dict[str, Any], list[Any]]] = {
    "single": ("bert", "single_sentence", LORA, {}, ["task", "calibration", "cost"]),
    "whole-model": ("bert", "single_sentence", {"name": "full"}, {}, ["task"]),
    "decoder-classifier": ("llama", "single_sentence", LORA, {}, ["task"]),
    "pair": ("bert", "pair", {"name": "bottleneck", "bottleneck": 4}, {}, ["task", "calibration"]),
    "regression": ("bert", "regression", LORA, {}, ["task"]),
    "token-labels": ("bert", "token_labels", LORA, {}, ["task"]),
    "multiple-choice": ("bert", "multiple_choice", LORA, {}, ["task"]),
    "extractive-qa": ("bert", "extractive_qa", LORA, {}, ["task"]),
    "plain-text": ("llama", "plain_text", LORA, {"max_length": 24}, ["perplexity"]),
    "prompt-response": (
        "llama",
        "prompt_response",
        {"name": "residual_prompt", "length": 3, "bottleneck": 8},
        {"max_length": 24},
        ["perplexity"],
    ),
    "as-text": (
        "t5",
        "single_sentence",
        {"name": "prompt", "length": 3},
        {"as_text": True, "template": "text : {text}"},
        ["task"],
    ),
    "as-text-generated": (
        "llama",
        "single_sentence",
        LORA,
        {"as_text": True, "label_scoring": "generate", "template": "review : {text}"},
        ["task"],
    ),
    "gated": (
        "bert",
        "single_sentence",
        {"name": "unipelt", "prefix_length": 3, "prefix_projection_width": 8, "lora_rank": 2},
        {},
        ["task"],
    ),
}
ATTACKED = {"name": "robustness", "attacks": [{"kind": "characters", "rows": 8}]}


def data(task: str, **settings: Any) -> dict[str, Any]:
    splits = {split: data_file(task, split) for split in ("train", "validation", "test")}
    return {"task": task, **splits, **settings}


def tune(task: str, method: Any, **more: Any) -> dict[str, Any]:
    settings = {"max_steps": 24, "batch_size": 8, "learning_rate": 0.02, "keep_best": False, "cache_trunk": False}
    if method["name"] == "full":
        settings["learning_rate"] = 0.002
    return {"tune": {"method": method, "data": data(task), **settings, **more}}


def run(name: str, base: str, stages: list[dict[str, Any]], output: str = "tuned", **more: Any) -> Path:
    """Run a recipe by the command line; gives its directory."""
    place = Path(f"{name}.json")
    place.write_text(json.dumps({"name": name, "model": f"bases/{base}", "stages": stages, **more}))
    command("run", str(place), "--output", output, "--quiet", "--no-report")
    place.unlink()
    return Path(output) / name


def make_runs() -> dict[str, dict[str, Any]]:
    """Run them all; gives what each is, and the file to predict."""
    index: dict[str, dict[str, Any]] = {}
    for name, (base, task, method, settings, suites) in RUNS.items():
        stages = [tune(task, method, data=data(task, **settings)), {"evaluate": {"suites": suites}}]
        run(name, base, stages, "runs")
        index[name] = {"kind": "run", "file": data_file(task, "test")}
    run("encoder", "bert", [_represent()], "runs")
    index["encoder"] = {"kind": "encoder", "file": data_file("single_sentence", "test")}
    stages = [tune("single_sentence", LORA), {"evaluate": {"suites": ["task", ATTACKED]}}]
    over = {"stages.0.tune.objective": ["vanilla", "roast"], "seed": [13, 17]}
    run("grid", "bert", stages, "runs", compare={"over": over})
    index["grid"] = {"kind": "comparison"}
    impossible = {"name": "lora", "target_modules": ["nothing"]}
    preset = {"name": "tuning", "methods": ["head_only", "lora", impossible], "seeds": 2, "steps": 8}
    run("preset", "bert", [tune("single_sentence", LORA)], "runs", compare={"preset": preset})
    index["preset"] = {"kind": "comparison"}
    search = {"trials": 3, "space": {"stages.0.tune.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}}}
    run("search", "bert", [tune("single_sentence", LORA)], "runs", compare={"search": search})
    index["search"] = {"kind": "comparison"}
    return index


def _represent() -> dict[str, Any]:
    sources = ("single_sentence", "pair")
    tasks = {name: {"data": data(name)} for name in sources}
    heads = {
        "mood": {"data": data("single_sentence")},
        "deep": {"data": data("single_sentence"), "kind": "mlp", "hidden": 4},
        "same": {"data": data("pair")},
    }
    prefix = {"prefix_length": 3}
    return {"represent": {"tasks": tasks, "heads": heads, "prefix": prefix, "epochs": 2, "batch_size": 8}}


def record_runs(index: dict[str, dict[str, Any]]) -> None:
    """Write what is predicted, the vectors of an encoder, and which settings were chosen, beside the runs.

    Raises:
        ValueError: a label is a near tie, which another machine may decide otherwise.
    """
    from safetensors.numpy import save_file

    expected = {}
    for name, about in index.items():
        if about["kind"] != "comparison":
            expected[name] = predictions_of(f"runs/{name}", about["file"], Path("predictions.jsonl"))
            _refuse_ties(expected[name], name)
    Path("predictions.jsonl").unlink()
    _write("runs/expected.json", expected)
    save_file(vectors_of("runs/encoder", "adapters/task_prefix"), "runs/vectors.safetensors")
    _write("runs/pairs.json", predict_texts("runs/encoder", list(PAIR_TEXTS), list(PAIR_TEXTS[::-1])))
    _write("runs/chosen.json", {name: chosen_of(f"runs/{name}") for name in ("preset", "search")})


def _refuse_ties(rows: list[dict[str, Any]], name: str) -> None:
    for row in rows:
        for answer in (row, *row.get("heads", {}).values()):
            first, second = sorted(answer.get("probabilities", {"": 1, " ": 0}).values())[-1:-3:-1]
            if first - second < 1e-3:
                raise ValueError(f"{name}: a near tie in {row}")


def _write(place: str, content: Any) -> None:
    Path(place).write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")
