"""Models that extract relations and teach one another: each gets thresholds, as where one is trained alone."""

from __future__ import annotations

from pathlib import Path

import luthier
from tests.extraction.sentences import DOCUMENTS, LABELS, tiny_encoder, write


def test_every_node_ends_with_thresholds_of_its_own_and_is_scored_with_them(tmp_path: Path) -> None:
    data = {
        "train": write(tmp_path / "train.json", DOCUMENTS),
        "validation": write(tmp_path / "validation.json", DOCUMENTS[::3]),
        "task": "joint_extraction",
        "labels": LABELS,
    }
    distil = {
        "data": data,
        "nodes": {"a": {}, "b": {"sizes": {"num_hidden_layers": 1}}},
        "edges": [{"teacher": "a", "student": "b", "weight": 0.01}],
        "give": "a",
        "max_steps": 65,
        "batch_size": 6,
        "learning_rate": 6e-3,
        "evaluate_every": 65,
    }
    of_each = [{"evaluate": {"model": name, "split": "validation"}} for name in ("stages.0", "stages.0.b")]
    recipe = {"name": "extractors", "model": tiny_encoder(tmp_path / "model"), "stages": [{"distil": distil}, *of_each]}
    record = luthier.run(recipe, output=tmp_path / "runs")
    told, one, other = (stage.metrics for stage in record.stages)
    assert set(told["details"]["thresholds"]) == {"born", "employs", "seat", "married"}
    for metric in ("entity_f1", "relation_strict_f1"):
        assert told["scores"][f"validation/{metric}"] == one["scores"][f"validation/{metric}"]
        assert told["scores"][f"validation/b/{metric}"] == other["scores"][f"validation/{metric}"]
    assert other["scores"]["validation/relation_strict_f1"] > 0
