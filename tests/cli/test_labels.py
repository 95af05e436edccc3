"""Labels on the command line: runs that are stopped, words that the model can't see, and text that is none."""

import json
import os
import subprocess
import sys

from tests.cli.conftest import sentences, write_tsv

STOPPED_RUN = """
import os, signal, sys
from luthier.cli import main
from luthier.training.trainer import LuthierTrainer

step, calls = LuthierTrainer.training_step, []

def interrupted(self, *arguments, **options):
    calls.append(1)
    if len(calls) == 20:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, *arguments, **options)

LuthierTrainer.training_step = interrupted
sys.exit(main(sys.argv[1:]))
"""


def test_a_run_that_another_process_continues_keeps_its_labels(workplace):
    for split, count, seed in (("train", 128, 0), ("validation", 32, 1), ("test", 32, 2)):
        rows = [(text, {"positive": "1.10", "negative": "1.1"}[label]) for text, label in sentences(count, seed)]
        write_tsv(workplace.folder / f"{split}.tsv", rows)
    workplace.tune["data"]["task"] = "single_sentence"
    recipe = workplace.write()

    def run(output: str, hash_seed: int, *program: str) -> int:
        command = [sys.executable, *program, "run", recipe, "--quiet", "--no-report", "--output", output]
        environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
        return subprocess.run(command, cwd=workplace.folder, env=environment, timeout=200).returncode

    assert run("straight", 0, "-m", "luthier.cli") == 0
    assert run("stopped", 1, "-c", STOPPED_RUN) == 75
    assert run("stopped", 2, "-m", "luthier.cli") == 0
    told = [
        json.loads((workplace.folder / output / "small" / "00-tune" / "metrics.json").read_text())
        for output in ("straight", "stopped")
    ]
    assert told[0]["details"]["labels"] == told[1]["details"]["labels"] == ["1.1", "1.10"]
    assert told[0]["scores"] == told[1]["scores"]
    assert told[0]["scores"]["validation/accuracy"] > 0.9
