"""An evaluation feeds every judged row once, and measures that pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from luthier.evaluation.prediction import Predictions
from luthier.evaluation.subject import Subject
from luthier.evaluation.suites.cost import CostSuite
from luthier.evaluation.suites.task import TaskSuite
from luthier.models.card import ModelCard
from luthier.tasks.base import task_named
from tests.evaluation.test_baselines import Data

ROWS = 40


@dataclass
class Counted(Subject):
    """A subject that counts the rows that it is asked to feed."""

    fed: list[int] = field(default_factory=list)

    def forward(self, rows: Any, on_batch: Any = None) -> Predictions:
        self.fed.append(len(rows))
        labels = np.asarray(rows["label"])
        logits = np.eye(2, dtype=np.float32)[labels]
        ones = np.ones(len(rows))
        return Predictions(
            "single_sentence", logits, labels, np.arange(len(rows)), ones, ones.astype(int), 3 * len(rows)
        )

    def encode(self, *args: Any, **kwargs: Any) -> Any:
        return self.task.splits["test"]


def test_the_cost_suite_measures_the_pass_that_scores_are_taken_from(tmp_path: Path) -> None:
    import torch

    rows = datasets.Dataset.from_dict({"text": ["a"] * ROWS, "label": [0, 1] * (ROWS // 2), "row": list(range(ROWS))})
    task: Any = Data(task_named("single_sentence"), {"test": rows}, ["a", "b"], ("accuracy",))
    card = ModelCard(base="x", base_fingerprint="x", head="sequence_classification")
    subject = Counted(torch.nn.Linear(2, 2), None, card, task, "test", 8, 0, tmp_path)
    cost, scored = CostSuite(single_rows=3).run(subject), TaskSuite().run(subject)
    assert subject.fed == [1, 1, 1, 1, ROWS]
    assert scored.scores["accuracy"] == 1
    assert cost.cost["rows_per_second"] == ROWS / subject.meter.seconds
    assert cost.cost["tokens_per_second"] == 3 * ROWS / subject.meter.seconds
    assert CostSuite.runs_first
    assert not TaskSuite.runs_first


def test_a_recipe_that_names_rows_of_the_cost_suite_is_still_read(caplog):
    assert CostSuite.model_validate({"name": "cost", "rows": 256, "single_rows": 4}) == CostSuite(single_rows=4)
    assert "means nothing any more" in caplog.text
