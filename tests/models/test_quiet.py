"""Warnings of other libraries: those that are named as noise go to the log, all others are shown."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from luthier.models.quiet import NOISE, log_noise, noise_logged, noise_named
from tests.tuning.cases import base_model, batch_of

PEFT, TRANSFORMERS = str(Path(peft.__file__).parent / "any.py"), str(Path(transformers.__file__).parent / "any.py")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is shown while warnings are not collected by the test's own runner."""
    found: list[str] = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *rest, **more: found.append(str(message)))
    warnings.simplefilter("always")
    return found


def test_pefts_word_on_positions_is_logged_with_the_reason(shown: list[str], caplog: pytest.LogCaptureFixture):
    model: Any = peft.get_peft_model(base_model("decoder"), peft.PromptTuningConfig("CAUSAL_LM", num_virtual_tokens=2))
    batch = batch_of("decoder", [4])
    batch["position_ids"] = torch.arange(4)[None]
    model(**batch)
    assert any("Position ids are not supported" in text for text in shown)
    del shown[:]
    with noise_logged(), caplog.at_level(logging.DEBUG):
        model(**batch)
        warnings.warn("mine", stacklevel=1)
    assert shown == ["mine"]
    assert "Position ids are not supported" in caplog.text
    assert "counts the positions" in caplog.text
    model(**batch)
    assert any("Position ids are not supported" in text for text in shown)


@pytest.mark.parametrize(
    ("message", "category", "file", "is_noise"),
    [
        ("Could not find a config file in x - will assume that the vocabulary was not modified.", UserWarning, PEFT, 1),
        ("Could not find a config file in x", UserWarning, PEFT, 0),
        ("`old` is deprecated", FutureWarning, TRANSFORMERS, 1),
        ("`old` is deprecated", UserWarning, TRANSFORMERS, 0),
        ("`old` is deprecated", FutureWarning, "/home/me/mine.py", 0),
        ("Position ids are not supported for parameter efficient tuning. x", UserWarning, TRANSFORMERS, 0),
        ("PiSSA changes the base weights of the model", UserWarning, PEFT, 0),
    ],
)
def test_only_what_is_named_is_noise(message: str, category: type[Warning], file: str, is_noise: int):
    assert bool(noise_named(message, category, file)) == bool(is_noise)


def test_every_entry_has_a_reason_and_it_is_set_up_once(shown: list[str]):
    assert all(noise.why for noise in NOISE)
    log_noise()
    first = warnings.showwarning
    log_noise()
    assert warnings.showwarning is first
