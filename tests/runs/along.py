"""What each process runs in the tests of several processes.

`one RECIPE OUTPUT`: the command line; the other process is killed at a step. `many PLAN`: several runs, one after
another, of which some fail on purpose; what became of each is written down by every process.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from functools import wraps
from pathlib import Path
from typing import Any

import torch

import luthier
from luthier.cli.arguments import main
from luthier.data import streamed_rows
from luthier.errors import LuthierError
from luthier.language_modeling.row_slices import RowSlices
from luthier.storage.ranks import is_main, rank
from luthier.tasks.running import predicting
from luthier.training import supervised
from luthier.training.callbacks import StopRequest
from luthier.training.split_trainer import SplitTrainer
from luthier.training.trainer import LuthierTrainer

KILLED_AT = 11


def signalled(number: int, step: int) -> None:
    """Send this process alone a signal at the end of an optimiser step."""
    steps = iter(range(1, 1000))

    def counting(self: StopRequest) -> None:
        if next(steps) == step:
            os.kill(os.getpid(), number)
        AGREE(self)

    StopRequest.agree = counting


def harmed(how: str, at: int = 7) -> None:
    """Let what only this process meets go wrong; a signal comes at the end of that step."""
    LuthierTrainer.loss_of, supervised.prepare, StopRequest.agree = LOSS_OF, PREPARE, AGREE
    supervised.task_result, PASSES.failing = SCORES, False
    SplitTrainer._write_own_part, RowSlices.in_order = WRITE_PART, IN_ORDER
    if how == "score" and is_main():

        def no_scores(*_arguments: Any, **_options: Any) -> Any:
            raise luthier.errors.DataError("nothing can be scored")

        supervised.task_result = no_scores
    if is_main() or not how:
        return
    PASSES.failing = how == "pass"
    if how in ("signal", "kill"):
        signalled(signal.SIGTERM if how == "signal" else signal.SIGKILL, at)
    if how in ("full disk", "killed"):
        checkpoints = iter(range(1, 1000))

        def third(self: SplitTrainer) -> Any:
            if next(checkpoints) < 3:
                return WRITE_PART(self)
            if how == "full disk":
                return luthier.errors.WorkspaceError("no space left on device")
            WRITE_PART(self)
            os.kill(os.getpid(), signal.SIGKILL)

        SplitTrainer._write_own_part = third
    if how == "slices":
        RowSlices.in_order = lambda self, slices: IN_ORDER(self, slices.flip(0))
    if how == "loss":
        LuthierTrainer.loss_of = lambda self, *arguments: LOSS_OF(self, *arguments) * torch.nan
    if how == "data":

        def refuse(*_arguments: Any) -> Any:
            raise luthier.errors.DataError("the disk of this machine is gone", where="train.tsv")

        supervised.prepare = refuse


class Passes:
    """Counts the passes of evaluations that this process makes, or fails in the second one."""

    def __init__(self) -> None:
        self.count, self.failing, run = 0, False, predicting._pass

        @wraps(run)
        def counting(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.failing and self.count == 2:
                raise luthier.errors.DataError("the memory of this accelerator is gone")
            return run(*arguments, **options)

        predicting._pass = counting


LOSS_OF, PREPARE, AGREE = LuthierTrainer.loss_of, supervised.prepare, StopRequest.agree
SCORES, PASSES, WRITE_PART = supervised.task_result, Passes(), SplitTrainer._write_own_part
IN_ORDER = RowSlices.in_order


def rows_read() -> list[int]:
    """Where the numbers of the rows are put that this process reads from streams."""
    numbers, iterate = [], streamed_rows.iterate_rows

    def noting(*arguments: Any) -> Any:
        for row in iterate(*arguments):
            numbers.append(row.number)
            yield row

    streamed_rows.iterate_rows = noting
    return numbers


def many(plan: Path) -> None:
    told, read = [], rows_read()
    for one in json.loads(plan.read_text()):
        gc.freeze()  # no run looks for garbage among what was imported
        harmed(one.get("harm", ""), one.get("at", 7))
        read.clear()
        PASSES.count = 0
        try:
            record = luthier.run(one["recipe"], one.get("overrides", []), output=one["output"])
            said = {"folder": str(record.folder), "errors": [cell.error for cell in record.cells]}
        except LuthierError as error:
            said = {"error": str(error), "code": error.exit_code}
        told.append({**said, "read": list(read), "passes": PASSES.count})
    plan.with_name(f"told-{rank()}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    if sys.argv[1] == "many":
        many(Path(sys.argv[2]))
        sys.exit(0)
    if not is_main():
        signalled(signal.SIGKILL, KILLED_AT)
    sys.exit(main(["run", sys.argv[2], "--output", sys.argv[3], "--quiet"]))
