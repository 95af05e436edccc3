"""Labels on the command line: runs that are stopped, words that the model can't see, and text that is none."""

import json
import os
import subprocess
import sys

import pytest

from luthier.prediction import predict, predict_file
from tests.cli.conftest import BAD_WORDS, GOOD_WORDS, sentences, write_tsv

STOPPED_RUN = """
import os, signal, sys
from luthier.cli import main
from luthier.training.trainer import LuthierTrainer

step, calls = LuthierTrainer.training_step, []

def interrupted(self, *arguments, **options):
    calls.append(1)
    if len(calls) == 20:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, *arguments, **options)

LuthierTrainer.training_step = interrupted
sys.exit(main(sys.argv[1:]))
"""


def test_a_run_that_another_process_continues_keeps_its_labels(workplace):
    for split, count, seed in (("train", 128, 0), ("validation", 32, 1), ("test", 32, 2)):
        rows = [(text, {"positive": "1.10", "negative": "1.1"}[label]) for text, label in sentences(count, seed)]
        write_tsv(workplace.folder / f"{split}.tsv", rows)
    workplace.tune["data"]["task"] = "single_sentence"
    recipe = workplace.write()

    def run(output: str, hash_seed: int, *program: str) -> int:
        command = [sys.executable, *program, "run", recipe, "--quiet", "--no-report", "--output", output]
        environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
        return subprocess.run(command, cwd=workplace.folder, env=environment, timeout=200).returncode

    assert workplace.luthier("run", recipe, "--quiet", "--no-report", "--output", "straight") == 0
    assert run("stopped", 1, "-c", STOPPED_RUN) == 75
    assert run("stopped", 2, "-m", "luthier.cli") == 0
    told = [
        json.loads((workplace.folder / output / "small" / "00-tune" / "metrics.json").read_text())
        for output in ("straight", "stopped")
    ]
    assert told[0]["details"]["labels"] == told[1]["details"]["labels"] == ["1.1", "1.10"]
    assert told[0]["scores"] == told[1]["scores"]
    assert told[0]["scores"]["validation/accuracy"] > 0.9


UNSEEN = "\u200b"


@pytest.fixture
def tagger(workplace):
    """A workplace whose recipe tells good words, bad words and others apart, trained."""
    kinds = dict.fromkeys(GOOD_WORDS, "B-GOOD") | dict.fromkeys(BAD_WORDS, "B-BAD")
    for split, count, seed in (("train", 96, 0), ("validation", 16, 1), ("test", 16, 2)):
        rows = [text.split() for text, _ in sentences(count, seed)]
        lines = [json.dumps({"tokens": row, "tags": [kinds.get(word, "O") for word in row]}) for row in rows]
        if split != "train":
            seen = json.dumps({"tokens": ["a", UNSEEN, "film"], "tags": ["O", "B-BAD", "O"]})
            lines.append(seen)
        (workplace.folder / f"{split}.jsonl").write_text("\n".join(lines))
    files = {split: str(workplace.folder / f"{split}.jsonl") for split in ("train", "validation", "test")}
    workplace.tune["data"] = files | {"max_length": 12, "too_long": "truncate"}
    workplace.recipe["stages"][1] = {"evaluate": {"suites": ["task"]}}
    assert workplace.run("--no-report") == 0
    assert workplace.metrics("01-evaluate")["scores"]["test/seqeval_f1"] == 1.0
    return workplace


def expected_labels(words: list[str]) -> list[str | None]:
    named = {"dull": "B-BAD", "lovely": "B-GOOD", "film": "O", "the": "O", UNSEEN: None}
    seen = [word for word in words if word != UNSEEN][:10]
    return [named[word] if words[:i].count(UNSEEN) + len(seen) > i else None for i, word in enumerate(words)]


def test_every_word_has_one_label_in_its_place(tagger, capsys):
    rows = [
        ["film", "dull"],
        [UNSEEN, "dull", UNSEEN, "film", "lovely", UNSEEN],
        [UNSEEN],
        [*["the"] * 9, "dull", "lovely", "lovely"],
        [*["the"] * 8, UNSEEN, "film", "lovely", "dull"],
    ]
    assert expected_labels(rows[1]) == [None, "B-BAD", None, "O", "B-GOOD", None]
    assert expected_labels(rows[3])[-3:] == ["B-BAD", None, None]
    assert expected_labels(rows[4])[-4:] == [None, "O", "B-GOOD", None]
    found = predict(tagger.run_folder, [" ".join(row) for row in rows])
    assert [row["tokens"] for row in found] == rows
    assert [row["labels"] for row in found] == [expected_labels(row) for row in rows]
    assert [row["text"] for row in found] == [" ".join(row) for row in rows]

    file = tagger.folder / "new.jsonl"
    file.write_text("".join(json.dumps({"tokens": row}) + "\n" for row in rows))
    assert predict_file(tagger.run_folder, file, batch_size=2) == [
        {"tokens": row, "labels": expected_labels(row)} for row in rows
    ]
    capsys.readouterr()
    for source in (["--file", str(file)], [part for row in rows for part in ("--text", " ".join(row))]):
        assert tagger.luthier("predict", str(tagger.run_folder), *source) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["labels"] for line in lines] == [expected_labels(row) for row in rows]

    file.write_text(json.dumps({"tokens": [UNSEEN]}))
    assert predict_file(tagger.run_folder, file) == [{"tokens": [UNSEEN], "labels": [None]}]
    assert tagger.luthier("predict", str(tagger.run_folder), "--text", "film", "--text", "  ") == 3
    assert "text 2 holds no words" in capsys.readouterr().err


def test_text_that_is_none_is_told_on_the_command_line(workplace, capsys):
    assert workplace.run("--no-report") == 0
    for source in (["--text", "film", "--text", "a \ud800"], ["--text", "a", "--text", os.fsdecode(b"caf\xe9")]):
        assert workplace.luthier("predict", str(workplace.run_folder), *source) == 3
        assert "text 2 holds" in capsys.readouterr().err
    file = workplace.folder / "new.jsonl"
    file.write_text('{"text": "a"}\n{"text": "\\ud800"}\n')
    assert workplace.luthier("predict", str(workplace.run_folder), "--file", str(file)) == 3
    assert "new.jsonl: row 2, column 'text'" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_a_run_on_files_in_utf_16(workplace, encoding):
    for split in ("train", "validation", "test"):
        path = workplace.folder / f"{split}.tsv"
        path.write_bytes(path.read_text().encode(encoding))
    workplace.tune["data"]["encoding"] = encoding
    assert workplace.run("--no-report") == 0
    assert workplace.metrics()["scores"]["validation/accuracy"] > 0.9


def test_a_plan_refuses_rows_that_a_saved_model_can_not_be_judged_on(workplace, capsys):
    assert workplace.run("--no-report") == 0
    other = workplace.folder / "other.tsv"
    other.write_text("text\tlabel\nfine\tgood\ndull\tbad\n")
    pairs = workplace.folder / "pairs.tsv"
    pairs.write_text("text\ttext_pair\tlabel\nfine\tfine\tpositive\ndull\tfine\tnegative\n")
    model = str(workplace.run_folder / "00-tune" / "model")
    for data, told in (
        ({"test": str(other)}, "the label 'good' is not one of 'negative', 'positive'"),
        ({"test": str(pairs), "task": "pair"}, "the model was trained for the task single_sentence"),
    ):
        workplace.recipe = {"name": "judged", "model": model, "stages": [{"evaluate": {"data": data}}]}
        capsys.readouterr()
        assert workplace.luthier("plan", workplace.write()) == 3
        assert told in capsys.readouterr().err
