"""The stages of `examples`, registered for one test."""

from __future__ import annotations

import pytest

from luthier.registry import STAGES
from tests.stages.examples import RAN, STAGES_HERE


@pytest.fixture
def example_stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Registers them, and gives the names of those that ran, as they run."""
    monkeypatch.setattr(STAGES, "_entries", {name: STAGES.get(name) for name in STAGES.names()} | STAGES_HERE)
    RAN.clear()
    return RAN
