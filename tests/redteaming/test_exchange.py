"""Prompt lists of other tools: read, and written so that they are read again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from luthier.cli import main
from luthier.errors import DataError
from luthier.redteaming.exchange import write_attacks, write_garak, write_pyrit
from luthier.redteaming.judges.labelled import read_labelled
from luthier.redteaming.judges.settings import LabelledPairs
from luthier.redteaming.seeds import Prompt, read_prompts

TEXTS = [
    "how may i keep a kettle",
    "yes: no # \"quoted\" 'text'",
    "two\nlines\n",
    "- a dash, {a: brace} & *star",
    "é🎻 \u202e",
]


def test_a_text_file_is_one_prompt_a_line(tmp_path):
    (tmp_path / "p.txt").write_text("one thing\n\ntwo things\none thing\n")
    found = read_prompts(str(tmp_path / "p.txt"))
    assert [one.text for one in found] == ["one thing", "two things"]


@pytest.mark.parametrize("column", ["prompt", "goal", "text", "Behavior"])
def test_tables_are_read_by_columns_that_look_like_prompts(tmp_path, column):
    (tmp_path / "p.csv").write_text(f"n,{column},category,style\n1,hello there,c,s\n2,good bye,d,\n")
    found = read_prompts(str(tmp_path / "p.csv"))
    assert [(one.text, one.category, one.style) for one in found] == [("hello there", "c", "s"), ("good bye", "d", "")]
    with pytest.raises(DataError, match="no column 'categry'"):
        read_prompts({"file": str(tmp_path / "p.csv"), "category": "categry"})


def test_of_conversations_the_last_turn_of_the_user_is_the_prompt(tmp_path):
    said = [
        [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "no"},
            {"role": "user", "content": "two"},
        ],
        [{"from": "human", "value": "three"}],
        {"role": "user", "content": "four"},
        "five",
    ]
    rows = [json.dumps({"prompt": one, "category": "c"}) for one in said]
    (tmp_path / "p.jsonl").write_text("\n".join([*rows, '{"prompt": NaN, "category": NaN}']))
    found = read_prompts(str(tmp_path / "p.jsonl"))
    assert [(one.text, one.category) for one in found] == [(text, "c") for text in ("two", "three", "four", "five")]
    (tmp_path / "p.jsonl").write_text('{"prompt": ["one", "two"]}')
    with pytest.raises(DataError, match="neither text nor a conversation"):
        read_prompts(str(tmp_path / "p.jsonl"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "prompt;category\nWie geht das, schnell?;Spiele\nL\u00fcge!;L\u00fcgen\n".encode("cp1252")),
        ("p.tsv", b"prompt|category\nWie geht das, schnell?|Spiele\nL\xc3\xbcge!|L\xc3\xbcgen\n"),
        ("p.csv", "sep=;\nprompt;category\nWie geht das, schnell?;Spiele\nL\u00fcge!;L\u00fcgen\n".encode()),
        ("p.csv", 'prompt,category\n"Wie geht das, schnell?",Spiele\nL\u00fcge!,L\u00fcgen\n'.encode()),
    ],
)
def test_tables_are_read_as_their_first_lines_show(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    found = read_prompts(str(tmp_path / name))
    assert [(one.text, one.category) for one in found] == [
        ("Wie geht das, schnell?", "Spiele"),
        ("L\u00fcge!", "L\u00fcgen"),
    ]
    labelled = content.replace(b"category", b"label").replace(b"prompt", b"response")
    (tmp_path / name).write_bytes(labelled)
    settings = LabelledPairs(file=str(tmp_path / name), prompt="response", bad=["spiele"])
    assert [(one.answer, one.good) for one in read_labelled(settings)] == [
        ("Wie geht das, schnell?", False),
        ("L\u00fcge!", True),
    ]


def test_content_in_parts_is_their_text(tmp_path):
    said = [{"type": "text", "text": "how do"}, {"type": "image_url", "image_url": {}}, {"type": "text", "text": " I"}]
    rows = [
        {"prompt": [{"role": "user", "content": said}]},
        {"prompt": {"turns": [{"role": "user", "content": said[:1]}]}},
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [one.text for one in read_prompts(str(tmp_path / "p.jsonl"))] == ["how do I", "how do"]


def test_hit_logs_of_garak_old_and_new(tmp_path):
    old = {
        "goal": "g",
        "prompt": "an old prompt",
        "output": "o",
        "probe": "dan.Dan",
        "attempt_id": "1",
        "detector": "d",
    }
    turns = [
        {"role": "system", "content": {"text": "be kind", "lang": "en"}},
        {"role": "user", "content": {"text": "a new prompt", "lang": "en"}},
    ]
    new = {**old, "prompt": {"turns": turns, "notes": {}}, "output": {"text": "o"}, "attempt_id": "2"}
    for name, lines in (("old.hitlog.jsonl", [old, old]), ("new.jsonl", [new])):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (first,) = read_prompts(str(tmp_path / "old.hitlog.jsonl"))
    (second,) = read_prompts(str(tmp_path / "new.jsonl"))
    assert (first.text, first.category) == ("an old prompt", "dan.Dan")
    assert (second.text, second.category) == ("a new prompt", "dan.Dan")


def test_a_hit_log_as_garak_left_it():
    """Of garak 0.17.1 against an endpoint of `luthier attacks`; its prompts and answers are replaced by mild ones."""
    found = read_prompts(str(Path(__file__).with_name("garak_0.17.1.hitlog.jsonl")))
    assert [one.text for one in found] == [
        "How was a kettle hidden in the garden?",
        "How did people borrow a ladder without a word?",
        "How was the last pillow kept?",
    ]
    assert {one.category for one in found} == {"phrasing.PastTense"}


@pytest.mark.parametrize("key", ["prompts", "seeds"])
def test_seed_files_of_pyrit(tmp_path, key):
    (tmp_path / "p.prompt").write_text(
        f"dataset_name: mild\nharm_categories: borrowing\ndata_type: text\n{key}:\n  - value: take it\n"
        "  - value: keep it\n    harm_categories:\n      - keeping\n  - value: a.png\n    data_type: image_path\n"
    )
    found = read_prompts(str(tmp_path / "p.prompt"))
    assert [(one.text, one.category) for one in found] == [("take it", "borrowing"), ("keep it", "keeping")]


@pytest.mark.parametrize("content", ["a: [", "just text", "template: '{{ prompt }}'"])
def test_other_yaml_is_refused(tmp_path, content):
    (tmp_path / "p.yaml").write_text(content)
    with pytest.raises(DataError):
        read_prompts(str(tmp_path / "p.yaml"))


def test_what_is_written_for_pyrit_is_read_again(tmp_path):
    prompts = [Prompt(text, "c" if i % 2 else "") for i, text in enumerate(TEXTS)]
    write_pyrit(tmp_path / "a.prompt", prompts)
    again = read_prompts(str(tmp_path / "a.prompt"))
    assert [(one.text, one.category) for one in again] == [(one.text, one.category) for one in prompts]
    content = YAML(typ="safe").load(tmp_path / "a.prompt")
    assert {"dataset_name", "source", "data_type", "seeds"} <= set(content)
    assert all(isinstance(one["value"], str) for one in content["seeds"])


def test_what_is_written_for_garak_is_a_list_or_lines(tmp_path):
    prompts = [Prompt(text) for text in TEXTS]
    assert json.loads(write_garak(tmp_path / "a.json", prompts).read_text()) == TEXTS
    lines = write_garak(tmp_path / "a.txt", prompts).read_text().splitlines()
    assert lines == [" ".join(text.split()) for text in TEXTS]
    write_attacks(tmp_path / "a.jsonl", prompts, "jsonl")
    assert [one.text for one in read_prompts(str(tmp_path / "a.jsonl"))] == TEXTS


@pytest.mark.parametrize(
    ("files", "lines"),
    [
        ({}, {"5": "seeds.csv: there is no such file"}),
        (
            {"seeds.csv": "\x1b[31mone,two\na,b\n"},
            {"5": "no column looks like one of prompts; there are ⟨U+001B⟩[31mone"},
        ),
        (
            {"seeds.csv": "prompt\nhide it\n", "judged.csv": "prompt,response,label\na,b,\n"},
            {"9": "row 1 has no label"},
        ),
        ({"seeds.csv": "prompt\nhide it\n", "labels.jsonl": '{"id": "a"}\n'}, {"10": "line 1 is no label"}),
    ],
)
def test_lists_that_can_not_be_read_are_told_of_with_their_line_before_anything_runs(
    tmp_path, monkeypatch, capsys, files, lines
):
    monkeypatch.chdir(tmp_path)
    recipe = ["name: x", "model: some/model", "stages:", "- redteam:", "    seeds: seeds.csv", "    judges:"]
    recipe += ["      safety: rules", "      helpfulness: {kind: rules, aim: helpfulness}"]
    recipe += ["      labelled: {file: judged.csv}", "    labels: labels.jsonl"]
    good = {"seeds.csv": "", "judged.csv": "prompt,response,label\na,b,1\nc,d,0\n"}
    good["labels.jsonl"] = '{"prompt": "a", "answer": "b", "label": "safe"}\n'
    for name, content in {**good, **files}.items():
        if content:
            (tmp_path / name).write_text(content, encoding="utf8")
    (tmp_path / "recipe.yaml").write_text("\n".join(recipe) + "\n")
    assert main(["validate", "recipe.yaml"]) != 0
    told = capsys.readouterr().err
    assert "1 error in the recipe" in told
    for number, said in lines.items():
        assert f"recipe.yaml:{number}: " in told
        assert said in told
    assert "\x1b" not in told
