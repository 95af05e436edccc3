"""`invalid_rows: drop` leaves out what would be refused, and says what and why."""

import json
import logging
from collections import Counter

import pytest

from luthier.data.loading import load_data
from luthier.data.settings import DataSettings
from luthier.errors import DataError

GOOD = "".join(f"good {n},{'xy'[n % 2]}\n" for n in range(20))


def load(**settings):
    return load_data(DataSettings(**settings))


def refused(**settings):
    with pytest.raises(DataError) as caught:
        load(**settings)
    return str(caught.value)


def test_each_kind_of_fault_is_left_out_with_its_place_and_reason(write, caplog):
    path = write("t.csv", f"text,label\n{GOOD},x\na,\na,b,c\n \t,y\ngood 20,x\ngood 21,zebra\n")
    assert "row 23 (line 24): has 3 fields, but there are 2 columns" in refused(train=path, labels=["x", "y"])
    with caplog.at_level(logging.WARNING):
        data = load(train=path, labels=["x", "y"], invalid_rows="drop")
    kept, told = data.splits["train"], data.left_out["train"]
    assert kept["text"][:] == [f"good {n}" for n in range(21)]
    assert kept["row"][:] == [*range(1, 21), 25]
    assert told["rows"] == 5
    assert told["first"] == [
        "row 23 (line 24): has 3 fields, but there are 2 columns",
        "row 21 (line 22), column 'text': holds no text",
        "row 22 (line 23), column 'label': has no label",
        "row 24 (line 25), column 'text': holds no text",
        "row 26 (line 27), column 'label': the label 'zebra' is not one of 'x', 'y'",
    ]
    assert told["reasons"] == {
        "column 'text' holds no text": 2,
        "has 3 fields, but there are 2 columns": 1,
        "column 'label' has no label": 1,
        "column 'label' has a label that is not one of 'x', 'y'": 1,
    }
    assert f"{path}: 5 rows can't be used and were left out" in caplog.text
    assert "row 23 (line 24): has 3 fields" in caplog.text
    json.dumps(told)


def test_nothing_is_left_out_of_good_rows_nor_by_default(write):
    assert load(train=write("t.csv", f"text,label\n{GOOD}"), invalid_rows="drop").left_out == {}
    assert "column 'text': holds no text" in refused(train=write("t.csv", f"text,label\n{GOOD},x\n"))


def test_only_the_first_ten_are_named(write, caplog):
    path = write("t.csv", f"text,label\n{GOOD}" + "a,\n" * 15)
    with caplog.at_level(logging.WARNING):
        told = load(train=path, invalid_rows="drop").left_out["train"]
    assert (told["rows"], len(told["first"]), told["reasons"]) == (15, 10, {"column 'label' has no label": 15})
    assert "... and 5 more" in caplog.text


def test_a_row_with_two_faults_is_one_row(write):
    told = load(train=write("t.csv", f"text,label\n{GOOD},\n"), invalid_rows="drop").left_out["train"]
    assert (told["rows"], sum(told["reasons"].values())) == (1, 2)


def test_more_than_half_is_refused(write):
    rows = "a,x\nb,y\n"
    assert load(train=write("t.csv", f"text,label\n{rows}a,\nb,\n"), invalid_rows="drop").left_out["train"]["rows"] == 2
    said = refused(train=write("t.csv", f"text,label\n{rows}a,\nb,\n,x\n"), invalid_rows="drop")
    assert "3 of 5 rows can't be used, which are too many to leave out" in said
    assert "row 5 (line 6), column 'text': holds no text" in said
    said = refused(train=write("t.csv", f"text,label\n{rows}a,x,1\nb\nc\n"), invalid_rows="drop")
    assert "3 of 5 rows can't be used" in said


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_json_rows_are_left_out(write, name):
    rows = [{"text": f"good {n}", "label": n % 2} for n in range(6)]
    odd = [*rows[:3], "no object", {"text": None, "label": 1}, *rows[3:]]
    content = json.dumps(odd) if name == "t.json" else "\n".join(map(json.dumps, odd))
    data = load(train=write(name, content), invalid_rows="drop")
    assert data.splits["train"]["row"][:] == [1, 2, 3, 6, 7, 8]
    assert data.left_out["train"]["rows"] == 2


