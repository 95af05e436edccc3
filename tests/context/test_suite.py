"""The suite `context` on a saved model, as `evaluate` runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import luthier
from luthier.context.probes import Probe
from luthier.context.scoring import _texts, interval_of_mean
from luthier.context.suite import ContextSuite
from luthier.errors import LuthierError
from luthier.report.html import write_report
from tests.cli.conftest import tiny_model
from tests.context.conftest import documents, write

__all__ = ["tiny_model"]


def run(folder: Path, model: Path, **suite: Any) -> Path:
    text = write(folder / "test.txt", documents(80, 5))
    given = {
        "name": "context",
        "samples": 6,
        "keys": 2,
        "multi_keys": 2,
        "tracked": 1,
        "hops": [1, 2],
        "depths": [0, 1],
        "position_rows": 4,
        **suite,
    }
    stage = {"evaluate": {"suites": [given], "data": {"test": text, "task": "plain_text"}}}
    place = folder / "run.yaml"
    place.write_text(json.dumps({"name": "run", "model": str(model), "stages": [stage]}))
    return Path(luthier.run(place, output=folder / "runs").folder)


def test_scores_grids_and_marks(tmp_path: Path, decoder: Path):
    folder = run(tmp_path, decoder, lengths=[128, 256])
    found = json.loads((folder / "00-evaluate" / "metrics.json").read_text())
    scores = found["scores"]
    assert set(scores) >= {
        f"test/{name}" for name in ("first_sentence_prefers", "passkey_accuracy", "last_quarter_loss")
    }
    assert "longer than the model was trained on" in " ".join(found["marks"])
    low, high = found["intervals"]["test/first_sentence_margin"]
    assert low <= scores["test/first_sentence_margin"] <= high
    sections = {one["title"]: one for one in found["details"]["sections"]}
    assert list(sections) == [
        "First sentence",
        "First sentences as written",
        "Pass keys found",
        "Pass keys preferred",
        "One key of several found",
        "One key of several preferred",
        "Tracked variables found",
        "Tracked variables preferred",
        "Tracked variables recalled",
        "Tracked variables as written",
        "Loss by position",
    ]
    grid = sections["Pass keys preferred"]["plot"]
    assert (grid["rows"], grid["columns"]) == (["0%", "100%"], ["128", "256"])
    assert sections["Loss by position"]["facts"]["texts"] == 4
    assert found["details"]["context"]["power_law"]["beta"] > 0
    page = write_report([folder]).read_text()
    assert all(title in page for title in sections)


def test_a_probe_without_enough_text_leaves_the_others(tmp_path: Path, decoder: Path):
    text = write(tmp_path / "test.txt", ["the cat runs and no sentence ends here"])
    suite = {"name": "context", "keys": 2, "multi_keys": 0, "tracked": 0, "depths": [0], "lengths": [128]}
    stage = {"evaluate": {"suites": [suite], "data": {"test": text, "task": "plain_text"}}}
    place = tmp_path / "run.yaml"
    place.write_text(json.dumps({"name": "few", "model": str(decoder), "stages": [stage]}))
    folder = Path(luthier.run(place, output=tmp_path / "runs").folder)
    found = json.loads((folder / "00-evaluate" / "metrics.json").read_text())
    assert "test/passkey_accuracy" in found["scores"]
    assert not [name for name in found["scores"] if "sentence" in name or "loss" in name]
    assert {mark.partition(":")[0] for mark in found["marks"]} >= {"no first sentence at 128", "no loss by position"}


def test_only_causal_models_are_judged(tmp_path: Path, tiny_model: Path):
    with pytest.raises(LuthierError, match="context"):
        run(tmp_path, tiny_model)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"depths": [1.5]}, "shares of the text"),
        ({"lengths": [32]}, "at least 64"),
        ({"keys": 0, "multi_keys": 0, "depths": [0.5]}, "no effect without `keys`"),
        ({"tracked": 0, "hops": [3]}, "no effect without `tracked`"),
        ({"position_rows": 0, "smoothing": 3}, "no effect"),
    ],
)
def test_settings_that_do_not_fit_are_refused(given: dict[str, Any], said: str):
    with pytest.raises(ValidationError, match=said):
        ContextSuite.model_validate(given)


def test_a_share_of_which_every_sample_is_right_has_an_interval_with_a_width():
    assert interval_of_mean(np.ones(20), 0, (0.0, 1.0)) == pytest.approx((0.025 ** (1 / 20), 1.0))
    assert interval_of_mean(np.full(20, 0.3), 0) is None


def test_answers_about_one_text_are_redrawn_together():
    """Five answers a text that are all right or all wrong tell no more than one: the interval is that of the texts."""
    right = np.array([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    low, high = interval_of_mean(right, 0, (0.0, 1.0))
    assert interval_of_mean(np.tile(right, 5), 0, (0.0, 1.0), np.tile(np.arange(6), 5)) == pytest.approx((low, high))
    alone = interval_of_mean(np.tile(right, 5), 0, (0.0, 1.0))
    assert high - low > 1.5 * (alone[1] - alone[0])


def test_every_depth_of_a_text_and_each_of_its_chains_is_of_that_text():
    many = [Probe(64, depth, np.ones(3), np.ones(3), np.ones(3), texts=range(3)) for depth in (0.0, 0.5)]
    assert list(_texts(many)) == [0, 1, 2, 0, 1, 2]
    chains = [Probe(64, 0.0, np.ones(4), np.ones(4), np.ones(4), hops=h, texts=[0, 0, 1, 1]) for h in (1, 2)]
    assert list(_texts(chains)) == [0, 0, 1, 1, 2, 2, 3, 3]
    keys = [Probe(64, depth, np.ones(2), np.ones(2), np.ones(2)) for depth in (0.0, 0.5)]
    assert list(_texts(keys)) == [0, 1, 2, 3]
