"""Labels of rows: one order in every process, and numbers that are written in two ways."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.loading import load_data
from luthier.data.rows.labels import LabelIds, sorted_labels
from luthier.data.settings import DataSettings
from luthier.data.table import Problems
from luthier.errors import DataError

ODD = ["1", "1.0", "1.1", "1.10", "07", "7", "nan", "NaN", "inf", "-inf", "1e0", "10", "2", "", "b", "1_0", "²", "٣"]
TAGS = ["O", "B-x", "I-x", "I-y", "S-x"]
ANY_LABEL = st.one_of(st.sampled_from([*ODD, *TAGS]), st.text(max_size=3), st.integers().map(str), st.floats().map(str))
LISTS = [ODD, ["1.1", "1.10"], ["7", "07"], ["2", "1", "1.0"], ["nan", "2", "1"], ["nan", "NaN", "inf", "1"]]


def load(**settings):
    return load_data(DataSettings.model_validate(settings))


def csv(*labels: str) -> str:
    return "text,label\n" + "".join(f"film {i},{label}\n" for i, label in enumerate(labels))


@given(st.lists(ANY_LABEL), st.randoms(use_true_random=False), st.booleans())
def test_the_order_depends_on_the_labels_alone(labels, draw, tags):
    first = sorted_labels(labels, tags=tags)
    again = labels * 2
    draw.shuffle(again)
    assert sorted_labels(again, tags=tags) == first
    assert sorted_labels(first, tags=tags) == first
    assert len(set(first)) == len(first)


@given(st.lists(ANY_LABEL), st.booleans())
def test_every_label_has_an_id(labels, tags):
    ids, problems = LabelIds(sorted_labels(labels, tags=tags)), Problems("rows")
    assert all(ids.of(label, "row 1", "label", problems) >= 0 for label in labels)
    assert not problems.count


def test_the_order_is_that_of_every_other_process():
    program = (
        "import json, sys; from luthier.data.rows.labels import sorted_labels;"
        "print(json.dumps([[sorted_labels(one, tags=tags) for one in json.loads(sys.argv[1])] for tags in (0, 1)]))"
    )
    found = set()
    for seed in range(8):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        command = [sys.executable, "-c", program, json.dumps(LISTS)]
        found.add(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (["10", "9", "-1", "2.5"], ["-1", "2.5", "9", "10"]),
        (["7", "07", "1"], ["1", "07", "7"]),
        (["1.10", "1.1", "1.9"], ["1.1", "1.10", "1.9"]),
        (["1.0", "2", "1", "2.0"], ["1", "2"]),
        (["1.0", "1", "1.1"], ["1", "1.0", "1.1"]),
        (["2", "nan", "10"], ["10", "2", "nan"]),
        (["1.0", "1", "other"], ["1", "other"]),
    ],
)
def test_numbers_are_in_order_and_versions_stay_apart(labels, order):
    assert sorted_labels(labels, tags=False) == order


def test_integer_tags_are_ordered_as_numbers(write):
    rows = [{"tokens": ["a", "b", "c"], "tags": [10, 9, 2]}]
    data = load(train=write("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
    assert data.labels == ["2", "9", "10"]
    assert data.splits["train"]["tags"][0] == [2, 1, 0]


@pytest.mark.parametrize(("train", "validation"), [(("1", "2"), ("2.0", "1.0")), (("1.0", "2.0"), ("2", "1"))])
def test_a_whole_number_is_one_class_in_both_files(write, caplog, train, validation):
    data = load(train=write("a.csv", csv(*train)), validation=write("b.csv", csv(*validation)))
    assert data.labels == list(train)
    assert data.splits["validation"]["label"][:] == [1, 0]
    assert f"the label {validation[0]!r} counts as {train[1]!r}" in caplog.text


def test_a_whole_number_is_one_class_in_one_file(write, caplog):
    data = load(train=write("a.csv", csv("1", "2", "1.0", "2.0")))
    assert (data.labels, data.splits["train"]["label"][:]) == (["1", "2"], [0, 1, 0, 1])
    assert "the label '1.0' counts as '1'" in caplog.text


def test_a_map_of_labels_knows_both_ways_to_write_a_number(write):
    data = load(train=write("a.csv", csv("1", "0.0", "1.0", "0")), label_map={"1": "good", "0": "bad"})
    assert (data.labels, data.splits["train"]["label"][:]) == (["bad", "good"], [1, 0, 1, 0])


def test_a_map_of_labels_makes_classes_of_fractions(write):
    rows = csv("0.0", "0.5", "1.0", "0.5")
    assert load(train=write("a.csv", rows)).schema.name == "regression"
    data = load(train=write("a.csv", rows), label_map={"0.0": "bad", "0.5": "fair", "1.0": "good"})
    assert (data.schema.name, data.labels) == ("single_sentence", ["bad", "fair", "good"])


@pytest.mark.parametrize("given", [{"labels": ["a", "b"]}, {"label_map": {"a": "b"}}])
def test_names_of_labels_that_the_task_lacks_are_refused_where_the_columns_told_it(write, given):
    answers = {"text": ["b"], "answer_start": [2]}
    row = json.dumps({"question": "which?", "context": "a b", "answers": answers})
    with pytest.raises(DataError, match="has no effect for task extractive_qa, which the columns fit"):
        load(train=write("a.jsonl", row), **given)


def test_of_texts_with_several_labels_numbers_are_one_class_and_alike_ones_are_told(write, caplog):
    train = write("a.csv", "text,label\n" + "".join(f'x,"{one}"\n' for one in ("1,10", "2", "1.0,2.0")))
    data = load(train=train, test=write("b.csv", "text,label\nx,1.0\n"), task="multi_label")
    assert data.labels == ["1", "2", "10"]
    assert data.summary["test"].label_counts == {"1": 1, "2": 0, "10": 0}
    load(train=write("c.csv", "text,label\nx,Toxic\nx,toxic \nx,nan\n"), task="multi_label")
    assert "'Toxic', 'toxic' are classes of their own; if they mean the same, write them alike" in caplog.text
    assert "'nan' is counted as a label" in caplog.text


def test_flags_of_two_classes_are_no_labels(write):
    rows = "".join(json.dumps({"text": "x", "label": one}) + "\n" for one in ([0, 1], [1, 0], [0, 1]))
    with pytest.raises(DataError, match="flags of two classes and no labels"):
        load(train=write("a.jsonl", rows), task="multi_label")


def test_versions_are_classes_of_their_own_and_told(write, caplog):
    versions = csv("1.1", "1.10", "1.0", "1")
    data = load(train=write("a.csv", versions), task="single_sentence")
    assert data.labels == ["1", "1.0", "1.1", "1.10"]
    assert data.splits["train"]["label"][:] == [2, 3, 1, 0]
    assert "'1', '1.0' are classes of their own" in caplog.text
    with pytest.raises(DataError, match=r"the label '2\.0' is not one of"):
        load(train=write("a.csv", versions + "x,2\n"), test=write("b.csv", csv("2.0")), task="single_sentence")


def test_nan_among_whole_numbers_is_a_label_and_no_fraction(write):
    data = load(train=write("a.csv", csv("2", "nan", "1", "10")))
    assert (data.schema.name, data.labels) == ("single_sentence", ["1", "10", "2", "nan"])


@pytest.mark.parametrize(("label", "index"), [("1", 1), ("1.0", 1), ("0", 0)])
def test_the_index_of_a_choice(write, label, index):
    row = json.dumps({"context": "why?", "choices": ["a", "b"], "label": label})
    assert load(train=write("a.jsonl", row)).splits["train"]["label"][:] == [index]


@pytest.mark.parametrize("label", ["²", "٣", "2", "-1", "1.5", "9" * 5000, "b"])
def test_what_is_no_index_of_a_choice_is_named(write, label):
    row = json.dumps({"context": "why?", "choices": ["a", "b"], "label": label})
    with pytest.raises(DataError, match=r"row 1, column 'label'.* is not the index of a choice"):
        load(train=write("a.jsonl", row))


def test_a_name_of_the_label_map_that_no_row_has_is_warned_of(write, caplog):
    names = {"good": "1", "bad": "0", "Goood": "1"}
    rows = write("a.csv", csv("good", "bad", "good"))
    load(train=rows, test=write("b.csv", csv("bad", "good")), label_map=names)
    assert "`label_map` renames 'Goood', which no row has: labels are written as in the file" in caplog.text
    caplog.clear()
    load(
        train=write("c.csv", csv("1.0", "0")),
        test=write("d.csv", csv("2", "0")),
        label_map={"1": "a", "0": "b", "2": "a"},
    )
    assert "renames" not in caplog.text


def test_json_booleans_and_their_words_are_the_same_labels(write, caplog):
    train = "".join(f'{{"text": "text {n}", "label": {["true", "false"][n % 2]}}}\n' for n in range(4))
    data = load_data(
        DataSettings(
            train=write("a.jsonl", train), test=write("b.csv", "text,label\nx,true\ny,TRUE\nz,False\nw,false\n")
        )
    )
    assert [data.labels[one].lower() for one in data.splits["test"]["label"]] == ["true", "true", "false", "false"]
    assert "counts as" in caplog.text
