"""`luthier init` on files as they are met: what it takes them for, or what it asks about, and that they can be read."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from luthier.cli.arguments import main
from luthier.data import load_data
from luthier.errors import DataError
from luthier.recipe.loading import load_recipe
from tests.cli.starting_files import TEXTS, lines

LONG = [f"{text}, take {number}" for number in range(10) for text in TEXTS]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def guessed(folder: Path, capsys: pytest.CaptureFixture[str], header: tuple[str, ...], told: list[tuple]) -> tuple:
    """What `init` takes a csv file for: its data block, and what it says."""
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *told])
    assert main(["init", "--data", "rows.csv", "--force"]) == 0
    return load_recipe("recipe.yaml").stage_list()[0].data, capsys.readouterr().out


@pytest.mark.parametrize(
    ("header", "task", "label"),
    [
        (("Text", "Summary", "Score"), "regression", "Score"),
        (("question", "answer", "label"), "single_sentence", "label"),
        (("article", "summary", "category"), "single_sentence", "category"),
        (("prompt", "response", "is_safe"), "prompt_response", "is_safe"),
        (("instruction", "response", "category"), "prompt_response", "category"),
    ],
)
def test_a_label_beside_two_texts_is_taken_or_asked_about(folder, capsys, header, task, label):
    values = [0.5, 1.0, 1.5, 2.0] if task == "regression" else ["a", "b"]
    rows = [(text, f"say {text} again", values[i % len(values)]) for i, text in enumerate(LONG)]
    data, said = guessed(folder, capsys, header, rows)
    if task == "prompt_response":
        assert data.task == task
        assert f"if '{label}' is what is to be learned, set `task: pair` and `label: {label}`" in said
    else:
        assert (data.label or "label") == label
        assert data.task == task


@pytest.mark.parametrize("name", ["paid", "is_valid", "covid", "category_id", "sentiment_id", "labelId"])
def test_a_name_that_ends_as_one_of_ids_may_be_that_of_labels(folder, capsys, name):
    data, _ = guessed(folder, capsys, ("text", name), [(text, i % 2) for i, text in enumerate(LONG)])
    assert data.label == name


@pytest.mark.parametrize("name", ["user_id", "USER_ID", "userid", "productId", "uid"])
def test_ids_are_no_labels(folder, capsys, name):
    data, _ = guessed(folder, capsys, ("text", name, "kind"), [(t, i // 3, "ab"[i % 2]) for i, t in enumerate(LONG)])
    assert data.label == "kind"


def test_a_cell_that_is_no_text_is_named_and_does_not_move_the_text_to_another_column(folder, capsys):
    lines_ = [{"text": text, "label": "ab"[i % 2], "lang": "en"} for i, text in enumerate(LONG)]
    lines_[9]["text"], lines_[11]["text"] = 2024, None
    (folder / "rows.jsonl").write_text(lines(*lines_))
    assert main(["init", "--data", "rows.jsonl"]) == 0
    said = capsys.readouterr().out
    assert "row 10 holds 2024 in 'text', which is no text" in said
    assert "1 row has nothing in 'text'" in said
    data = load_recipe("recipe.yaml").stage_list()[0].data
    assert (data.task, data.label) == ("single_sentence", None)
    with pytest.raises(DataError, match="`invalid_rows: drop`"):
        load_data(data)
    assert load_data(data.model_copy(update={"invalid_rows": "drop"})).labels == ["a", "b"]


def test_a_0_or_1_for_each_class_in_a_list_is_no_list_of_labels(folder, capsys):
    (folder / "rows.jsonl").write_text(
        lines(*[{"text": text, "labels": [i % 2, 1, 1, 0]} for i, text in enumerate(LONG)])
    )
    assert main(["init", "--data", "rows.jsonl"]) == 0
    assert "holds lists, which are not read" in capsys.readouterr().out
    data = load_recipe("recipe.yaml").stage_list()[0].data
    with pytest.raises(DataError, match="a 0 or 1 for each class"):
        load_data(data.model_copy(update={"task": "multi_label", "text": "text", "label": "labels"}))


@pytest.mark.parametrize("name", ["intent", "issue category"])
def test_a_column_that_is_named_so_may_have_many_classes(folder, capsys, name):
    data, said = guessed(folder, capsys, ("text", name), [(f"{t} {i}", f"c{i % 60}") for i, t in enumerate(LONG * 2)])
    assert data.label == name
    assert "(60 in all)" in said


@pytest.mark.parametrize("mark", ";|")
def test_labels_with_other_marks_between_them_are_asked_about(folder, capsys, mark):
    told = [(text, ["a", "b", f"a{mark}b", f"b{mark}c"][i % 4]) for i, text in enumerate(LONG)]
    _, said = guessed(folder, capsys, ("text", "topic"), told)
    assert f"several labels with {mark!r} between them" in said


def test_lists_as_python_writes_them_are_read(folder, capsys):
    told = [(text, str(["it's", "b"][: i % 3])) for i, text in enumerate(LONG)]
    data, _ = guessed(folder, capsys, ("text", "tags"), told)
    assert (data.task, data.label) == ("multi_label", "tags")
    assert load_data(data).labels == ["b", "it's"]


def test_labels_that_people_read_as_one_are_asked_about(folder, capsys, caplog):
    told = [
        (text, ["pos", "Pos", "neg", "NEG", "caf\u00e9", "cafe\u0301", "neg\u200b"][i % 7])
        for i, text in enumerate(LONG)
    ]
    data, said = guessed(folder, capsys, ("text", "label"), told)
    assert "'Pos', 'pos' are classes of their own; if they mean the same, rename them with `label_map`" in said
    assert "'NEG', 'neg', 'neg\\u200b'" in said
    load_data(data)
    assert "the labels 'Pos', 'pos' are classes of their own" in caplog.text


def test_a_column_with_one_value_is_no_label(folder, capsys):
    data, _ = guessed(folder, capsys, ("text", "source"), [(text, "wiki") for text in LONG])
    assert data.task == "plain_text"


def test_empty_columns_that_a_spreadsheet_leaves_are_none(folder, capsys):
    told = [("ham" if i % 2 else "spam", text, "so far" if i == 5 else "", "", "") for i, text in enumerate(LONG)]
    data, _ = guessed(folder, capsys, ("v1", "v2", "", "", ""), told)
    assert (data.text, data.label) == ("v2", "v1")
    assert load_data(data).labels == ["ham", "spam"]


def test_lines_about_a_sentence_are_no_words_of_it(folder, capsys):
    words = "# id a0-{} domain=en\nEU _ _ B-ORG\nsaid _ _ O\n# _ _ O\n\n"
    (folder / "rows.conll").write_text("".join(words.format(i) for i in range(40)))
    assert main(["init", "--data", "rows.conll"]) == 0
    data = load_data(load_recipe("recipe.yaml").stage_list()[0].data)
    assert list(data.splits["train"]["tokens"][0]) == ["EU", "said", "#"]
    assert data.labels == ["O", "B-ORG", "I-ORG"]


WORDS = (("The", "DET"), ("dog", "NOUN"), ("runs", "VERB"))


@pytest.mark.parametrize("name", ["rows.conllu", "rows.txt"])
def test_conll_u_is_words_with_their_parts_of_speech(folder, capsys, name):
    lines = [f"{n}\t{word}\t_\t{tag}\t_\t_\t0\troot\t_\t_" for n, (word, tag) in enumerate(WORDS, 1)]
    (folder / name).write_text("# A book\n" + ("\n".join(lines) + "\n\n") * 40)
    assert main(["init", "--data", name]) == 0
    data = load_data(load_recipe("recipe.yaml").stage_list()[0].data)
    assert "scored by word_accuracy" in Path("recipe.yaml").read_text()
    assert data.metrics == ("word_accuracy",)
    assert list(data.splits["train"]["tokens"][0]) == ["The", "dog", "runs"]
    assert data.labels == ["DET", "NOUN", "VERB"]


def test_words_of_a_csv_that_are_lists_have_the_labels_that_are_learned(folder, capsys):
    told = [(json.dumps(["EU", "said", str(i)]), json.dumps(["B-ORG", "O", "O"])) for i in range(40)]
    data, out = guessed(folder, capsys, ("tokens", "tags"), told)
    assert "labels seen: 'O' (80), 'B-ORG' (40)" in out
    assert "scored by seqeval_f1" in Path("recipe.yaml").read_text()
    assert load_data(data).metrics == ("seqeval_f1",)


@pytest.mark.parametrize(("indent", "listed"), [(2, False), (None, True), (2, True)])
def test_objects_that_do_not_stand_on_one_line_each(folder, capsys, indent, listed):
    rows = [{"text": text, "label": "ham" if i % 2 else "spam"} for i, text in enumerate(LONG)]
    apart = "\n".join(json.dumps(row, indent=indent) for row in rows)
    (folder / "rows.jsonl").write_text(json.dumps(rows, indent=indent) if listed else apart)
    assert main(["init", "--data", "rows.jsonl"]) == 0
    assert load_data(load_recipe("recipe.yaml").stage_list()[0].data).labels == ["ham", "spam"]


def test_a_file_that_tells_excel_its_separator(folder, capsys):
    rows = [f"{text.replace(';', ',')};{'ham' if i % 2 else 'spam'}" for i, text in enumerate(LONG)]
    (folder / "rows.csv").write_text("\n".join(["sep=;", "text;label", *rows]))
    assert main(["init", "--data", "rows.csv"]) == 0
    assert load_data(load_recipe("recipe.yaml").stage_list()[0].data).labels == ["ham", "spam"]


def test_a_score_that_is_no_number_is_refused_and_makes_no_classes_of_the_others(folder, capsys):
    data, _ = guessed(
        folder, capsys, ("text", "label"), [(t, "NA" if i == 5 else i % 7 / 2) for i, t in enumerate(LONG)]
    )
    assert data.task == "regression"
    with pytest.raises(DataError, match=r"row 6 .*'NA', which is not a finite number"):
        load_data(data.model_copy(update={"task": None}))
