"""Scores that a language model had before it was tuned, beside those that it has, on the same rows."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from luthier.cli.arguments import main
from luthier.evaluation.untuned import worse_than_untuned
from luthier.report import comparison_table, read_run
from luthier.report.html import render
from luthier.report.terminal import print_details
from luthier.report.text import number_text
from tests.models.builders import llama_config, save_tiny

WORDS = "a good bad film was very not it the plot".split()


def metrics_of(
    folder: Path, tune: dict[str, Any], evaluate: dict[str, Any] | None = None, length: int = 50
) -> dict[str, Any]:
    model = folder / "llama"
    if not model.exists():
        save_tiny("LlamaForCausalLM", llama_config(), model, bos_token="<s>", eos_token="</s>")
        rows = [{"text": " ".join(WORDS[(n + i * (1 + n // 9)) % 9] for i in range(9))} for n in range(12)]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {
        "train": str(folder / "rows.jsonl"),
        "validation_fraction": 0.5,
        "max_length": length,
        "too_long": "truncate",
    }
    stages: list[dict[str, Any]] = [{"tune": {"data": data, "max_steps": 4, "batch_size": 4, **tune}}]
    if not tune:
        stages, evaluate = [], {"data": data, **(evaluate or {})}
    stages.append({"evaluate": {"suites": ["perplexity"], **(evaluate or {})}})
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps({"name": "run", "model": str(model), "stages": stages}))
    assert main(["run", str(recipe), "--output", str(folder), "--quiet", "--no-report"]) == 0
    file = folder / "run" / f"{len(stages) - 1:02d}-evaluate" / "metrics.json"
    return dict(json.loads(file.read_text()))


# A prompt of 20 vectors leaves blocks of 30 tokens.
@pytest.mark.parametrize(("method", "length"), [("lora", 50), ("full", 50), ("prompt", 30)])
def test_they_are_those_of_the_base_judged_alone(tmp_path: Path, method: str, length: int):
    alone = metrics_of(tmp_path, {}, length=length)
    assert "untuned" not in alone["details"]
    tuned = metrics_of(tmp_path, {"method": method, "learning_rate": 0.01})
    before = tuned["details"]["untuned"]
    assert before.keys() == {"validation/perplexity", "validation/loss"}
    assert before == pytest.approx(alone["scores"], rel=1e-5)
    assert tuned["scores"]["validation/perplexity"] != pytest.approx(before["validation/perplexity"], rel=1e-5)


def test_they_are_shown_in_the_terminal_and_on_the_page_and_can_be_left_out(tmp_path: Path):
    metrics = metrics_of(tmp_path, {"method": "lora"})
    run = read_run(tmp_path / "run")
    console = Console(file=StringIO(), width=200)
    print_details(comparison_table([run]), console)
    terminal = console.file.getvalue()  # type: ignore[attr-defined]
    for text in (terminal, render([run])):
        assert "before tuning on validation" in text.replace("<wbr>", "")
        assert number_text(metrics["details"]["untuned"]["validation/perplexity"]) in text
    assert "untuned" not in metrics_of(tmp_path, {"method": "lora"}, {"untuned": False})["details"]


def test_a_model_that_tuning_made_worse_is_marked():
    scores = {"perplexity": 12.0, "accuracy": 0.5, "loss": 1.0}
    assert worse_than_untuned(scores, {"perplexity": 11.0, "accuracy": 0.6, "loss": 1.0}) == [
        "worse than before tuning by perplexity, accuracy"
    ]
    assert worse_than_untuned(scores, {"perplexity": 13.0, "accuracy": 0.4}) == []
