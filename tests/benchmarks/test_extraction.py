"""The benchmarks of extraction: what is compared is the same, and what is averaged is the F1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.extraction.sentences import DOCUMENTS, tiny_encoder, write


def test_masks_and_range_maxima_tell_the_same(monkeypatch: pytest.MonkeyPatch):
    import extraction_speed

    monkeypatch.setattr(extraction_speed, "SIZES", {"tiny": (32, 2, 2)})
    model, batch = extraction_speed.model_of("tiny"), extraction_speed.sentence(0)
    with torch.inference_mode():
        assert extraction_speed.let_tell(model, batch, 12) == 12
        extraction_speed.check_agreement(model, batch)
        model.entity_head.linear.bias[1] += 0.5
        plain = extraction_speed.Masks(model)(**batch)
        model.entity_head.linear.bias[1] -= 0.5
        with pytest.raises(AssertionError):
            torch.testing.assert_close(
                model(**batch).entity_logits[0][model(**batch).span_valid[0]], plain["entity_logits"]
            )


def test_the_mean_over_sentences_is_the_f1_and_that_of_draws_is_near_theirs():
    import sinet

    draw = np.random.default_rng(0)
    gold, told = draw.integers(0, 4, (2, 400))
    right = draw.binomial(np.minimum(gold, told), 0.6)
    counts = np.stack([gold, told, right], axis=1)
    values = sinet.outcomes({"sentences": {"relation": sinet.as_text(counts)}}, "relation")
    assert values.mean() == pytest.approx(2 * right.sum() / (gold + told).sum())
    rows = draw.integers(0, 400, (200, 400))
    exact = [2 * right[one].sum() / (gold + told)[one].sum() for one in rows]
    near = values[rows].mean(axis=1)
    assert np.abs(near - exact).max() < 0.3 * np.std(exact)
    assert np.std(near) == pytest.approx(np.std(exact), rel=0.03)


def test_every_arm_trains_its_own_head(tmp_path: Path):
    import harness
    import sinet

    bench = harness.Bench(str(tiny_encoder(tmp_path / "model")))
    data = {"train": write(tmp_path / "train.json", DOCUMENTS), "validation_fraction": 0.2, "task": "joint_extraction"}
    for arm, head in (sinet.ARMS | sinet.MORE).items():
        *_, model = bench.ready({"data": data, "method": "full", "head": head}, seed=1)
        told = {name: getattr(model.config, name) for name in head}
        assert told == head, arm
