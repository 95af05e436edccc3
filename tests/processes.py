"""Processes for tests that cost no imports: each is forked from one that has torch, transformers and PEFT, and nothing
of Luthier.

For what a fresh interpreter does, what it imports, or how it hashes, start one with `subprocess`.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

CONTEXT: Any = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "torch.distributed",
        "transformers.trainer",
        "transformers.models.bert.modeling_bert",
        "transformers.models.llama.modeling_llama",
        "transformers.models.t5.modeling_t5",
        "peft",
        "safetensors.torch",
    ]
)
WRITTEN = ("stdout", "stderr")
Completed = subprocess.CompletedProcess[str]


def python(
    *arguments: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 280,
    check: bool = False,
) -> Completed:
    """What `subprocess.run([sys.executable, *arguments])` gives: of a script, `-m module` or `-c code`.

    Args:
        cwd, env, timeout, check: as there.
    """
    (done,) = _finished([_Python(arguments, cwd, env)], timeout)
    if check:
        done.check_returncode()
    return done


def ranks(
    count: int, *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 280
) -> list[Completed]:
    """The processes of one run, each told its number as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **(os.environ if env is None else env),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
    }
    started = [
        _Python(arguments, cwd, {**shared, "RANK": str(number), "LOCAL_RANK": str(number)}) for number in range(count)
    ]
    return _finished(started, timeout)


def of_each(count: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call a function in several processes at once, with the number of each first; `torch.multiprocessing.spawn`."""
    from torch.multiprocessing import start_processes

    start_processes(function, arguments, nprocs=count, start_method="forkserver")


class _Python:
    """A started process, and the folder that holds what it wrote."""

    def __init__(self, arguments: Sequence[str | Path], cwd: Path | None, env: Mapping[str, str] | None) -> None:
        self.arguments = [str(argument) for argument in arguments]
        self.written = tempfile.TemporaryDirectory()
        for name in WRITTEN:
            (Path(self.written.name) / name).touch()
        environment = dict(os.environ if env is None else env)
        given = (self.arguments, str(cwd or Path.cwd()), environment, self.written.name)
        self.process = CONTEXT.Process(target=_run, args=given)
        self.process.start()

    def completed(self) -> Completed:
        texts = [(Path(self.written.name) / name).read_text() for name in WRITTEN]
        self.written.cleanup()
        return subprocess.CompletedProcess(self.arguments, self.process.exitcode, *texts)


def _finished(started: list[_Python], timeout: float) -> list[Completed]:
    for one in started:
        one.process.join(timeout)
    late = [one for one in started if one.process.exitcode is None]
    for one in late:
        one.process.kill()
        one.process.join()
    done = [one.completed() for one in started]
    if late:
        raise subprocess.TimeoutExpired(late[0].arguments, timeout, stderr="\n".join(one.stderr for one in done))
    return done


def _run(arguments: list[str], folder: str, environment: dict[str, str], written: str) -> None:
    """In the forked process."""
    import torch

    gc.freeze()
    for number, name in enumerate(WRITTEN, 1):
        os.dup2(os.open(f"{written}/{name}", os.O_WRONLY), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    sys.path[:0] = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", 1)))
    try:
        _execute(*arguments)
    finally:
        atexit._run_exitfuncs()


def _execute(first: str, *rest: str) -> None:
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    elif first == "-m":
        sys.argv = list(rest)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")
