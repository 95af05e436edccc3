"""The page and the comparisons read declared facts: no stage, method, objective or suite is known there by name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import luthier
from luthier.registry import METHODS, OBJECTIVES, STAGES, SUITES

# What metrics.json calls a block, and the log an event, is no name of a part.
KEYS = {"cost", "evaluate"}
SOURCES = Path(luthier.__file__).parent


@pytest.mark.parametrize("package", ["report", "compare"])
def test_no_part_is_known_by_name(package: str):
    parts = {name for registry in (METHODS, OBJECTIVES, STAGES, SUITES) for name in registry.names()} - KEYS
    found = []
    for path in sorted((SOURCES / package).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if isinstance(node, ast.Constant) and node.value in parts:
                found.append(f"{path.name}:{node.lineno}: {node.value!r}")
    assert found == []
