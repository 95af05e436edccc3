"""A full disk is told as such, by whatever library it is met, and the same command goes on once there is space."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from luthier.errors import WorkspaceError
from luthier.storage.files import (
    disk_failure,
    reporting_failed_writes,
    reserve_space,
    write_bytes,
    write_json,
    write_text,
)
from luthier.storage.jsonlines import JsonLog

resource = pytest.importorskip("resource")
FULL = Path("/dev/full")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, which a write meets as it meets a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def checkpoint(folder: Path) -> None:
    from luthier.training.checkpoints import writing

    with writing(folder / "checkpoint-1") as scratch:
        torch.save({"state": torch.zeros(10_000)}, scratch / "optimizer.pt")


def best_weights(folder: Path) -> None:
    from luthier.training.weights import save_trainable, trainable_state

    save_trainable(trainable_state(torch.nn.Linear(100, 100)), folder / "best-1.safetensors")


def vectors(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        from luthier.prediction.embedding import write_vectors

        write_vectors(folder / name, ["text"] * 100, np.random.default_rng(0).random((100, 100)))

    return write


def task_prefix(folder: Path) -> None:
    from luthier.representing.states import TaskPrefix

    TaskPrefix({"encoder.0.self": (torch.zeros(10, 1000), torch.ones(10, 1000))}).write(
        folder / "prefix.safetensors", "task", "0" * 64
    )


def folded_prompt(folder: Path) -> None:
    from peft import PromptTuningConfig

    from luthier.peft_bridge.folded_prompt import FoldedPrompt

    FoldedPrompt(PromptTuningConfig(), {"prompt_embeddings": torch.zeros(10, 1000)}).save(folder)


def text_model(folder: Path) -> None:
    from tokenizers import Tokenizer, models

    from luthier.models.artifacts import whole_artifact

    words = {f"word{i}": i for i in range(3000)}
    with whole_artifact(folder / "model") as scratch:
        Tokenizer(models.WordLevel(words, unk_token="word0")).save(str(scratch / "tokenizer.json"))


WRITERS: dict[str, Callable[[Path], None]] = {
    "bytes": lambda folder: write_bytes(folder / "file", bytes(9000)),
    "text": lambda folder: write_text(folder / "file", "x" * 9000),
    "json": lambda folder: write_json(folder / "file", list(range(9000))),
    "log": lambda folder: JsonLog(folder / "log.jsonl").write("event", text="x" * 9000),
    "checkpoint": checkpoint,
    "best weights": best_weights,
    "npy": vectors("vectors.npy"),
    "parquet": vectors("vectors.parquet"),
    "task prefix": task_prefix,
    "folded prompt": folded_prompt,
    "tokenizer": text_model,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_tells_of_a_full_disk_and_leaves_no_scratch_files(tmp_path: Path, writer: str):
    with largest_file(4096), pytest.raises(WorkspaceError) as caught:
        WRITERS[writer](tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert re.search("fix: (free some space|raise the limit on a file's size)", str(caught.value))
    in_place = {"log.jsonl", "adapter_config.json", "adapter_model.safetensors", "prefix.safetensors"}
    assert {path.name for path in tmp_path.rglob("*")} <= in_place
    WRITERS[writer](tmp_path)


LIBRARIES: dict[str, Callable[[Path], None]] = {
    "torch, by name": lambda folder: torch.save(torch.zeros(10_000), folder / "file"),
    "torch, to a file": lambda folder: torch.save(torch.zeros(10_000), (folder / "file").open("wb")),
    "numpy": lambda folder: np.save(folder / "file.npy", np.zeros(10_000)),
    "numpy, mapped": lambda folder: np.lib.format.open_memmap(folder / "file.npy", mode="w+", shape=(10_000,)),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("library", LIBRARIES)
def test_what_a_library_raises_is_known_as_the_disks_refusal(tmp_path: Path, library: str):
    with largest_file(4096), pytest.raises(Exception) as caught:
        LIBRARIES[library](tmp_path)
    assert disk_failure(caught.value) is not None


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, "free some space, or choose another folder; then run the same command again"),
        (None, "free some space, or choose another folder; then run the same command again"),
        (errno.EACCES, "choose a folder that you may write to, or have its permissions changed"),
        (errno.EPERM, "choose a folder that you may write to, or have its permissions changed"),
        (errno.EROFS, "choose a folder on a disk that can be written to; this one is read-only"),
        (errno.ENOTDIR, "choose another folder, or move away what stands in its way"),
        (errno.ENAMETOOLONG, "choose a folder with a shorter name"),
        (errno.EXDEV, "choose another folder"),
    ],
)
def test_the_fix_is_one_for_what_the_write_was_refused_with(tmp_path: Path, number: int | None, fix: str):
    """And names no option, since a verb may have none."""
    refused = OSError("5 requested and 2 written") if number is None else OSError(number, os.strerror(number))
    with pytest.raises(WorkspaceError) as caught, reporting_failed_writes(tmp_path):
        raise refused
    assert caught.value.fix == fix


def test_a_file_in_the_way_is_no_matter_of_space(workplace, capsys, monkeypatch):
    """For a verb that has --output, and for one that has none."""
    (workplace.folder / "runs").write_text("in the way")
    assert workplace.luthier("run", workplace.write(), "--quiet") == 6
    assert "fix: choose another folder with --output, or move away what stands in its way" in capsys.readouterr().err
    assert workplace.luthier("schema", "--output", str(workplace.folder / "runs" / "schema.json")) == 6
    assert "fix: choose another file, or move away what stands in its way" in capsys.readouterr().err
    assert workplace.luthier("init", str(workplace.folder / "runs" / "recipe.yaml")) == 6
    assert "--output" not in capsys.readouterr().err


def test_other_errors_are_left_alone(tmp_path: Path):
    for error in (RuntimeError("shapes differ"), ValueError("odd"), WorkspaceError("told already (os error 28)")):
        with pytest.raises(type(error)) as caught, reporting_failed_writes(tmp_path):
            raise error
        assert caught.value is error
    assert disk_failure(FileNotFoundError(2, "No such file or directory")) is None


# Sizes at which other files are the first that do not fit: logs, a checkpoint's small files, its weights, its moments.
@pytest.mark.parametrize("size", [600, 3000, 20_000, 90_000, 160_000])
def test_a_run_on_a_full_disk_says_so_and_goes_on_when_there_is_space(workplace, capsys, size: int):
    workplace.tune["checkpoint_every"] = 1  # the last checkpoint of a run keeps no optimiser
    recipe = workplace.write()
    with largest_file(size):
        code = workplace.luthier("run", recipe, "--quiet")
    told = capsys.readouterr().err
    assert code == 6, told
    assert "File too large" in told or "may be full" in told
    assert not (workplace.folder / "luthier-error.log").exists()
    assert workplace.luthier("run", recipe, "--quiet") == 0


@pytest.mark.parametrize("method", ["idpg", "head_only"])
def test_a_cache_that_can_not_be_written_stops_no_run(workplace, monkeypatch, method: str):
    place = workplace.folder / "cache"
    place.write_text("a file in its place")
    monkeypatch.setenv("LUTHIER_CACHE", str(place))
    workplace.recipe["stages"] = workplace.recipe["stages"][:1]
    workplace.tune.update(method=method, max_steps=1)
    assert workplace.run() == 0


@pytest.mark.skipif(not FULL.exists(), reason="the machine has no /dev/full")
def test_an_answer_that_does_not_fit_is_told(workplace, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdout", FULL.open("w"))
    assert workplace.luthier("list") == 6
    assert "No space left on device" in capsys.readouterr().err


def test_an_array_that_will_not_fit_is_refused_before_it_is_filled(tmp_path: Path):
    """On a file system of its own: a mapped file without space kills whoever writes to it."""
    if subprocess.run(mounted(tmp_path, "true"), capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    program = (
        "import sys; from pathlib import Path; from luthier.storage.files import disk_failure, reserve_space\n"
        "path = Path(sys.argv[1]) / 'array'; path.touch(); import os; os.truncate(path, 1 << 20)\n"
        "try: reserve_space(path)\n"
        "except OSError as error: sys.exit(9 if disk_failure(error) else 8)\n"
    )
    done = subprocess.run(
        mounted(tmp_path, f'"{sys.executable}" -c "$PROGRAM" "{tmp_path}"'),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PROGRAM": program, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 9, done.stderr
    array = tmp_path / "array"
    array.write_bytes(bytes(10))
    reserve_space(array)
    assert array.read_bytes() == bytes(10)


def mounted(folder: Path, command: str) -> list[str]:
    """The command, run where the folder is a file system of 64 KiB."""
    return ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size=64k none "{folder}" && {command}']
