"""What earlier versions saved loads and gives the same numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from safetensors import safe_open
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file

import luthier
from luthier.prediction import predict_texts
from luthier.tuning import SharedEncoder, fold_prompt, load_trainable_prompt
from tests.released.archive import unpack
from tests.released.reading import (
    PAIR_TEXTS,
    TEXTS,
    chosen_of,
    command,
    load_tuned,
    logits_of,
    logits_on_texts,
    predictions_of,
    vectors_of,
)

HERE = Path(__file__).parent
INDEX = {folder.name: json.loads((folder / "index.json").read_text()) for folder in sorted(HERE.glob("v*"))}
VERSIONS = pytest.mark.parametrize("version", INDEX)
ADAPTERS = [(version, name) for version, index in INDEX.items() for name in index["adapters"]]
RUNS = [(version, name) for version, index in INDEX.items() for name in index["runs"]]
PREDICTED = [(version, name) for version, name in RUNS if "file" in INDEX[version]["runs"][name]]
COMPARISONS = [(version, name) for version, name in RUNS if "file" not in INDEX[version]["runs"][name]]
# The share is for logits far from 0, whose last digit differs between processors.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
# Probabilities are written with six digits.
ROUNDED = 2e-6


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Version -> the folder with its fixtures."""
    folders = {version: tmp_path_factory.mktemp(version) for version in INDEX}
    for version, folder in folders.items():
        for archive in (HERE / version).glob("*.tar.gz"):
            unpack(archive, folder)
    return folders


