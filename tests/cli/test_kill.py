"""kill -9 at twenty random moments, then the same command: metrics and weights equal those of an undisturbed run."""

import json
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.processes import python

KILLS = 20


@pytest.mark.parametrize("method", ["full", "residual_prompt"])
def test_killed_twenty_times_equals_never_killed(workplace, method):
    workplace.tune.update(method=method, epochs=5, checkpoint_every=5, learning_rate=1e-3)
    recipe = workplace.write()
    commands = [["run", recipe, "--quiet", "--no-report", "--output", str(workplace.folder / n)] for n in ("a", "b")]
    script = str(Path(__file__).with_name("fork_runs.py"))
    done = python(script, *map(json.dumps, commands), str(KILLS // 2), cwd=workplace.folder)
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["straight"] == outcome["code"] == 0, done.stderr
    assert outcome["died"] >= KILLS // 4
    straight, killed = (workplace.folder / n / "small" for n in ("a", "b"))
    for stage in ("00-tune", "01-evaluate"):
        first, second = (json.loads((r / stage / "metrics.json").read_text()) for r in (straight, killed))
        assert first["scores"] == second["scores"]
        assert first["intervals"] == second["intervals"]
    assert_same_weights(straight, killed)


def assert_same_weights(one: Path, other: Path) -> None:
    files = sorted((one / "00-tune" / "model").glob("*.safetensors"))
    assert files
    for path in files:
        weights = load_file(other / "00-tune" / "model" / path.name)
        for name, tensor in load_file(path).items():
            assert tensor.equal(weights[name]), name


def test_a_stream_that_is_killed_in_its_midst_goes_on_exactly_and_reads_no_row_again(workplace):
    """45 steps of 8 rows are almost three passes over 128 rows; the checkpoint before the kill is that of step 25."""
    workplace.recipe["stages"].pop()
    workplace.tune.pop("epochs")
    workplace.tune.update(max_steps=45, checkpoint_every=5, learning_rate=1e-3)
    workplace.tune["data"].update(streaming=True, buffer=20, labels=["negative", "positive"])
    recipe, script = workplace.write(), str(Path(__file__).with_name("streamed_run.py"))

    def rows_read(output: str, step: int, code: int, recipe: str = recipe) -> list[int]:
        file = workplace.folder / f"{output}-{step}"
        command = [script, file, str(step), "run", recipe, "--quiet", "--no-report", "--output", output]
        done = python(*command, cwd=workplace.folder)
        assert done.returncode == code, done.stderr
        return [int(number) for number in file.read_text().split()]

    straight = rows_read("a", 0, 0)
    killed = rows_read("b", 28, -signal.SIGKILL)
    resumed = rows_read("b", 0, 0)
    assert_same_weights(workplace.folder / "a" / "small", workplace.folder / "b" / "small")
    # Before it trains, a run reads the first row, to see what there is.
    looks = next(place for place, row in enumerate(straight) if row == 2) - 1
    trained_on = 25 * 8
    assert straight[looks:] == [1 + row % 128 for row in range(len(straight) - looks)]
    assert trained_on < len(killed) - looks < len(straight) - looks
    ahead = looks + len(straight) - len(resumed)
    assert resumed == straight[:looks] + straight[ahead:]
    assert ahead - looks >= trained_on
    # Rows that workers encode ahead change nothing, and none of the workers holds the directory after the kill.
    workplace.tune["workers"] = 2
    helped = workplace.write()
    rows_read("c", 28, -signal.SIGKILL, helped)
    again = rows_read("c", 0, 0, helped)
    assert_same_weights(workplace.folder / "a" / "small", workplace.folder / "c" / "small")
    assert again == resumed
