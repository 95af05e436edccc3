"""Training on from a tuned adapter, through the command line."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from luthier.models import load
from luthier.prediction.texts import predict_texts
from luthier.recipe.loading import load_recipe

METHODS: list[Any] = [
    {"name": "prompt", "length": 4},
    {"name": "p_tuning", "length": 4},
    {"name": "p_tuning", "length": 4, "insert": "after_cls"},
    {"name": "prefix", "length": 4},
    {"name": "prefix", "length": 4, "projection": True},
    {"name": "residual_prompt", "length": 4, "bottleneck": 8},
    {"name": "lora", "rank": 2},
    {"name": "idpg", "length": 2, "dropout": 0.0},
    {"name": "unipelt", "prefix_projection_width": 8},
    "bottleneck",
    "task_prefix",
    "head_only",
]
TEXTS = ["a lovely bright film", "the plot was dull", "clever and grim", "warm"]


def named(method: Any) -> str:
    return method if isinstance(method, str) else "-".join(str(value) for value in method.values())


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "00-tune" / "model" / "adapter_model.safetensors")


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def probabilities(run: Path) -> list[float]:
    return [row["probabilities"]["positive"] for row in predict_texts(run, TEXTS)]


@pytest.fixture
def short(workplace):
    """Runs of eight steps."""
    workplace.recipe["stages"].pop()
    workplace.tune.update(epochs=1, batch_size=16, learning_rate=1e-2)
    return workplace


def continued(place, **changes: Any) -> Path:
    """The recipe of a second run that goes on from the first, and where it is run."""
    place.recipe.update(name="second", seed=5)
    place.recipe["model"] = str(place.run_folder / "00-tune" / "model")
    place.tune.update({"continue_adapter": True} | changes)
    return place.folder / "runs" / "second"


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_an_adapter_is_trained_on_from_where_it_stood(short, method: Any, capsys):
    short.tune["method"] = method
    assert short.run("--no-report") == 0
    first, scores = weights(short.run_folder), short.metrics()["scores"]
    slow = {"learning_rate": 1e-12}
    if not isinstance(method, str):
        rates = {"head_learning_rate": 1e-12} if "length" in method else {}
        rates |= {"network_learning_rate": 1e-12} if method["name"] == "residual_prompt" else {}
        rates |= {"prefix_learning_rate": 1e-12} if method["name"] == "unipelt" else {}
        slow["method"] = method | rates
    elif method == "task_prefix":
        slow["method"] = {"name": method, "head_learning_rate": 1e-12}
    second = continued(short, **slow)
    assert short.luthier("plan", short.write()) == 0
    planned = capsys.readouterr().out
    assert short.run("--no-report") == 0, capsys.readouterr().err
    told = json.loads((second / "00-tune" / "metrics.json").read_text())
    assert f"{told['cost']['trainable_parameters']:,} of" in planned
    assert told["scores"] == pytest.approx(scores, abs=1e-6)
    assert furthest(weights(second), first) < 1e-6
    assert probabilities(second) == pytest.approx(probabilities(short.run_folder), abs=1e-6)
    short.tune.update(method=method, learning_rate=1e-2, max_steps=2)
    assert short.run("--no-report") == 0
    moved = furthest(weights(second), first)
    assert 1e-4 < moved < 0.03
    assert probabilities(second) != pytest.approx(probabilities(short.run_folder), abs=1e-5)


def test_a_second_stage_goes_on_with_the_adapter_of_the_first(short):
    from luthier.models.card import read_card

    short.tune["method"] = METHODS[0]
    short.recipe["stages"].append({"tune": short.tune | {"continue_adapter": True}})
    short.recipe["stages"].append({"tune": short.tune | {"continue_adapter": True}})
    assert short.luthier("plan", short.write()) == 0
    assert short.run() == 0
    assert read_card(short.run_folder / "02-tune" / "model").base == str(short.folder / "model")
    assert len(probabilities(short.run_folder)) == len(TEXTS)


@pytest.mark.parametrize("method", [METHODS[1], METHODS[2], METHODS[5]], ids=named)
def test_a_stopped_second_run_goes_on_to_the_same_numbers(short, method: Any, monkeypatch):
    from luthier.training.trainer import LuthierTrainer

    short.tune["method"] = method
    assert short.run("--no-report") == 0
    second = continued(short, checkpoint_every=2)
    assert short.run("--no-report") == 0
    straight = weights(second)
    step, calls = LuthierTrainer.training_step, []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(LuthierTrainer, "training_step", interrupted)
    short.recipe["name"] = "stopped"
    assert short.run("--no-report") == 75
    assert short.run("--no-report") == 0
    assert furthest(weights(short.folder / "runs" / "stopped"), straight) == 0


def test_the_head_stays_as_it_is_where_it_is_not_trained(short):
    short.tune["method"] = "task_prefix"
    assert short.run("--no-report") == 0
    first = weights(short.run_folder)
    second = continued(short, train_head=False)
    assert short.run("--no-report") == 0
    moved = {name: not torch.equal(first[name], tensor) for name, tensor in weights(second).items()}
    assert {"classifier" not in name and "pooler" not in name for name, yes in moved.items() if yes} == {True}
    assert not any(yes for name, yes in moved.items() if "classifier" in name)


def test_what_can_not_be_trained_on_is_refused(short, capsys):
    short.tune["method"] = {"name": "lora", "rank": 2}
    assert short.run("--no-report") == 0

    def refusal(code: int, **changes: Any) -> str:
        short.tune.update(changes)
        for verb in ("plan", "run"):
            arguments = ["--output", str(short.folder / "runs")]
            assert short.luthier(verb, short.write(), *arguments) == code
            said = capsys.readouterr().err
            assert "Traceback" not in said
        return said

    continued(short)
    said = refusal(2, method="bottleneck")
    assert "the adapter was made by lora, and the stage's method is bottleneck" in said
    said = refusal(2, method={"name": "lora", "rank": 4, "alpha": 8.0})
    assert "made with rank 2 and not 4, alpha 16.0 and not 8.0" in said
    assert "write `method: {name: lora, rank: 2}`" in said
    labels = short.tune["data"] | {"labels": ["positive", "negative"]}
    data = short.tune["data"]
    said = refusal(2, method={"name": "lora", "rank": 2}, data=labels)
    assert "trained for sequence classification of negative, positive" in said
    short.tune["data"] = data
    short.recipe["model"] = str(short.folder / "model")
    assert "this is a whole model" in refusal(4)


def test_a_whole_model_from_elsewhere_is_refused_before_an_earlier_stage_runs(short, capsys):
    later = {"model": str(short.folder / "model"), "method": "lora", "continue_adapter": True}
    short.recipe["stages"].append({"tune": short.tune | later})
    assert short.run("--no-report") == 4
    assert "goes on from an adapter that Luthier tuned, and this is a whole model" in capsys.readouterr().err
    assert not (short.run_folder / "00-tune").exists()


def test_without_it_a_prompt_is_refused_and_lora_is_merged(short, capsys):
    short.tune["method"] = METHODS[0]
    assert short.run("--no-report") == 0
    continued(short, continue_adapter=False)
    assert short.luthier("plan", short.write()) == 4
    assert "a PROMPT_TUNING adapter can't be merged" in capsys.readouterr().err
    assert short.run("--no-report") == 4
    assert "continue_adapter: true" in capsys.readouterr().err
    short.recipe["stages"] = [{"tune": short.tune | {"method": "lora"}}, {"tune": short.tune | {"method": "head_only"}}]
    short.recipe.update(name="merged", model=str(short.folder / "model"))
    assert short.run("--no-report") == 0
    model, _ = load(str(short.folder / "runs" / "merged" / "01-tune" / "model"))
    assert not hasattr(model, "peft_config")
    lora, _ = load(str(short.folder / "runs" / "merged" / "00-tune" / "model"))
    (query,) = [
        p for n, p in lora.merge_and_unload().named_parameters() if n.endswith("layer.0.attention.self.query.weight")
    ]
    assert torch.equal(model.bert.encoder.layer[0].attention.self.query.weight, query)


def test_the_recipe_of_the_page_is_valid(tmp_path: Path):
    page = Path(__file__).parents[2] / "docs" / "interchange.md"
    (code,) = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf8"), flags=re.S)
    (tmp_path / "recipe.yaml").write_text(code)
    assert load_recipe(tmp_path / "recipe.yaml").stage_list()[0].continue_adapter is True
