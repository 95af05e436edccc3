"""kill -9 at twenty random moments, then the same command: metrics and weights equal those of an undisturbed run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

KILLS = 20


@pytest.mark.parametrize("method", ["full", "residual_prompt"])
def test_killed_twenty_times_equals_never_killed(workplace, method):
    workplace.tune.update(method=method, epochs=8, checkpoint_every=5, learning_rate=1e-3)
    recipe = workplace.write()
    commands = [["run", recipe, "--quiet", "--no-report", "--output", str(workplace.folder / n)] for n in ("a", "b")]
    script = str(Path(__file__).with_name("fork_runs.py"))
    arguments = [sys.executable, script, *map(json.dumps, commands), str(KILLS // 2)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=280, cwd=workplace.folder)
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["straight"] == outcome["code"] == 0, done.stderr
    assert outcome["died"] >= KILLS // 4
    straight, killed = (workplace.folder / n / "small" for n in ("a", "b"))
    for stage in ("00-tune", "01-evaluate"):
        first, second = (json.loads((r / stage / "metrics.json").read_text()) for r in (straight, killed))
        assert first["scores"] == second["scores"]
        assert first["intervals"] == second["intervals"]
    weights = sorted((straight / "00-tune" / "model").glob("*.safetensors"))
    assert weights
    for path in weights:
        other = load_file(killed / "00-tune" / "model" / path.name)
        for name, tensor in load_file(path).items():
            assert tensor.equal(other[name]), name
