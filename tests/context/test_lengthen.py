"""The `lengthen` stage: what it saves, a run killed around a change of length, accumulation, its report, its errors."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import luthier
from luthier.cli.arguments import main
from luthier.context.rope_config import rope_in
from luthier.context.stage import Lengthen
from luthier.errors import LuthierError, ModelError
from luthier.models.artifacts import load_artifact
from luthier.storage.jsonlines import read_log
from luthier.training.callbacks import LogCallback
from tests.cli.conftest import tiny_model
from tests.context.conftest import LENGTH, documents, write
from tests.processes import python, ranks

__all__ = ["tiny_model"]
ROOT = Path(__file__).parents[2]
NEW = 4 * LENGTH


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


def recipe(folder: Path, model: Path, name: str = "run", **more: Any) -> dict[str, Any]:
    """A recipe of one stage."""
    corpus = {
        "train": write(folder / "train.txt", documents(120, 0)),
        "validation": write(folder / "held.txt", documents(30, 1)),
        "shuffle": 20,
        "domains": {"other": {"train": write(folder / "other.txt", documents(40, 2)), "held_out": 0.2}},
    }
    stage = {"corpus": corpus, "length": NEW, "max_steps": 8, "batch_size": 2, "learning_rate": 5e-3}
    stage |= {"evaluate_every": 4, "checkpoint_every": 1, "log_every": 1, "document_mask": "block"}
    stage |= {"curriculum": [{"length": LENGTH, "share": 0.5}]}
    return {"name": name, "model": str(model), "stages": [{"lengthen": {**stage, **more}}]}


def run(folder: Path, content: dict[str, Any]) -> Path:
    place = folder / f"{content['name']}.yaml"
    place.write_text(json.dumps(content))
    return Path(luthier.run(place, output=folder / "runs").folder) / "00-lengthen"


def metrics(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, decoder: Path) -> Path:
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(folder / "cache"))
        return run(folder, recipe(folder, decoder))


def test_stock_transformers_loads_it_and_writes_the_same(finished: Path):
    place = finished / "model"
    stock, tokenizer = AutoModelForCausalLM.from_pretrained(place).eval(), AutoTokenizer.from_pretrained(place)
    ours, _, card = load_artifact(place)
    assert stock.config.rope_parameters == {"rope_theta": 500_000.0, "rope_type": "default"}
    assert stock.config.max_position_embeddings == tokenizer.model_max_length == card.max_length == NEW
    assert stock.config.use_cache
    ids = torch.arange(5, 5 + 2 * LENGTH)[None] % 13 + 5
    options = GenerationConfig(max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert torch.equal(stock.generate(ids, options), ours.generate(ids, options))
    found = stock.model.rotary_emb.inv_freq.double().numpy()
    assert found == pytest.approx(rope_in(stock.config).frequencies(), rel=1e-6)


def test_what_it_tells(finished: Path):
    told, noted = metrics(finished), json.loads((finished / "context.json").read_text())
    details = told["details"]
    assert details["tokens"] == noted["tokens"] == 8 * 2 * NEW == sum(noted["text"]["tokens_by_domain"].values())
    assert noted["rope"]["before"]["rope_theta"] == 10_000
    assert noted["length"] == {"before": LENGTH, "after": NEW}
    assert [one["from_step"] for one in noted["curriculum"]] == [0, 4]
    assert 0 < noted["flop_account"]["saved_causal_half"] < noted["flop_account"]["saved"] < 1
    assert set(told["scores"]) == {f"validation/{name}" for name in ("loss", "perplexity", "other_loss", "short_loss")}
    titles = [one["title"] for one in details["sections"]]
    assert titles == ["Positions", "What was trained on", "The text", "Tokens by the length of their document"]
    assert details["sections"][0]["facts"]["checked: generation"] == "the same with and without a cache"
    assert told["cost"]["tokens_per_second"] > 0
    losses = [line["loss"] for line in read_log(finished / "log.jsonl") if line["event"] == "log"]
    assert losses[-1] < losses[0]


def assert_the_same(folder: Path, other: Path) -> None:
    """Bit for bit; the texts of both are alike."""
    expected, found = (load_file(one / "model" / "model.safetensors") for one in (other, folder))
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert metrics(folder)["scores"] == metrics(other)["scores"]
    assert metrics(folder)["details"]["text"] == metrics(other)["details"]["text"]


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("step", [3, 5])
def test_a_run_stopped_beside_a_change_of_length_ends_as_one_never_stopped(
    tmp_path: Path, decoder: Path, finished: Path, step: int
):
    def begin(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step == step:
            raise StoppedError

    content = recipe(tmp_path, decoder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LogCallback, "on_step_begin", begin)
        with pytest.raises(StoppedError):
            run(tmp_path, content)
    assert_the_same(run(tmp_path, content), finished)


def test_a_run_killed_at_a_change_of_length_ends_as_one_never_killed(tmp_path: Path, decoder: Path, finished: Path):
    """With signal 9, in the first step of the longer rows."""
    content = recipe(tmp_path, decoder)
    (tmp_path / "run.yaml").write_text(json.dumps(content))
    code = (
        "import os, signal; from luthier.training.callbacks import LogCallback\n"
        "def end(self, args, state, control, **more):\n"
        "    if state.global_step == 4: os.kill(os.getpid(), signal.SIGKILL)\n"
        "LogCallback.on_step_begin = end\n"
        "import luthier; luthier.run('run.yaml', output='runs')"
    )
    killed = python("-c", code, cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert not (tmp_path / "runs/run/00-lengthen/done.json").exists()
    assert_the_same(run(tmp_path, content), finished)


def test_accumulation_changes_nothing_and_the_rate_falls_over_tokens(tmp_path: Path, decoder: Path):
    """The loss of a step is divided by all its labels, whatever the lengths; the schedule knows no stages."""
    common = {"adam_epsilon": 1e-3, "max_steps": 4, "evaluate_every": "never"}
    one = run(tmp_path, recipe(tmp_path, decoder, "one", **common, batch_size=2))
    two = run(tmp_path, recipe(tmp_path, decoder, "two", **common, batch_size=1, accumulation=2))
    plain = run(tmp_path, recipe(tmp_path, decoder, "plain", **common, batch_size=2, curriculum=[]))
    expected, found = (load_file(folder / "model" / "model.safetensors") for folder in (one, two))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=name)
    rates = [
        [line["learning_rate"] for line in read_log(folder / "log.jsonl") if line["event"] == "log"]
        for folder in (one, plain)
    ]
    assert rates[0] == rates[1]


def test_checkpointing_changes_nothing_and_interpolation_keeps_the_old_length(tmp_path: Path, decoder: Path):
    common = {"max_steps": 2, "evaluate_every": "never", "rope": {"kind": "yarn"}}
    folders = [
        run(tmp_path, recipe(tmp_path, decoder, name, **common, gradient_checkpointing=name == "on"))
        for name in ("off", "on")
    ]
    expected, found = (load_file(folder / "model" / "model.safetensors") for folder in folders)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5, msg=name)
    config = json.loads((folders[0] / "model" / "config.json").read_text())
    assert config["rope_parameters"]["original_max_position_embeddings"] == LENGTH
    assert config["rope_parameters"]["factor"] == 4.0
    assert config["max_position_embeddings"] == NEW
    assert config["use_cache"]


def test_documents_are_kept_apart_without_a_mask(tmp_path: Path, decoder: Path, finished: Path):
    found = run(tmp_path, recipe(tmp_path, decoder, document_attention="varlen"))
    assert metrics(found)["scores"] == pytest.approx(metrics(finished)["scores"], rel=1e-4)
    losses = [
        [line["loss"] for line in read_log(folder / "log.jsonl") if "loss" in line] for folder in (found, finished)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert "luthier" not in (found / "model" / "config.json").read_text()


@pytest.mark.parametrize(
    ("attention", "more", "said"),
    [
        ("flex_attention", {}, "no backward pass on a CPU"),
        ("eager", {"document_attention": "varlen"}, "`document_attention: varlen` is SDPA"),
    ],
)
def test_attention_that_can_not_train_or_is_named_twice_is_refused(
    tmp_path: Path, decoder: Path, attention: str, more: dict[str, Any], said: str
):
    content = recipe(tmp_path, decoder, **more)
    content["model"] = {"reference": content["model"], "attention": attention}
    with pytest.raises(LuthierError, match=said):
        run(tmp_path, content)


def test_two_processes_train_as_one_with_the_whole_batch(tmp_path: Path, decoder: Path):
    common = {"adam_epsilon": 1e-3, "max_steps": 4, "evaluate_every": "never"}
    one = run(tmp_path, recipe(tmp_path, decoder, "one", **common, batch_size=2))
    (tmp_path / "two.yaml").write_text(json.dumps(recipe(tmp_path, decoder, "two", **common, batch_size=1)))
    command = ["-m", "luthier.cli", "run", "two.yaml", "--output", "runs", "--quiet", "--no-report"]
    for done in ranks(2, *command, cwd=tmp_path):
        assert done.returncode == 0, done.stderr[:6000]
    two = tmp_path / "runs" / "two" / "00-lengthen"
    expected, found = (load_file(folder / "model" / "model.safetensors") for folder in (one, two))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=2e-5, rtol=1e-4, msg=name)
    assert metrics(two)["details"]["text"] == metrics(one)["details"]["text"]


def test_the_dry_run_tells_positions_and_memory(tmp_path: Path, decoder: Path, capsys: pytest.CaptureFixture[str]):
    content = recipe(tmp_path, decoder)
    (tmp_path / "run.yaml").write_text(json.dumps(content))
    assert main(["plan", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "runs")]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "base 10,000 before, 500,000 after" in told
    assert "50% at 32, 50% at 128" in told
    assert "8 steps, 2,048 tokens" in told
    assert "GB in float32" in told


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"curriculum": [{"length": 48, "share": 0.5}]}, "can't be cut"),
        ({"curriculum": [{"length": LENGTH, "share": 1.0}]}, "longest rows"),
        ({"objective": "masked"}, "no masks"),
        ({"max_steps": None}, "a mixture has no end"),
        ({"max_minutes": 1}, "curriculum"),
        ({"document_mask": "none", "document_attention": "varlen"}, "no effect under `document_mask: none`"),
        ({"rope": "xpos_abf"}, "no configuration of transformers holds"),
        ({"workers": 2}, "`workers` has no effect"),
        ({"corpus": {"train": "a.txt", "domains": {"short": "b.txt"}}}, "in rows of the old length"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, decoder: Path, given: dict[str, Any], said: str):
    stage = recipe(tmp_path, decoder)["stages"][0]["lengthen"]
    with pytest.raises(ValidationError, match=said):
        Lengthen.model_validate({**stage, **given})


def test_an_encoder_and_factors_of_other_heads_are_refused(
    tmp_path: Path, decoder: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(LuthierError, match="causal"):
        run(tmp_path, recipe(tmp_path, tiny_model))
    factors = {"kind": "longrope", "long_factor": [1.0], "short_factor": [1.0]}
    with pytest.raises(ModelError, match="8 pairs"):
        run(tmp_path, recipe(tmp_path, decoder, rope=factors))
