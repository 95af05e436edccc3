"""`FILE STEP ARGUMENTS...`: the command line in a process that writes the number of every row that it reads from a
stream to a file, and that is killed at the end of an optimiser step; never, where that is 0."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

from luthier.cli.arguments import main
from luthier.data import streamed_rows
from luthier.training.callbacks import StopRequest

ITERATE = streamed_rows.iterate_rows


def noted_in(path: str) -> None:
    """Let every reading of a stream write the rows down as they are read."""

    def noting(*arguments: Any) -> Iterator[Any]:
        with open(path, "a", buffering=1) as file:
            for row in ITERATE(*arguments):
                file.write(f"{row.number}\n")
                yield row

    streamed_rows.iterate_rows = noting


def killed_at(step: int) -> None:
    steps = iter(range(1, 1000))

    def counting(self: StopRequest) -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    StopRequest.agree = counting


if __name__ == "__main__":
    noted_in(sys.argv[1])
    killed_at(int(sys.argv[2]))
    sys.exit(main(sys.argv[3:]))
