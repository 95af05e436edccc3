"""What a language model writes for held-out rows, on the page beside what the data say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.cli.arguments import main
from luthier.prediction.texts import predict_file
from luthier.report.html import write_report
from tests.models.builders import llama_config, save_tiny

WORDS = "a good bad film was very not it the plot".split()
HOSTILE = "<script>alert(1)</script>"


def prompts() -> list[dict[str, Any]]:
    rows = [{"prompt": f"the {WORDS[n % 9]} {WORDS[n % 7]}", "response": f"it was {WORDS[n % 5]}"} for n in range(12)]
    for row in rows:
        row["response"] += f" {HOSTILE}"
    return rows


def judged(folder: Path, rows: list[dict[str, Any]], suite: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    model = save_tiny("LlamaForCausalLM", llama_config(), folder / "llama", bos_token="<s>", eos_token="</s>")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"train": str(folder / "rows.jsonl"), "validation_fraction": 0.5, "max_length": 32, "too_long": "truncate"}
    stages = [
        {"tune": {"method": "lora", "data": data, "max_steps": 2, "batch_size": 4}},
        {"evaluate": {"suites": ["perplexity", suite]}},
    ]
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps({"name": "run", "model": str(model), "stages": stages}))
    assert main(["run", str(recipe), "--output", str(folder), "--quiet", "--no-report"]) == 0
    return folder / "run", json.loads((folder / "run" / "01-evaluate" / "metrics.json").read_text())


def samples_of(metrics: dict[str, Any]) -> list[dict[str, str]]:
    (found,) = (one for one in metrics["details"]["sections"] if one["title"] == "Answers to held-out rows")
    return list(found["samples"])


def test_answers_are_those_that_predict_gives_beside_what_the_data_say(tmp_path: Path):
    rows = prompts()
    run, metrics = judged(tmp_path, rows, {"name": "answers", "rows": 3, "tokens": 6})
    samples = samples_of(metrics)
    assert len(samples) == 3
    assert len({sample["row"] for sample in samples}) == 3
    asked = [rows[int(sample["row"]) - 1] for sample in samples]
    assert [(one["prompt"], one["in the data"]) for one in samples] == [(r["prompt"], r["response"]) for r in asked]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    answers = [one["response"] for one in predict_file(run, tmp_path / "asked.jsonl")]
    assert all(answers)
    for sample, answer in zip(samples, answers, strict=True):
        assert sample["the model writes"]
        assert answer.startswith(sample["the model writes"])
        assert len(sample["the model writes"].split()) <= 6 < len(answer.split())
        assert sample["it wrote before tuning"]
    page = write_report([run]).read_text(encoding="utf8")
    assert "Answers to held-out rows" in page
    assert samples[0]["the model writes"] in page
    assert HOSTILE not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert metrics["primary"] == "validation/perplexity"


def test_a_plain_text_is_gone_on_with(tmp_path: Path):
    # No two of them are the same, since equal ones stay together where rows are cut for validation.
    rows = [{"text": " ".join(WORDS[(n + i * (1 + n // 9)) % 9] for i in range(9))} for n in range(12)]
    assert len({row["text"] for row in rows}) == 12
    _, metrics = judged(tmp_path, rows, {"name": "answers", "rows": 100, "tokens": 4})
    samples = samples_of(metrics)
    assert len(samples) == 6
    for sample in samples:
        assert f"{sample['text']} {sample['in the data']}" == rows[int(sample["row"]) - 1]["text"]
        assert len(sample["text"].split()) == 3


def test_rows_of_classes_have_no_answers_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": w, "label": w[0]}) + "\n" for w in WORDS))
    data = {"train": str(tmp_path / "rows.jsonl"), "validation_fraction": 0.5, "task": "single_sentence"}
    stages = [{"tune": {"method": "lora", "data": data}}, {"evaluate": {"suites": ["answers"]}}]
    (tmp_path / "recipe.yaml").write_text(json.dumps({"name": "run", "model": "org/model", "stages": stages}))
    assert main(["validate", str(tmp_path / "recipe.yaml")]) == 2
    assert "answers" in capsys.readouterr().err
