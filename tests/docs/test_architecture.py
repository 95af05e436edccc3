"""The page on the architecture says what the tree is."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "luthier"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf8")
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["tool"]["importlinter"]["contracts"]


def contract(name: str) -> list[str]:
    return next(one["layers"] for one in CONTRACTS if one["name"].startswith(name))


def section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_every_folder_has_its_line_and_no_other():
    folders = {
        f"{path.relative_to(SOURCE)}/"
        for path in SOURCE.rglob("*")
        if path.is_dir() and any(path.glob("*.*")) and "__pycache__" not in path.parts
    }
    listed = re.findall(r"^\| `([\w/]+/)` \|", section("The folders"), re.MULTILINE)
    assert sorted(listed) == sorted(folders)


def test_the_floors_are_those_that_are_checked():
    rows = re.findall(r"^\| \d \| ([^|]+)\|", section("The floors"), re.MULTILINE)
    drawn = [set(re.findall(r"`(\w+)`", row)) for row in rows]
    checked = [set(re.findall(r"\w+", layer)) - {"_lazy", "_version"} for layer in contract("Dependencies")]
    assert drawn == checked


def test_a_room_is_on_the_floor_of_rooms_and_independent():
    """A package that brings a stage or a task may import no other that does; judging models is below the rooms."""
    rooms = {path.parent.name for part in ("stage", "task") for path in SOURCE.glob(f"*/{part}.py")} - {"evaluation"}
    floor = next(layer for layer in contract("Dependencies") if "tuning" in layer)
    assert set(floor.split(" | ")) == rooms


def test_what_the_page_points_to_is_there():
    places = re.findall(r"`((?:[\w]+/)*\w+\.py|tests/[\w/.]+)`", PAGE)
    assert places
    missing = [p for p in places if not (ROOT / p).exists() and not (SOURCE / p).exists()]
    assert not missing


def test_no_public_name_is_also_a_module():
    """The import of a module puts it in its package, in the place of what is found there by name."""
    for path in SOURCE.rglob("__init__.py"):
        package = ".".join(("luthier", *path.parent.relative_to(SOURCE).parts))
        names = getattr(importlib.import_module(package), "_HOMES", {})
        assert not [name for name in names if (path.parent / f"{name}.py").exists() or (path.parent / name).is_dir()]
