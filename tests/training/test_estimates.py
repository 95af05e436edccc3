"""What a dry run says of time and memory, by hand."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from luthier.training import estimates

CONFIG = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=50)


def test_memory_by_hand():
    trained = estimates.memory_estimate(1000, 100, CONFIG, 64)
    assert trained == estimates.LIBRARIES + 4 * 1000 + 12 * 100 + 4 * 64 * 36 * 32 * 2
    head = estimates.memory_estimate(1000, 100, CONFIG, 64, backward=False)
    assert trained - head == 4 * 64 * 36 * 32
    words = estimates.memory_estimate(1000, 100, CONFIG, 64, scored=True)
    assert words - trained == 4 * 64 * 3 * 50
    assert estimates.memory_estimate(1000, 100, CONFIG, 64, 10**9) == estimates.LIBRARIES + 5 * 10**9


def test_time_by_hand(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(estimates, "operations_per_second", lambda: 1e6)
    with torch.device("meta"):
        model = BertForSequenceClassification(CONFIG)
    total = sum(p.numel() for p in model.parameters())
    below = total - sum(p.numel() for name, p in model.named_parameters() if "embedding" in name)
    whole = (6 * below + 3 * 4 * 10 * 32 * 2) * 160 + 150 * total
    assert estimates.time_estimate(model, total, 160, 5, length=10) == pytest.approx(5 * whole / 1e6)
    model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    head = sum(p.numel() for p in model.classifier.parameters())
    alone = (2 * below + 2 * head) * 160 + 150 * head
    assert estimates.time_estimate(model, total, 160, 5, backward=False) == pytest.approx(5 * alone / 1e6)


def test_other_work_on_the_machine_changes_the_speed_little():
    """Processor time counts: a speed is measured that is possible, whatever else runs."""
    found = [estimates.operations_per_second() for _ in range(3)]
    assert 1e8 < min(found) <= max(found) < 1e14
