"""Reads run directories: finished, failed and unfinished ones alike."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from luthier.errors import WorkspaceError
from luthier.jsonlines import read_log

Status = Literal["finished", "failed", "unfinished"]


@dataclass
class Cell:
    """One run, or one cell of a grid.

    Attributes:
        name: of its folder.
        factors: what sets it apart, `{recipe key: value}`.
        stages: stage folder name -> content of metrics.json.
        curves: stage folder name -> series name -> [(step, value)].
        status: whether every stage of its recipe is done.
        error: what stopped it.
    """

    name: str
    factors: dict[str, Any]
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    curves: dict[str, dict[str, list[tuple[float, float]]]] = field(default_factory=dict)
    status: Status = "finished"
    error: str | None = None

    @property
    def primary(self) -> tuple[str, float] | None:
        """Name and value of the score that a table shows first: that of the last stage that has one."""
        for metrics in reversed(list(self.stages.values())):
            name = metrics.get("primary")
            if name and name in metrics.get("scores", {}):
                return name, metrics["scores"][name]
        return None

    def cost(self, key: str) -> float | None:
        """A cost of the stage that trained, else of any stage."""
        found = [m["cost"][key] for m in self.stages.values() if key in m.get("cost", {})]
        return found[0] if found else None


@dataclass
class Run:
    """A run directory.

    Attributes:
        name, folder: of the run.
        recipe: text of the resolved recipe.
        environment: content of environment.json.
        cells: one for a plain run.
        baseline: the value that differences are taken to, as the recipe names it.
    """

    name: str
    folder: Path
    recipe: str
    environment: dict[str, Any]
    cells: list[Cell]
    baseline: str | None = None


def read_runs(folders: list[Path]) -> list[Run]:
    """Read several run directories. See `read_run`."""
    return [read_run(folder) for folder in folders]


def read_run(folder: Path) -> Run:
    """Read a run directory; what is torn or missing in it is told in the result.

    Raises:
        WorkspaceError: the folder is no run.
    """
    folder = Path(folder)
    if not (folder / "recipe.yaml").is_file():
        raise WorkspaceError("this is no run directory", where=str(folder), fix="name a folder that `luthier run` made")
    recipe = (folder / "recipe.yaml").read_text(encoding="utf8", errors="replace")
    places = sorted(p for p in (folder / "cells").glob("*") if p.is_dir())
    cells = [_read_cell(p) for p in _in_grid_order(places, recipe)] if places else [_read_cell(folder)]
    return Run(folder.name, folder, recipe, _json(folder / "environment.json"), cells, _baseline(recipe))


def _read_cell(folder: Path) -> Cell:
    cell = Cell(folder.name, _json(folder / "cell.json").get("factors", {}))
    for place in sorted(p for p in folder.glob("[0-9][0-9]-*") if p.is_dir()):
        metrics = _json(place / "metrics.json")
        if not (place / "done.json").is_file() or not metrics:
            cell.status = "unfinished"
        else:
            cell.stages[place.name] = metrics
        if (place / "log.jsonl").is_file():
            cell.curves[place.name] = _curves(read_log(place / "log.jsonl"))
    if (folder / "failed.json").is_file():
        cell.status, cell.error = "failed", str(_json(folder / "failed.json").get("error", "unknown error"))
    elif not cell.stages:
        cell.status = "unfinished"
    return cell


def _curves(records: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Series by name; after a resume the last record of a step counts."""
    series: dict[str, dict[float, float]] = {}
    for record in records:
        if record.get("event") not in ("log", "evaluate") or not isinstance(record.get("step"), int):
            continue
        for name, value in record.items():
            if name in ("event", "time", "step", "epoch", "suite") or not isinstance(value, int | float):
                continue
            series.setdefault(name, {})[record["step"]] = float(value)
    return {name: sorted(points.items()) for name, points in series.items()}


def _recipe_data(text: str) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        data = YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        return {}
    return data if isinstance(data, dict) else {}


def _baseline(text: str) -> str | None:
    compare = _recipe_data(text).get("compare") or {}
    return compare.get("baseline")


def _in_grid_order(places: list[Path], text: str) -> list[Path]:
    """Cells in the order of the grid's values, not of their names."""
    over = (_recipe_data(text).get("compare") or {}).get("over") or {}

    def position(place: Path) -> tuple[int, ...]:
        factors = _json(place / "cell.json").get("factors", {})
        return tuple(
            values.index(factors[key]) if key in factors and factors[key] in values else len(values)
            for key, values in over.items()
        )

    return sorted(places, key=position)


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
