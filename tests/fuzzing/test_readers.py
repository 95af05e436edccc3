"""Some changed files for every reader: read, or refused with a message. `python -m tests.fuzzing` goes on."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest

from tests.fuzzing.cases import tried
from tests.fuzzing.targets import TARGETS

# Readers whose one case takes long get fewer.
CASES = {"run directory": 2, "model": 6, "adapter": 5, "manifest": 5, "recipe with a preset": 10}
MANY = 15


@pytest.mark.parametrize("name", TARGETS)
def test_changed_files_are_read_or_refused(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.CRITICAL)
    target, draw = TARGETS[name], random.Random(name)
    sound = target.sound(tmp_path / "case")
    target.run(tmp_path / "case")
    for _ in range(CASES.get(name, MANY)):
        file, content = target.changed(sound, draw)
        finding = tried(target, tmp_path / "case", file, content, sound)
        assert finding is None, f"{finding.key}\n{finding.text}\n{content[:2000]!r}"
