"""`luthier explain rope`: from a config.json alone, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from luthier.cli.arguments import main

LLAMA = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "max_position_embeddings": 4096}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    place = tmp_path / "config.json"
    place.write_text(json.dumps({**LLAMA, "rope_theta": 10_000.0}))
    return place


def test_periods_decay_and_a_base_are_told(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page = tmp_path / "rope.html"
    assert main(["explain", "rope", str(config), "--length", "32768", "--output", str(page)]) == 0
    told = capsys.readouterr().out
    assert "recommended base: 630,000" in told
    assert "54,410*" in told  # 2 pi 10,000^(126/128), the slowest pair, which never turns in 32,768 tokens
    row = next(line for line in told.splitlines() if line.strip().startswith("as it is  "))
    assert row.split()[3:5] == ["4", "18"]
    assert "<svg" in page.read_text()
    assert main(["explain", "rope", str(config.parent), "--length", "8192", "--output", str(tmp_path / "a.svg")]) == 0
    assert (tmp_path / "a.svg").read_text().startswith("<svg")


def test_torch_is_not_imported(config: Path):
    code = (
        "import sys; from luthier.context.rope_report import view_of; "
        f"view_of({str(config)!r}, 8192).sections(); assert not {{'torch', 'transformers'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_base_is_not_advised_where_positions_are_interpolated(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    place = tmp_path / "config.json"
    place.write_text(json.dumps({**LLAMA, "rope_scaling": {"type": "linear", "factor": 4.0}}))
    assert main(["explain", "rope", str(place), "--length", "8192"]) == 0
    told = capsys.readouterr().out
    assert "recommended base: 10,000: its own" in told
    assert "abf" not in told
    assert main(["explain", "rope", str(place), "--length", "8192", "--kind", "yarn"]) != 0
    assert "`kind: yarn` would take back" in capsys.readouterr().err


def test_a_model_of_llama3_is_shown_with_its_own_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    place = tmp_path / "config.json"
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    place.write_text(json.dumps({**LLAMA, "rope_scaling": {**scaling, "original_max_position_embeddings": 1024}}))
    assert main(["explain", "rope", str(place), "--length", "16384"]) == 0
    told = capsys.readouterr().out
    assert "llama3" in told
    assert "abf" not in told
    assert main(["explain", "rope", str(place), "--length", "16384", "--kind", "abf"]) != 0
    assert "take `llama3`, which stretches them further" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "kind", "said"),
    [
        ({"rope_scaling": [1]}, "abf", "no mapping"),
        ({"head_dim": 2}, "dynamic", "need more than one pair"),
    ],
)
def test_odd_configurations_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, object], kind: str, said: str
):
    place = tmp_path / "config.json"
    place.write_text(json.dumps({**LLAMA, **more}))
    assert main(["explain", "rope", str(place), "--length", "8192", "--kind", kind]) != 0
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rope"], "needs a model and a length"),
        (["tune", "--length", "9"], "belongs to `luthier explain rope`"),
        (["rope", "CONFIG", "--length", "9", "--kind", "xpos_abf"], "no configuration of transformers"),
        (["rope", "CONFIG", "--length", "9", "--output", "a.txt"], "neither a page nor a plot"),
        (["rope", "no/such", "--length", "9"], "no/such"),
    ],
)
def test_what_is_wrong_is_said(config: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str):
    given = [str(config) if one == "CONFIG" else one for one in arguments]
    assert main(["explain", *given]) != 0
    assert said in capsys.readouterr().err
