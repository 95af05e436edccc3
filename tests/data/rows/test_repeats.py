"""Rows that stand on both sides of a split, and a cut that leaves none there."""

import json
import random

import pytest

from luthier.data.loading import load_data
from luthier.data.rows.subsets import cut_by_class, cut_shares
from luthier.data.settings import DataSettings


def load(**fields):
    return load_data(DataSettings(**fields))


def table(texts):
    return "text,label\n" + "".join(f"{text},{'ab'[len(text) % 2]}\n" for text in texts)


def test_held_out_rows_that_stand_in_the_training_rows_are_counted_and_told(write, caplog):
    train = [f"film {'x' * n}" for n in range(30)]
    held_out = [*train[:17], "new", "newer", "the newest"]
    data = load(train=write("a.csv", table(train)), validation=write("b.csv", table(held_out)))
    said = "17 of 20 validation rows stand in the training rows, too: scores on them tell nothing of new text"
    assert data.summary["validation"].repeats.told == said
    assert data.marks_of_repeats("validation") == [said]
    assert said in caplog.text
    assert "training rows repeat" not in caplog.text


def test_rows_that_differ_in_one_column_are_others(write, caplog):
    def pairs(*rows):
        return "text,text_pair,label\n" + "".join(f"{one},{other},{label}\n" for one, other, label in rows)

    train = write("a.csv", pairs(("a", "b", "x"), ("c", "d", "y")))
    apart = load(train=train, test=write("b.csv", pairs(("a", "d", "x"), ("c", "b", "y"))))
    assert apart.summary["test"].repeats.count == 0
    assert caplog.text == ""
    alike = load(train=train, test=write("c.csv", pairs(("a", "b", "y"), ("c", "b", "y"))))
    assert alike.summary["test"].repeats.count == 1


def test_repeated_training_rows_are_counted_and_many_are_told(write, caplog):
    few = load(train=write("a.csv", table([f"film {n}" for n in range(100)] + ["film 7"])))
    assert few.summary["train"].repeats.count == 1
    assert caplog.text == ""
    load(train=write("b.csv", table(["one", "four", "seven"] * 10)))
    assert "27 of 30 training rows repeat the text of an earlier one" in caplog.text


@pytest.mark.parametrize("task", ["classes", "text"])
def test_a_cut_leaves_no_text_on_both_sides(write, task):
    texts = [f"film {'x' * n}" for n in range(30)] * 3
    random.Random(0).shuffle(texts)
    if task == "classes":
        data = load(train=write("a.csv", table(texts)), validation_fraction=0.2)
    else:
        lines = "\n".join(json.dumps({"text": text}) for text in texts)
        data = load(train=write("a.jsonl", lines), task="plain_text", validation_fraction=0.2)
    assert len(data.splits["validation"]) == 18
    assert not set(data.splits["validation"]["text"]) & set(data.splits["train"]["text"])


def test_the_cut_of_rows_without_repeats_is_that_of_rows(write):
    texts = [f"film {'x' * n}" for n in range(40)]
    data = load(train=write("a.csv", table(texts)), validation_fraction=0.2)
    expected = cut_by_class(["ab"[len(text) % 2] for text in texts], 0.2, "x")[1]
    assert data.splits["validation"]["row"][:] == [row + 1 for row in expected]
    lines = "\n".join(json.dumps({"text": text}) for text in texts)
    data = load(train=write("a.jsonl", lines), task="plain_text", validation_fraction=0.2)
    expected = cut_shares(40, {"train": 0.8, "validation": 0.2}, "x")["validation"]
    assert data.splits["validation"]["row"][:] == [row + 1 for row in expected]


def test_texts_that_are_too_few_to_keep_apart_are_cut_all_the_same(write):
    data = load(train=write("a.csv", table(["one", "four"] * 20)), validation_fraction=0.1)
    assert len(data.splits["validation"]) == 4
    assert data.marks_of_repeats("validation")


def conversations(*turns):
    """A row of each sequence of turns, the user's and the assistant's by turns."""
    roles = ["user", "assistant"]
    chats = ([{"role": roles[n % 2], "content": text} for n, text in enumerate(one)] for one in turns)
    return "\n".join(json.dumps({"messages": chat}) for chat in chats)


def test_conversations_that_end_alike_are_others(write, caplog):
    train = conversations(*([f"question {n}", "answer", "thanks", "welcome"] for n in range(30)))
    held_out = conversations(["new", "answer", "thanks", "welcome"], ["question 3", "answer", "thanks", "sure"])
    data = load(train=write("a.jsonl", train), validation=write("b.jsonl", held_out))
    assert [data.summary[split].repeats.count for split in ("train", "validation")] == [0, 1]
    assert "training rows repeat" not in caplog.text


def test_a_cut_keeps_a_conversation_together_and_no_others_with_it(write):
    chats = [[f"question {n}", "answer", "thanks", f"welcome {m}"] for n in range(30) for m in range(2)]
    data = load(train=write("a.jsonl", conversations(*chats)), validation_fraction=0.2)
    before = {split: {row[0]["content"] for row in data.splits[split]["history"]} for split in data.splits}
    assert [len(before[split]) for split in ("train", "validation")] == [24, 6]


def test_a_prompt_without_earlier_turns_is_the_same_where_a_split_has_none(write):
    plain = write("b.jsonl", json.dumps({"prompt": "hello", "response": "yes"}))
    data = load(train=write("a.jsonl", conversations(["hello", "hi"], ["bye", "bye"])), validation=plain)
    assert data.summary["validation"].repeats.count == 1
