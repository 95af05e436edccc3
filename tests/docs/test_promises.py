"""Every test that the page of promises names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and "::" in line]


def test_every_promise_has_a_test():
    listed = [
        line
        for line in PAGE.splitlines()
        if line.startswith("|") and not line.startswith(("|---", "| what you can rely on"))
    ]
    assert listed == ROWS
    assert len(ROWS) >= 31


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(tests/[^`]+::[^`]+)`", PAGE))))
def test_the_test_that_holds_it_is_there(name: str):
    place, _, function = name.partition("::")
    tree = ast.parse((ROOT / place).read_text(encoding="utf8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