def test_rows_of_a_form_are_left_out(write):
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    bad = {"messages": [{"role": "user", "content": "a"}]}
    content = "\n".join(map(json.dumps, [good, bad, good, good]))
    data = load(train=write("t.jsonl", content), invalid_rows="drop")
    assert data.splits["train"]["row"][:] == [1, 3, 4]
    assert "has no message of the assistant" in data.left_out["train"]["first"][0]


def test_choices_of_another_number_are_left_out(write):
    rows = [{"context": "c", "choices": ["a", "b"], "label": n % 2} for n in range(4)]
    rows.insert(1, {"context": "c", "choices": ["a", "b", "d"], "label": 0})
    rows.append({"context": "c", "choices": ["a", "b"], "label": 7})
    data = load(train=write("t.jsonl", "\n".join(map(json.dumps, rows))), invalid_rows="drop")
    assert data.splits["train"]["row"][:] == [1, 3, 4, 5]
    assert data.left_out["train"]["rows"] == 2


def test_a_cut_split_does_not_tell_of_them_again(write):
    data = load(train=write("t.csv", f"text,label\n{GOOD}a,\n"), invalid_rows="drop", validation_fraction=0.5)
    assert list(data.left_out) == ["train"]


def test_a_stream_cannot_leave_rows_out():
    with pytest.raises(ValueError, match=r"`invalid_rows: drop` needs all examples"):
        DataSettings(train="t.csv", streaming=True, invalid_rows="drop")


def test_a_cut_has_the_same_share_of_every_class(write, caplog):
    labels = ["x"] * 600 + ["y"] * 300 + ["z"] * 95 + ["rare"] * 4 + ["single"]
    path = write("t.csv", "text,label\n" + "".join(f"text {n},{label}\n" for n, label in enumerate(labels)))
    with caplog.at_level(logging.WARNING):
        cut, again = (load(train=path, validation_fraction=0.2, subset_seed=seed) for seed in (0, 7))
    assert "are cut for validation" not in caplog.text
    assert cut.splits["validation"]["row"][:] == again.splits["validation"]["row"][:]
    counts = cut.summary["validation"].label_counts
    assert counts == {"x": 120, "y": 60, "z": 19, "rare": 1, "single": 0}
    both = cut.splits["train"]["row"][:] + cut.splits["validation"]["row"][:]
    assert sorted(both) == list(range(1, 1001))


def test_scores_are_cut_at_random(write):
    path = write("t.csv", "text,label\n" + "".join(f"text {n},{n / 7:.3f}\n" for n in range(400)))
    data = load(train=path, validation_fraction=0.3)
    assert data.schema.name == "regression"
    assert (len(data.splits["train"]), len(data.splits["validation"])) == (280, 120)


def test_a_small_cut_is_warned_about(write, caplog):
    path = write("t.csv", f"text,label\n{GOOD}")
    with caplog.at_level(logging.WARNING):
        data = load(train=path, validation_fraction=0.2)
    assert Counter(data.splits["validation"]["label"][:]) == {0: 2, 1: 2}
    assert "4 rows are cut for validation, on which an accuracy is known to within 49 points either way" in caplog.text
    caplog.clear()
    path = write("s.csv", "text,label\n" + "".join(f"text {n},{n / 7:.3f}\n" for n in range(20)))
    with caplog.at_level(logging.WARNING):
        load(train=path, validation_fraction=0.2)
    assert "4 rows are cut for validation, on which every score is rough; 16 rows or more" in caplog.text
