"""Who answers for a saved artefact: its card decides, and another package's kind of artefact is asked like ours."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luthier.cli.arguments import main
from luthier.errors import DataError, ModelError
from luthier.models.card import ModelCard, write_card
from luthier.models.manifest import write_manifest
from luthier.models.predictor import Predictor
from luthier.prediction import embed, predict_file, predict_texts
from luthier.prediction.embedding import embed_texts
from luthier.prediction.extracting import extract
from luthier.prediction.loading import load_predictor, predictor_of
from luthier.prediction.writing import write_predictions
from luthier.registry import PREDICTORS


class Counter(Predictor):
    """Counts characters."""

    name = "counter"
    made_by = "a count stage"
    embeds = True
    why_not_exported = "a count has no prompt"
    instead_of_export = "count again"

    def predict_texts(self, texts: Any, pairs: Any = None, *, batch_size: int = 64) -> list[dict[str, Any]]:
        return [{"text": text, "length": len(text)} for text in texts]

    def predict_file(self, file: str | Path, *, batch_size: int = 64) -> list[dict[str, Any]]:
        return self.predict_texts(Path(file).read_text().splitlines())

    def embed(self, texts: Any, *, batch_size: int = 64, dtype: str = "float32") -> np.ndarray:
        return np.array([[len(text)] for text in texts], dtype=dtype)


class Mute(Predictor):
    """Saved, and asked in vain."""

    name = "mute"
    made_by = "a mute stage"


@pytest.fixture
def kinds() -> Iterator[None]:
    """The two kinds above, as a plugin would register them."""
    PREDICTORS.register(Counter)
    PREDICTORS.register(Mute)
    yield
    del PREDICTORS._entries["counter"], PREDICTORS._entries["mute"]


def artefact(folder: Path, kind: str) -> str:
    """A finished run whose one stage saved an artefact of a kind."""
    place = folder / "runs" / "counted" / "00-count" / "model"
    place.mkdir(parents=True)
    (place.parent / "done.json").write_text("{}")
    write_card(place, ModelCard("somewhere", "0" * 64, "encoder", method={"name": kind}))
    write_manifest(place)
    return str(folder / "runs" / "counted")


@pytest.mark.usefixtures("kinds")
def test_an_artefact_of_another_package_is_predicted_and_embedded(tmp_path: Path, capsys):
    run = artefact(tmp_path, "counter")
    (tmp_path / "rows.txt").write_text("one\nthree\n")
    assert predict_texts(run, ["a", "bc"]) == [{"text": "a", "length": 1}, {"text": "bc", "length": 2}]
    assert [row["length"] for row in predict_file(run, tmp_path / "rows.txt")] == [3, 5]
    assert embed(run, ["a", "bc"], dtype="float64").tolist() == [[1.0], [2.0]]
    assert main(["predict", run, "--text", "abc"]) == 0
    assert json.loads(capsys.readouterr().out) == {"text": "abc", "length": 3}
    assert main(["embed", run, "--text", "abc", "--output", str(tmp_path / "v.npy")]) == 0
    assert np.load(tmp_path / "v.npy").tolist() == [[3.0]]
    assert main(["export", run, "--to", str(tmp_path / "p.safetensors")]) == 4
    assert "a count has no prompt\n  fix: count again" in capsys.readouterr().err


@pytest.mark.usefixtures("kinds")
def test_a_single_string_is_one_text_for_any_predictor(tmp_path: Path):
    run = artefact(tmp_path, "counter")
    assert predict_texts(run, "four") == [{"text": "four", "length": 4}]
    assert embed(run, "four").shape[0] == 1
    assert load_predictor(run, "pickle").allow == ("pickle",)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="text 2 is 3, which is no text"):
        predict_texts(run, ["a", 3])  # type: ignore[list-item]


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_holds_a_text_at_least(tmp_path: Path, size: int):
    asked = [
        lambda: predict_texts(tmp_path, ["a"], batch_size=size),
        lambda: predict_file(tmp_path, "rows.tsv", batch_size=size),
        lambda: write_predictions(tmp_path, "rows.tsv", tmp_path / "out", batch_size=size),
        lambda: embed(tmp_path, ["a"], batch_size=size),
        lambda: embed_texts(tmp_path, ["a"], tmp_path / "v.npy", batch_size=size),
        lambda: extract(tmp_path, [{"tokens": ["a"]}], batch_size=size),
    ]
    for ask in asked:
        with pytest.raises(DataError, match=f"batch_size is {size}"):
            ask()


@pytest.mark.usefixtures("kinds")
def test_what_an_artefact_does_not_do_is_said(tmp_path: Path, capsys):
    run = artefact(tmp_path, "mute")
    assert main(["predict", run, "--text", "abc"]) == 4
    assert "what a mute stage saved here predicts nothing" in capsys.readouterr().err
    with pytest.raises(ModelError, match="no encoder here that a count stage or a represent stage made"):
        embed(run, ["a"])
    with pytest.raises(ModelError, match="makes no vectors"):
        load_predictor(run).embed(["a"])


def test_all_else_is_a_task_model_and_its_loading_says_what_is_wrong(tmp_path: Path):
    run = artefact(tmp_path, "lora")
    assert predictor_of(run).name == "task_model"
    card = Path(run) / "00-count" / "model" / "luthier.json"
    card.write_text(card.read_text().replace("somewhere", "elsewhere"))
    with pytest.raises(ModelError, match="does not match its SHA-256"):
        predict_texts(run, ["a"])
    card.write_text("{")
    with pytest.raises(ModelError, match="does not match its SHA-256"):
        predict_texts(run, ["a"])


def test_who_answers_is_known_without_torch():
    code = "import sys; from luthier.registry import PREDICTORS; print(*PREDICTORS.names(), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["masked_lm", "shared_encoder", "task_model", "transplant", "False"]
