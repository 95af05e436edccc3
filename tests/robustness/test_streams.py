"""Objectives that look at training batches before they train, on rows that know where they are."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.robustness.settings import RoastSettings
from luthier.training.job import train
from luthier.training.weights import trainable_state
from tests.training.test_job import At, Killed, kill, tiny_model
from tests.training.test_stateful import Counted, streamed_job


def roast_job(folder: Path, model: Any) -> Any:
    job = streamed_job(folder, model, batch_size=4, checkpoint_every=3)
    return dataclasses.replace(job, parts=RoastSettings(importance_batches=2).parts())


def test_measuring_importance_takes_no_row_from_training_and_leaves_the_resume_exact(tmp_path: Path) -> None:
    given: list[int] = []

    class Noted(Counted):
        def __iter__(self) -> Any:
            for row in super().__iter__():
                given.append(row["row"])
                yield row

    straight, resumed = tiny_model(), tiny_model()
    job = roast_job(tmp_path / "a", straight)
    job.data.rows = Noted()
    train(job)
    expected = [row["row"] for _, row in zip(range(48), Counted(), strict=False)]
    assert given[-48:] == expected
    assert given[:8] == expected[:8]
    with pytest.raises(Killed):
        train(roast_job(tmp_path / "b", tiny_model()), [At(8, kill)])
    train(roast_job(tmp_path / "b", resumed))
    for name, value in trainable_state(straight).items():
        assert torch.equal(value, trainable_state(resumed)[name]), name
