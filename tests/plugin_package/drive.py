"""Runs commands of the command line one after another in one process, and prints each one's exit code and output."""

from __future__ import annotations

import contextlib
import io
import json
import sys

from luthier.cli.arguments import main


def told(command: list[str]) -> dict[str, object]:
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            code = main(command)
        except SystemExit as stop:
            code = int(stop.code or 0)
    return {"code": code, "out": output.getvalue(), "err": errors.getvalue()}


if __name__ == "__main__":
    answers = [told(command) for command in json.loads(sys.argv[1])]
    print(json.dumps(answers))
