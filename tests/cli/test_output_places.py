"""No verb writes over what it reads, nor over what a run was made from or has made."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from luthier.cli.arguments import main


def contents(folder: Path) -> dict[Path, str]:
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def ran(workplace) -> Path:
    rows = [line.split("\t") for line in (workplace.folder / "train.tsv").read_text().splitlines()[1:]]
    lines = "".join(f'{{"text": "{text}", "label": "{label}"}}\n' for text, label in rows)
    (workplace.folder / "train.jsonl").write_text(lines)
    workplace.tune["data"]["train"] = str(workplace.folder / "train.jsonl")
    workplace.tune["method"] = "head_only"
    workplace.tune["epochs"] = 1
    assert workplace.run("--no-report") == 0
    return workplace.run_folder


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("runs/small/00-tune/model/{weights}", "this is of a finished run, which would be damaged"),
        ("runs/small/00-tune/model/answers.jsonl", "this is of a finished run, which would be damaged"),
        ("runs/small/00-tune/metrics.json", "this is of a finished run, which would be damaged"),
        ("runs/small/00-tune/done.json", "this is of a finished run, which would be damaged"),
        ("runs/small/recipe.yaml", "this is of a finished run, which would be damaged"),
        ("model/model.safetensors", "this is a file of a model, which would be lost"),
        ("model/config.json", "this is a file of a model, which would be lost"),
        ("train.jsonl", "this is the file that is read, which would be lost"),
    ],
)
def test_answers_and_pages_replace_nothing_of_a_run(ran, workplace, capsys, place, told):
    weights = next((ran / "00-tune" / "model").glob("*.safetensors")).name
    place = str(workplace.folder / place.format(weights=weights))
    before = contents(workplace.folder)
    commands = [["predict", str(ran), "--text", "fine", "--output", place]]
    if told != "this is the file that is read, which would be lost":
        commands.append(["schema", "--output", place])
    if place.endswith(".json"):
        text = workplace.folder / "text"
        text.mkdir()
        commands.append(["tokenizer", str(workplace.folder / "model"), "--text", str(text), "--output", place])
    for command in commands:
        assert main(command) == 6
        assert told in capsys.readouterr().err
    assert contents(workplace.folder) == before


def test_an_export_replaces_neither_its_own_source_nor_a_stage(ran, workplace, capsys):
    before = contents(workplace.folder)
    for place in (ran / "00-tune" / "model", ran / "00-tune"):
        assert main(["export", str(ran), "--to", str(place), "--force"]) == 6
        said = capsys.readouterr().err
        assert "which would be damaged" in said or "did not save" in said or "is read" in said
    assert contents(workplace.folder) == before
    elsewhere = str(workplace.folder / "whole")
    assert main(["export", str(ran), "--to", elsewhere]) == 0
    assert main(["export", str(ran), "--to", elsewhere, "--force"]) == 0


def test_answers_beside_the_files_of_a_run_are_written_and_written_again(ran, capsys):
    for place in (ran / "answers.jsonl", ran / "00-tune" / "answers.jsonl"):
        for _ in range(2):
            assert main(["predict", str(ran), "--text", "fine", "--output", str(place)]) == 0