@pytest.fixture
def place(version: str, unpacked: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with a version's fixtures, as working directory."""
    monkeypatch.chdir(unpacked[version])
    return unpacked[version]


def adapter_about(version: str, name: str) -> dict[str, Any]:
    return INDEX[version]["adapters"][name]


@pytest.mark.parametrize(("version", "name"), ADAPTERS)
def test_a_tuned_model_has_its_logits(place: Path, version: str, name: str) -> None:
    expected = load_file("adapters/expected.safetensors")[name]
    torch.testing.assert_close(logits_of(f"adapters/{name}", adapter_about(version, name)), expected, **CLOSE)


@VERSIONS
def test_a_tuned_model_is_labelled_by_luthier_as_by_peft(place: Path, version: str) -> None:
    expected = load_file("adapters/expected.safetensors")
    for name in INDEX[version]["adapters"]:
        if not Path(f"adapters/{name}/luthier.json").is_file():
            continue
        model, _ = luthier.load(f"adapters/{name}")
        torch.testing.assert_close(logits_on_texts(model, adapter_about(version, name)), expected[name], **CLOSE)
        for row, logits in zip(predict_texts(f"adapters/{name}", list(TEXTS)), expected[name], strict=True):
            assert list(row["probabilities"].values()) == pytest.approx(logits.softmax(-1).tolist(), abs=ROUNDED), name


@VERSIONS
def test_a_residual_prompt_is_folded_to_the_same_logits(place: Path, version: str, tmp_path: Path) -> None:
    about, expected = adapter_about(version, "residual_prompt"), load_file("adapters/expected.safetensors")
    fold_prompt("adapters/residual_prompt", tmp_path)
    torch.testing.assert_close(logits_of(str(tmp_path), about), expected["residual_prompt"], **CLOSE)


@VERSIONS
def test_a_prompt_is_exported_to_the_same_file(place: Path, version: str, tmp_path: Path) -> None:
    for expected in sorted(Path("adapters").glob("*.exported.safetensors")):
        name, output = expected.name.partition(".")[0], tmp_path / expected.name
        command("export", f"adapters/{name}", "--to", str(output))
        before, after = load_file(expected), load_file(output)
        assert before.keys() == after.keys()
        for key, tensor in before.items():
            torch.testing.assert_close(after[key], tensor, **CLOSE)
        assert _metadata(expected).items() <= _metadata(output).items()


def _metadata(file: Path) -> dict[str, Any]:
    with safe_open(file, "pt") as opened:
        return json.loads(opened.metadata()["luthier"])


@VERSIONS
def test_a_prompt_is_trained_on_from_its_logits(place: Path, version: str) -> None:
    import transformers

    about, expected = adapter_about(version, "residual_prompt"), load_file("adapters/expected.safetensors")
    base = getattr(transformers, about["auto_class"]).from_pretrained(about["base"])
    model = load_trainable_prompt(base, "adapters/residual_prompt")
    torch.testing.assert_close(logits_on_texts(model, about), expected["residual_prompt"], **CLOSE)
    assert any(parameter.requires_grad for parameter in model.parameters())


@VERSIONS
@pytest.mark.parametrize("name", ["unipelt", "idpg", "bottleneck", "task_prefix"])
def test_an_adapter_is_saved_again_without_a_change(place: Path, version: str, name: str, tmp_path: Path) -> None:
    load_tuned(f"adapters/{name}", adapter_about(version, name)).save_pretrained(tmp_path)
    before = load_file(f"adapters/{name}/adapter_model.safetensors")
    after = load_file(tmp_path / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


@VERSIONS
@pytest.mark.parametrize("name", ["lora", "unipelt", "residual_prompt", "idpg"])
def test_an_adapter_is_trained_on_by_a_recipe(place: Path, version: str, name: str, tmp_path: Path) -> None:
    card = json.loads(Path(f"adapters/{name}/luthier.json").read_text())
    tune = {"method": card["method"], "continue_adapter": True, "max_steps": 1, "cache_trunk": False}
    tune["data"] = {"train": "data/single_sentence-train.csv", "validation": "data/single_sentence-validation.csv"}
    recipe = {"name": "on", "model": f"adapters/{name}", "stages": [{"tune": tune}]}
    record = luthier.run(recipe, output=tmp_path)
    assert record.stages[0].metrics["scores"]


@pytest.mark.parametrize(("version", "name"), PREDICTED)
def test_a_run_predicts_what_it_did(place: Path, version: str, name: str, tmp_path: Path) -> None:
    expected = json.loads(Path("runs/expected.json").read_text())[name]
    about = INDEX[version]["runs"][name]
    predictions = predictions_of(f"runs/{name}", about["file"], tmp_path / "predictions.jsonl")
    _assert_alike(predictions, expected)


@pytest.mark.parametrize(("version", "name"), RUNS)
def test_a_resolved_recipe_is_still_valid_and_means_the_same(place: Path, version: str, name: str) -> None:
    for path in sorted(Path("runs", name).rglob("recipe.yaml")):
        command("validate", str(path))
        _assert_kept(luthier.load_recipe(path).model_dump(mode="json"), YAML(typ="safe").load(path), str(path))
    best = Path("runs", name, "best.yaml")
    if best.exists():
        command("validate", str(best))


@pytest.mark.parametrize(("version", "name"), COMPARISONS)
def test_a_comparison_is_reported(place: Path, version: str, name: str, tmp_path: Path, capsys) -> None:
    command("compare", f"runs/{name}")
    table = capsys.readouterr().out
    command("report", f"runs/{name}", "--output", str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text(encoding="utf8")
    scores = re.findall(r"\d\.\d{4}(?: ± \d\.\d{4})?", table)
    assert scores
    shown = " ".join(re.sub(r"<[^>]+>", "", page).split())
    assert [score for score in scores if score not in shown] == []


@VERSIONS
def test_all_runs_fit_on_one_page(place: Path, version: str, tmp_path: Path) -> None:
    names = [name for name, about in INDEX[version]["runs"].items() if "file" in about]
    output = tmp_path / "report.html"
    command("report", *(f"runs/{name}" for name in names), "--output", str(output))
    page = output.read_text(encoding="utf8")
    assert [name for name in names if name not in page] == []
    assert "Gates by layer" in page


@VERSIONS
def test_a_choice_stays_the_same(place: Path, version: str) -> None:
    for name, expected in json.loads(Path("runs/chosen.json").read_text()).items():
        assert chosen_of(f"runs/{name}") == expected


@VERSIONS
def test_an_encoder_gives_its_vectors(place: Path, version: str, tmp_path: Path) -> None:
    expected = load_arrays("runs/vectors.safetensors")
    vectors = vectors_of("runs/encoder", "adapters/task_prefix")
    assert vectors.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(vectors[name], array, **CLOSE)
    texts = [word for text in TEXTS for word in ("--text", text)]
    command("embed", "runs/encoder", *texts, "--output", str(tmp_path / "vectors.npy"))
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), expected["texts"], **CLOSE)


@VERSIONS
def test_an_encoder_predicts_pairs(place: Path, version: str) -> None:
    expected = json.loads(Path("runs/pairs.json").read_text())
    _assert_alike(predict_texts("runs/encoder", list(PAIR_TEXTS), list(PAIR_TEXTS[::-1])), expected)
    assert expected[0]["heads"].keys() == {"same"}


@VERSIONS
def test_an_encoder_is_saved_again_and_gives_its_vectors(place: Path, version: str, tmp_path: Path) -> None:
    encoder = SharedEncoder.load("runs/encoder")
    encoder.save(tmp_path / "again")
    vectors = SharedEncoder.load(tmp_path / "again").encode(list(TEXTS))
    np.testing.assert_allclose(vectors, load_arrays("runs/vectors.safetensors")["texts"], **CLOSE)


def _assert_alike(found: Any, expected: Any, where: str = "") -> None:
    """Equal, with numbers near each other; what is new in a mapping is allowed."""
    if isinstance(expected, dict):
        assert expected.keys() <= found.keys(), where
        for key, value in expected.items():
            _assert_alike(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, value in enumerate(expected):
            _assert_alike(found[number], value, f"{where}[{number}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=ROUNDED, rel=0), where
    else:
        assert found == expected, where


def _assert_kept(found: Any, expected: Any, where: str) -> None:
    """Every value of a resolved recipe is still what it was; new settings may stand beside them."""
    if isinstance(expected, dict):
        if expected.get("name") == "cost":  # how many rows it feeds: it feeds none of its own any more
            expected = {key: value for key, value in expected.items() if key != "rows"}
        assert expected.keys() <= found.keys(), where
        for key, value in expected.items():
            _assert_kept(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, value in enumerate(expected):
            _assert_kept(found[number], value, f"{where}[{number}]")
    else:
        assert found == expected, where
