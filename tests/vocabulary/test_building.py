"""From text to tokenizer: what comes out, what is kept, what goes on, every rule of capacities."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import DataError
from luthier.storage.steps import Workspace
from luthier.vocabulary import build_vocabulary, load_encoder
from luthier.vocabulary import steps as module
from luthier.vocabulary.reporting import cluster_section, sections
from tests.vocabulary.conftest import settings
from tests.vocabulary.texts import FAMILIES, lines_of


def test_families_are_clusters_and_capacities_are_what_was_asked_for(built: Any):
    assert [set(one) for one in built.clusters] in (
        [{"ka", "kb"}, {"la", "lb"}, {"zh"}],
        [{"la", "lb"}, {"ka", "kb"}, {"zh"}],
    )
    assert sum(built.capacities) == 420
    about = json.loads((built.folder / "vocabulary.json").read_text())
    assert about["samples"]["zh"]["spaced"] is False
    assert about["samples"]["la"]["spaced"] is True
    assert built.tokens == about["merged"]["pieces"] + 5
    assert built.tokens <= 422
    assert all(
        one["pieces"] > letters for one, letters in zip(about["clusters"], about["allocation"]["letters"], strict=True)
    )
    with gzip.open(built.folder / "pieces.tsv.gz", "rt", encoding="utf8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    assert len(rows) == about["merged"]["pieces"]
    assert sum(len(row[1].split(",")) - 1 for row in rows) == about["merged"]["duplicates"]
    unknown = [one["unknown"] for one in about["merged"]["languages"].values()]
    assert max(unknown) == 0


def test_words_of_every_language_become_few_tokens(built: Any):
    encoder = load_encoder(built.folder)
    for language in FAMILIES:
        lines = lines_of(language, 30, 8)
        ids = encoder.encode(lines)
        assert all(3 not in one for one in ids)
        assert sum(map(len, ids)) < 0.8 * sum(len(line.replace(" ", "")) for line in lines)


def test_what_is_done_is_kept_and_other_settings_take_it_over(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = Workspace(tmp_path / "work")
    trained: list[str] = []
    real = module.train_unigram

    def noted(*arguments: Any, **options: Any) -> bytes:
        trained.append(options["named"])
        return real(*arguments, **options)

    monkeypatch.setattr(module, "train_unigram", noted)
    small = settings(text, capacity={"step": 50, "least": 60, "most": 160})
    first = build_vocabulary(small, tmp_path / "one", seed=3, workspace=root)
    count = len(trained)
    assert count == 5 + 5 * 3 + 3
    again = build_vocabulary(small, tmp_path / "two", seed=3, workspace=Workspace(tmp_path / "elsewhere"))
    assert len(trained) == count
    files = [path.name for path in first.folder.iterdir()]
    assert {n: (first.folder / n).read_bytes() for n in files} == {n: (again.folder / n).read_bytes() for n in files}
    build_vocabulary({**small, "size": 460}, tmp_path / "three", seed=3, workspace=root)
    assert {name.partition("/")[0] for name in trained[count:]} == {"cluster"}


def test_a_stopped_build_goes_on_to_the_same_bytes(
    text: Path, tmp_path: Path, built: Any, monkeypatch: pytest.MonkeyPatch
):
    real, calls = module.train_unigram, 0

    def failing(*arguments: Any, **options: Any) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(module, "train_unigram", failing)
    with pytest.raises(KeyboardInterrupt):
        build_vocabulary(settings(text), tmp_path / "tokenizer", seed=3)
    other = build_vocabulary(settings(text), tmp_path / "tokenizer", seed=3)
    for name in ("tokenizer.json", "sentencepiece.bpe.model", "pieces.tsv.gz"):
        assert (other.folder / name).read_bytes() == (built.folder / name).read_bytes()


def test_two_processes_make_the_same(text: Path, tmp_path: Path, built: Any):
    given = settings(text, processes=2)
    other = build_vocabulary(given, tmp_path / "tokenizer", seed=3)
    assert (other.folder / "tokenizer.json").read_bytes() == (built.folder / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("rule", ["union", "uniform", "file", "pruned", "tail", "parity"])
def test_every_rule_of_capacities(text: Path, tmp_path: Path, rule: str):
    numbers = tmp_path / "numbers.json"
    numbers.write_text(json.dumps({"la": 100, "lb": 100, "ka": 50, "kb": 50, "zh": 100}))
    steps = {"step": 50, "least": 60, "most": 160}
    capacity: dict[str, Any] = {
        "union": {"rule": "union"},
        "uniform": {"rule": "uniform"},
        "file": {"rule": "file", "file": str(numbers)},
        "pruned": {**steps, "curve": "pruned"},
        "tail": {**steps, "curve": "pruned", "tail": ["zh", "kb"], "tail_pieces": 60},
        "parity": {**steps, "curve": "pruned", "parity": True},
    }[rule]
    given = settings(
        text, capacity=capacity, cluster={"method": "pins", "pins": {"la": 1, "lb": 1, "ka": 2, "kb": 2, "zh": 3}}
    )
    if rule == "parity":
        with pytest.raises(DataError, match=r"still gains|pads with English"):
            build_vocabulary(given, tmp_path / "tokenizer")
        return
    made = build_vocabulary(given, tmp_path / "tokenizer")
    assert sum(made.capacities) == 420
    shares = {tuple(members): capacity for members, capacity in zip(made.clusters, made.capacities, strict=True)}
    if rule == "file":
        assert [shares["la", "lb"], shares["ka", "kb"], shares["zh",]] == [210, 105, 105]
    if rule == "uniform":
        assert [shares["la", "lb"], shares["ka", "kb"], shares["zh",]] == [168, 168, 84]
    if rule == "tail":
        assert made.allocation["zh"] == made.allocation["kb"] == 60


def test_one_joint_model_and_one_a_language(text: Path, tmp_path: Path):
    joint = build_vocabulary(settings(text, cluster={"count": 1}, capacity={"rule": "uniform"}), tmp_path / "joint")
    assert (len(joint.clusters), joint.about["merged"]["duplicates"]) == (1, 0)
    assert joint.about["merged"]["drift"] == [{"same": 1.0, "tokens": 0.0}]
    given = settings(text, cluster={"count": 5}, capacity={"rule": "uniform"}, merge={"rule": "refit", "passes": 1})
    separate = build_vocabulary(given, tmp_path / "separate")
    steps = [json.loads(path.read_text())["seconds"] for path in (tmp_path / "cache" / "steps").glob("*/metrics.json")]
    own = [one.about["cost"]["seconds"] for one in (joint, separate)]
    assert max(own) < sum(steps) < sum(own)
    assert [len(one) for one in separate.clusters] == [1] * 5
    assert separate.about["merged"]["mass"] == pytest.approx(1.0, abs=0.02)


def test_more_pieces_than_the_text_gives_are_told(text: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    given = settings(text, size=30_000, cluster={"count": 2}, capacity={"rule": "uniform"})
    made = build_vocabulary(given, tmp_path / "tokenizer")
    first = made.about["clusters"][0]
    assert first["pieces"] < first["capacity"] == made.capacities[0]
    assert f"{', '.join(first['languages'])}: the text gives {first['pieces']:,} pieces of" in caplog.text
    shown = {section.title: section for section in sections(made)}
    assert "of 30,000" in str(shown["Vocabulary"].facts["pieces that the text does not give"])
    table = shown["Clusters and capacities"].table
    assert table is not None
    assert table.rows[0][table.columns.index("pieces made")] == first["pieces"]
    enough = cluster_section(made.clusters, made.capacities, made=made.capacities).table
    assert enough is not None
    assert "pieces made" not in enough.columns


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"size": 40}, "letters alone need"),
        ({"capacity": {"rule": "file", "file": "none.json"}}, "can't be read as JSON"),
        ({"capacity": {"tail": ["xx"]}}, "no language 'xx'"),
        ({"capacity": {"least": 200, "most": 300, "step": 50}, "size": 300}, "fewest pieces"),
    ],
)
def test_what_does_not_fit_is_told(text: Path, tmp_path: Path, more: dict[str, Any], told: str):
    more = {"cluster": {"count": 2}, "capacity": {"rule": "uniform"}, **more}
    with pytest.raises(DataError, match=told):
        build_vocabulary(settings(text, **more), tmp_path / "tokenizer")
