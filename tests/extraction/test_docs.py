"""The examples of the page on annotated documents run, and its table of formats says what the formats do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from luthier.cli import main
from luthier.errors import DataError
from luthier.extraction.formats.files import FORMATS, read_documents, write_documents
from luthier.extraction.scoring import LEVELS, OVERLAP
from luthier.extras import is_installed

from .corpora import TYPES
from .sentences import DOCUMENTS, tiny_encoder, write
from .test_formats import SUFFIX

PAGE = (Path(__file__).parents[2] / "docs" / "extraction.md").read_text(encoding="utf8")
ROWS = [[cell.strip() for cell in row.strip("| \n").split("|")] for row in PAGE.splitlines() if row.startswith("| `")]


def test_the_examples_run_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.S):
        exec(compile(block, "docs/extraction.md", "exec"), names)
    said = capsys.readouterr().out.splitlines()
    assert said[1:] == ["1.0", "a span limit of 8 words lets 100.0% of the entities be found"]
    assert (tmp_path / "annotated" / "document_000001.ann").is_file()
    assert len(names["sections"]) == 7


def test_formats_and_levels_are_those_that_there_are():
    names = [row[0].strip("`") for row in ROWS]
    assert names == [*FORMATS, *LEVELS]
    assert all(f"`{name}`" in PAGE for name in OVERLAP)


@pytest.mark.parametrize("row", ROWS[: len(FORMATS)], ids=lambda row: row[0])
def test_the_table_of_formats_is_true(row: list[str], tmp_path: Path):
    name, _, words, overlap, symmetric, scores = [cell.strip("`") for cell in row]
    if name == "spacy_docbin" and not is_installed("spacy"):
        pytest.skip("no spaCy")
    one = {
        "tokens": ["Anna-Lisa", "and", "Boris"],
        "entities": [{"type": "Peop", "start": s, "end": e, "score": 0.5} for s, e in ((0, 1), (2, 3))],
        "relations": [{"type": "Spouse", "head": 0, "tail": 1, "score": 0.5}],
    }
    nested = one | {"entities": [*one["entities"], {"type": "Org", "start": 0, "end": 3}]}
    path = tmp_path / SUFFIX[name]
    write_documents(path, [one], name, types=TYPES)
    corpus = read_documents(path)
    (again,) = corpus.documents
    assert (again["tokens"] == one["tokens"]) == words.startswith("given")
    assert corpus.types.is_symmetric("Spouse") == (symmetric == "yes")
    assert ("score" in again["entities"][0]) == scores.startswith("yes")
    if overlap == "yes":
        write_documents(tmp_path / "more" / SUFFIX[name], [nested], name)
    else:
        with pytest.raises(DataError, match="shares words"):
            write_documents(tmp_path / "more" / SUFFIX[name], [nested], name)


def test_the_recipe_and_the_example_of_the_page_on_training_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    """On a tiny model and the sentences of these tests, for a few steps."""
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "joint_extraction.md").read_text(encoding="utf8")
    for name, rows in (("train", DOCUMENTS), ("dev", DOCUMENTS[:6]), ("test", DOCUMENTS[6:12])):
        write(tmp_path / f"{name}.json", rows)
    (recipe,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.S)
    recipe = recipe.replace("google-bert/bert-base-cased", tiny_encoder(tmp_path / "model"))
    (tmp_path / "recipe.yaml").write_text(recipe.replace("epochs: 20", "max_steps: 4"))
    assert main(["run", "recipe.yaml", "--quiet"]) == 0
    capsys.readouterr()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    exec(compile(code, "docs/joint_extraction.md", "exec"), {})
    assert capsys.readouterr().out.startswith("[")
