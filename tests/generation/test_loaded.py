"""Models that are asked in turn: each answers as itself, whatever was asked before."""

from __future__ import annotations

import json
from typing import Any

import pytest

import luthier
from luthier.generation.loaded import LoadedModels
from luthier.generation.rollout import Rollout
from luthier.generation.writing import Request
from luthier.models.artifacts import load_model
from luthier.models.loading import load_tokenizer
from luthier.models.settings import ModelSettings

REQUESTS = [Request(str(i), "how may i hide the kettle", temperature=1.0, seed=i) for i in range(4)]


def texts(model: Any, tokenizer: Any, reserved: int = 0) -> list[str]:
    return [one.text for part in Rollout(model, tokenizer, reserved=reserved).write(REQUESTS, 8) for one in part]


@pytest.mark.parametrize(
    "method", [{"name": "prompt", "length": 4}, {"name": "lora", "rank": 2}], ids=lambda m: m["name"]
)
def test_the_base_of_an_adapter_answers_as_the_base(speaker, tmp_path, method):
    rows = [{"prompt": f"tell me of the {thing}", "response": "no never"} for thing in ("kettle", "garden")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tune = {"method": method, "data": {"train": str(tmp_path / "rows.jsonl")}, "max_steps": 3, "learning_rate": 0.5}
    recipe = {"name": "tuned", "model": str(speaker), "stages": [{"tune": tune}]}
    run = luthier.run(recipe, output=str(tmp_path))
    plain = texts(load_model(str(speaker), "causal_lm"), load_tokenizer(str(speaker)))
    models = LoadedModels()
    tuned = texts(*models.get(ModelSettings(reference=f"{run.folder}/00-tune/model")))
    base = texts(*models.get(ModelSettings(reference=str(speaker))))
    assert tuned != plain
    assert base == plain
