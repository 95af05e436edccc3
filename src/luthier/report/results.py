"""Reads run directories: finished, failed, unfinished and damaged ones alike."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from luthier.errors import WorkspaceError
from luthier.metric_names import is_mean_of_rows, is_mean_of_tokens
from luthier.report.intervals import redrawn_means
from luthier.storage.jsonlines import read_log
from luthier.storage.nearby import check_there
from luthier.storage.provenance import ENVIRONMENT

if TYPE_CHECKING:
    import numpy as np

Status = Literal["finished", "failed", "pruned", "unfinished"]
Curves = dict[str, list[tuple[float, float]]]
TRIALS = "trials.jsonl"
_NOT_SERIES = ("event", "time", "step", "epoch", "suite")


@dataclass
class Cell:
    """One run, or one cell of a grid.

    Attributes:
        name: of its folder.
        factors: what sets it apart, `{recipe key: value}`.
        stages: stage folder name -> content of metrics.json, of the stages that are done. `scores`, `intervals` and
            `cost` hold finite numbers only, `primary` is a name or None.
        curves: stage folder name -> series name -> [(step, value)].
        progress: stage folder name -> (last step that is logged, steps that were planned or None).
        status: whether every stage of its recipe is done; `pruned` where a search ended it early.
        error: what stopped it.
        seed: that of the cell, else that of its recipe.
        problems: files that are torn or missing, in words.
    """

    name: str
    factors: dict[str, Any]
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    curves: dict[str, Curves] = field(default_factory=dict)
    progress: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    status: Status = "finished"
    error: str | None = None
    seed: Any = None
    problems: list[str] = field(default_factory=list)

    @property
    def primary(self) -> tuple[str, float] | None:
        """Name and value of the score that a table shows first: that of the last stage that has one; None where it is
        no finite number, for which no earlier stage stands in."""
        for metrics in reversed(list(self.stages.values())):
            if (name := metrics.get("primary")) is not None:
                return (name, metrics["scores"][name]) if name in metrics["scores"] else None
        return None

    def drawn(self, score: str) -> np.ndarray | None:
        """(B,) a score in every draw of rows that `luthier.report.intervals` makes, where a stage tells."""
        for metrics in reversed(list(self.stages.values())):
            if score in metrics["scores"] and (found := _drawn_of(metrics["details"], score)) is not None:
                return found
        return None

    def rows_alike(self, score: str) -> int | None:
        """How many rows bound a score where they all came out alike: N where it is a mean over them, else None."""
        if not is_mean_of_rows(score):
            return None
        split = score.partition("/")[0]
        for metrics in reversed(list(self.stages.values())):
            found = _mapping(metrics["details"].get("rows_drawn")).get(split)
            if isinstance(found, int) and found > 0:
                return found
            if split == "validation" and (right := _outcomes(metrics["details"])):
                return len(right)
        return None

    def scored_rows(self, split: str) -> str | None:
        """Fingerprint of the rows of a split that were scored last, or at least their number, where a stage tells."""
        for metrics in reversed(list(self.stages.values())):
            found = _mapping(metrics["details"].get("scored_rows")).get(split)
            if isinstance(found, str):
                return found
            if split == "validation" and (right := _outcomes(metrics["details"])):
                return f"{len(right)} rows"
        return None

    def scored_tokens(self, score: str) -> int | None:
        """How many tokens a score is the mean over, where it is one and a stage tells. Of the same text another
        tokenizer makes more of them, or fewer."""
        if not is_mean_of_tokens(score):
            return None
        for metrics in reversed(list(self.stages.values())):
            found = metrics["details"].get("scored_tokens")
            if score in metrics["scores"] and isinstance(found, int):
                return found
        return None

    @property
    def trained(self) -> bool:
        """Whether a stage trained a model, so that its costs are those of training."""
        return any("trainable_parameters" in metrics["cost"] for metrics in self.stages.values())

    def cost(self, key: str) -> float | None:
        """A cost of the stages that trained, or of the first that has it where none did.

        Seconds add up over those stages, of peak memory the largest counts, of all else the last.
        """
        having = [m for m in self.stages.values() if key in m["cost"]]
        trained = [m["cost"][key] for m in having if "trainable_parameters" in m["cost"]]
        if not trained:
            return having[0]["cost"][key] if having else None
        if key == "seconds":
            return math.fsum(trained)
        return max(trained) if key == "peak_memory_bytes" else trained[-1]


@dataclass
class Run:
    """A run directory.

    Attributes:
        name, folder: of the run.
        recipe: text of the resolved recipe.
        environment: content of environment.json: where the stages were run that were run last.
        cells: one for a plain run.
        baseline: the value that differences are taken to, as the recipe names it.
        compare: the recipe's block of that name.
        problems: what is torn, missing or left out, in words.
    """

    name: str
    folder: Path
    recipe: str
    environment: dict[str, Any]
    cells: list[Cell]
    baseline: str | None = None
    problems: list[str] = field(default_factory=list)
    compare: dict[str, Any] = field(default_factory=dict)


def read_runs(folders: list[Path]) -> list[Run]:
    """Read several run directories. See `read_run`."""
    return [read_run(folder) for folder in folders]


def read_run(folder: Path) -> Run:
    """Read a run directory; what is torn or missing in it is told in the result.

    Raises:
        WorkspaceError: the folder is not there or no run, or its recipe can't be opened.
    """
    folder = Path(folder)
    check_there(folder, WorkspaceError, "name a folder that `luthier run` made")
    if not (folder / "recipe.yaml").is_file():
        raise WorkspaceError("this is no run directory", where=str(folder), fix="name a folder that `luthier run` made")
    recipe = _text(folder / "recipe.yaml")
    if recipe is None:
        raise WorkspaceError("the recipe can't be opened", where=str(folder / "recipe.yaml"), fix="check its owner")
    problems: list[str] = []
    plan = _recipe_data(recipe, problems)
    compare = _mapping(plan.get("compare"))
    over = {k: v for k, v in _mapping(compare.get("over")).items() if isinstance(v, list)}
    places = sorted(p for p in (folder / "cells").glob("*") if p.is_dir())
    if over or compare.get("search") or (places and not plan):
        wanted = _trials(folder) if compare.get("search") else _combinations(over)
        cells = _read_grid(folder, places, wanted, problems)
    else:
        cells = [_read_cell(folder, plan)]
    environment = _json(folder / ENVIRONMENT, problems)
    baseline = compare.get("baseline")
    name = folder.resolve().name
    baseline = None if baseline is None else str(baseline)
    return Run(name, folder, recipe, environment, cells, baseline, problems, compare)


def _combinations(over: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(over, values, strict=True)) for values in itertools.product(*over.values())] if over else []


def _drawn_of(details: Mapping[str, Any], score: str) -> np.ndarray | None:
    import numpy as np

    kept = _mapping(details.get("drawn_scores")).get(score)
    if isinstance(kept, list) and len(kept) > 1 and all(map(_is_number, kept)):
        return np.array(kept, dtype=np.float64)
    right = _outcomes(details)
    if score != "validation/accuracy" or len(right) < 2:
        return None
    drawn: np.ndarray = redrawn_means(np.array([[float(row) for row in right]]))[0]
    return drawn


def _outcomes(details: Mapping[str, Any]) -> str:
    """A 1 or 0 for every validation row, right or wrong; empty where a stage does not tell."""
    right = details.get("validation_correct")
    return right if isinstance(right, str) and not set(right) - {"0", "1"} else ""


def _trials(folder: Path) -> list[dict[str, Any]]:
    """Factors of the trials that a search has begun, each once, in their order."""
    try:
        records = read_log(folder / TRIALS)
    except (OSError, RecursionError):
        return []
    factors = [_mapping(record.get("factors")) for record in records if record.get("event") == "ask"]
    return list({_key(one): one for one in factors}.values())


def _read_grid(folder: Path, places: list[Path], wanted: list[dict[str, Any]], problems: list[str]) -> list[Cell]:
    """Cells in the wanted order, those that were never started included, those of another grid not. Of two folders
    with one cell, as where its factors were named in another order, the one that was run last is read."""
    found: dict[str, Cell] = {}
    for place in sorted(places, key=_last_run):
        recipe = _text(place / "recipe.yaml")
        unread: list[str] = []
        cell = _read_cell(place, _recipe_data(recipe, unread) if recipe else {}, of_grid=True)
        if recipe is None and cell.status == "finished":
            unread.append("recipe.yaml is missing")
        cell.problems += unread
        found[_key(cell.factors) if cell.factors else place.name] = cell
    if not wanted:
        return sorted(found.values(), key=lambda cell: cell.name)
    cells = [found.pop(key) if (key := _key(factors)) in found else _not_started(factors) for factors in wanted]
    nameless = [cell for cell in found.values() if not cell.factors]
    if strangers := len(found) - len(nameless):
        problems.append(f"{strangers} of the folders in cells/ belong to another grid and are left out")
    problems += [f"cells/{cell.name} does not say which cell it is and is left out" for cell in nameless]
    return cells


def _last_run(cell: Path) -> tuple[float, str]:
    with suppress(OSError):
        return (cell / "recipe.yaml").stat().st_mtime, cell.name
    return 0.0, cell.name


def _not_started(factors: dict[str, Any]) -> Cell:
    name = ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in factors.items())
    return Cell(name, factors, status="unfinished", seed=factors.get("seed"), problems=["it has not been started"])


def _read_cell(folder: Path, plan: Mapping[str, Any], *, of_grid: bool = False) -> Cell:
    problems: list[str] = []
    described = _json(folder / "cell.json", problems) if of_grid or (folder / "cell.json").is_file() else {}
    cell = Cell(folder.name, _mapping(described.get("factors")), problems=problems)
    cell.seed = cell.factors.get("seed", plan.get("seed"))
    waiting = ""
    for name in _stage_names(folder, plan):
        done = (folder / name / "done.json").is_file()
        if done and waiting:
            # Stages run one after another: this one was made from what the earlier one gave before it began again.
            problems.append(f"{name} is of before {waiting} was begun again, and is left out")
            continue
        waiting = waiting if done or waiting else name
        _read_stage(folder / name, cell)
    if (folder / "failed.json").is_file():
        failure = _json(folder / "failed.json", problems)
        cell.status = "pruned" if failure.get("pruned") is True else "failed"
        cell.error = str(failure.get("error") or "the cell failed; its error could not be read")
    elif not cell.stages:
        cell.status = "unfinished"
    return cell


def _read_stage(place: Path, cell: Cell) -> None:
    if (place / "done.json").is_file():
        metrics = _json(place / "metrics.json", cell.problems)
        if metrics:
            cell.stages[place.name] = _checked(metrics, place, cell.problems)
        else:
            cell.status = "unfinished"
    else:
        cell.status = "unfinished"
        if place.is_dir():
            cell.problems.append(f"{place.name} has begun and is not done")
    if (place / "log.jsonl").is_file():
        try:
            records = read_log(place / "log.jsonl")
            cell.curves[place.name] = _curves(records)
            if (reached := _progress(records)) is not None:
                cell.progress[place.name] = reached
        except (OSError, RecursionError) as error:
            cell.problems.append(f"{place.name}/log.jsonl can't be read: {error}")


def _stage_names(folder: Path, plan: Mapping[str, Any]) -> list[str]:
    """Folders of the stages that the recipe names; those that are there, where it names none."""
    stages = plan.get("stages")
    if not isinstance(stages, list) or not stages:
        return sorted(p.name for p in folder.glob("[0-9][0-9]-*") if p.is_dir())
    names = [next(iter(stage), "") if isinstance(stage, dict) else stage for stage in stages]
    return [f"{number:02d}-{name}" for number, name in enumerate(names)]


def _checked(metrics: dict[str, Any], place: Path, problems: list[str]) -> dict[str, Any]:
    """Metrics whose scores, intervals and costs are finite numbers; what is none is told and left out."""
    checked = metrics | {"details": _mapping(metrics.get("details"))}
    if not isinstance(metrics.get("primary"), str | None):
        problems.append(f"{place.name}: `primary` is {metrics['primary']!r}, not the name of a score")
        checked["primary"] = None
    for part in ("scores", "cost"):
        values = _mapping(metrics.get(part))
        checked[part] = {name: float(value) for name, value in values.items() if _is_number(value)}
        problems += [
            f"{place.name}: {name} is {'no finite number' if value is None else f'{value}, not a number'}"
            for name, value in values.items()
            if not _is_number(value)
        ]
    intervals = _mapping(metrics.get("intervals"))
    checked["intervals"] = {
        name: (float(pair[0]), float(pair[1]))
        for name, pair in intervals.items()
        if isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair))
    }
    return checked


def _curves(records: list[dict[str, Any]]) -> Curves:
    """Series by name; after a resume the last record of a step counts."""
    series: dict[str, dict[float, float]] = {}
    for record in records:
        if record.get("event") not in ("log", "evaluate") or not _is_number(record.get("step")):
            continue
        for name, value in record.items():
            if name not in _NOT_SERIES and _is_number(value):
                series.setdefault(name, {})[record["step"]] = float(value)
    return {name: sorted(points.items()) for name, points in series.items()}


def _progress(records: list[dict[str, Any]]) -> tuple[float, float | None] | None:
    """The last step that is logged, and how many were planned."""
    steps = [record["step"] for record in records if _is_number(record.get("step"))]
    planned = [record["max_steps"] for record in records if _is_number(record.get("max_steps"))]
    return (steps[-1], planned[-1] if planned else None) if steps else None


def _recipe_data(text: str, problems: list[str]) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        data = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError):
        problems.append("recipe.yaml is torn or no YAML")
        return {}
    return _mapping(data)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _mapping(value: Any) -> dict[str, Any]:
    return {str(k): v for k, v in value.items()} if isinstance(value, dict) else {}


def _key(factors: Mapping[str, Any]) -> str:
    return json.dumps(factors, sort_keys=True, default=str)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf8", errors="replace")
    except OSError:
        return None


def _json(path: Path, problems: list[str]) -> dict[str, Any]:
    """The object in a file; an empty one, and a problem told, where it is missing or torn."""
    place = f"{path.parent.name}/{path.name}"
    text = _text(path)
    if text is None:
        problems.append(f"{place} is missing")
        return {}
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        problems.append(f"{place} is torn")
        return {}
    return data
