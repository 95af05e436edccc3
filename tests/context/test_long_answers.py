"""The suite `long_answers`: scores against counts by hand, where prompts are cut, and a whole evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import luthier
from luthier.context.long_answering import fitting, request_of
from luthier.context.text_scores import rouge_geo, rouge_l, rouge_n, scores_of_texts
from luthier.errors import LuthierError, RecipeError
from luthier.generation.rollout import opened
from luthier.generation.writing import Request
from tests.context.instruction.conftest import CHAIN, chained, text, tokenizer


def test_rouge_counts_common_words_and_sequences():
    assert rouge_l("The cat sat here", "the cat was here") == pytest.approx(0.75)
    assert rouge_l("b a", "a b c d") == pytest.approx(2 / 6)
    assert rouge_l("", "a") == rouge_n("a b", "", 1) == rouge_n("a", "a", 2) == 0.0
    assert rouge_n("a a b", "a b b", 1) == pytest.approx(2 * 2 / 6)  # a word counts as often as both have it
    assert rouge_n("the cat sat", "The cat, sat down", 2) == pytest.approx(2 * 2 / 5)


@pytest.mark.parametrize(
    ("written", "wanted", "expected"),
    [
        ("Кошка сидит здесь", "кошка сидела здесь", 2 / 3),
        ("今天天气好", "今天天气很好", 10 / 11),
        ("un café noir", "un cafe noir", 2 / 3),
        ("...", "...", 0.0),
        ("बच्चे की किताब", "बच्चा का किताब", 1 / 3),
        ("தீ", "தா", 0.0),
        ("cafe\u0301 noir", "caf\u00e9 noir", 1.0),
        ("มีดี", "มีดำ", 0.4),
    ],
)
def test_rouge_reads_words_of_any_script(written: str, wanted: str, expected: float):
    assert rouge_l(written, wanted) == pytest.approx(expected)
    assert rouge_n(written, wanted, 1) == pytest.approx(expected)


def test_scores_of_texts_and_the_geometric_mean_over_averages():
    found = scores_of_texts(["The cat.", "a dog ran off"], ["cat", "the dog ran"])
    assert found["exact_match"].tolist() == [1.0, 0.0]
    assert found["f1"] == pytest.approx([1.0, 2 * (2 / 3 * 1) / (2 / 3 + 1)])
    assert found["rouge_2"][0] == 0.0
    expected = np.prod([found[f"rouge_{n}"].mean() for n in ("1", "2", "l")]) ** (1 / 3)
    assert rouge_geo(found) == pytest.approx(expected)
    assert rouge_geo(found) > 0  # one row without a common pair makes only that row nothing


def test_a_prompt_of_a_base_model_loses_its_start():
    plain = tokenizer()
    prompt = text(200, 0)
    kept, whole = fitting(plain, Request("", prompt), 50)
    assert whole == 200
    assert kept.prompt.split() == prompt.split()[-50:]
    assert fitting(plain, Request("", prompt), 200) == (Request("", prompt), 200)


def test_a_chat_prompt_loses_its_middle_and_keeps_its_turns():
    chatting = tokenizer()
    chatting.chat_template = "w0 w1 {{ messages[0]['content'] }} w2"
    prompt = text(200, 0)
    kept, whole = fitting(chatting, Request("", prompt), 50)
    assert whole == 203
    assert len(chatting(opened(chatting, kept))["input_ids"]) == 50
    head, tail = kept.prompt.split(" … ")
    assert prompt.startswith(head)
    assert prompt.endswith(tail)
    assert abs(len(head.split()) - len(tail.split())) <= 1
    with pytest.raises(RecipeError, match="no room"):
        fitting(chatting, Request("", prompt), 3)


def test_messages_before_a_prompt_are_asked_and_take_room():
    chatting = tokenizer()
    chatting.chat_template = "{% for one in messages %}w0 {{ one['content'] }} {% endfor %}"
    before = [
        {"role": "system", "content": "w1"},
        {"role": "user", "content": "w2"},
        {"role": "assistant", "content": "w3"},
    ]
    asked = request_of("0", {"prompt": text(200, 0), "history": before})
    assert asked.messages() == [*before, {"role": "user", "content": asked.prompt}]
    kept, whole = fitting(chatting, asked, 50)
    assert whole == 207
    assert opened(chatting, kept).startswith("w0 w1 w0 w2 w0 w3 w0 ")
    assert len(chatting(opened(chatting, kept))["input_ids"]) == 50


def run(folder: Path, rows: list[dict[str, str]], **suite: Any) -> dict[str, Any]:
    chained(CHAIN).save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"test": str(folder / "test.jsonl"), "task": "prompt_response", "too_long": "truncate"}
    stage = {"evaluate": {"suites": [{"name": "long_answers", **suite}], "data": data}}
    place = folder / "run.yaml"
    place.write_text(json.dumps({"name": "run", "model": str(folder / "model"), "stages": [stage]}))
    done = Path(luthier.run(place, output=folder / "runs").folder) / "00-evaluate"
    found: dict[str, Any] = json.loads((done / "metrics.json").read_text())
    return found


def test_answers_are_written_scored_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    asked = [
        {"prompt": f"{text(size, n)} Right:", "response": answer}
        for n, (size, answer) in enumerate([(20, "yes"), (400, "yes"), (30, "w3")])
    ]
    found = run(tmp_path, asked, tokens=16, length=128)
    scores = found["scores"]
    assert scores["test/exact_match"] == pytest.approx(2 / 3)
    assert scores["test/f1"] == pytest.approx(2 / 3)
    assert {"test/rouge_1", "test/rouge_2", "test/rouge_l", "test/rouge_geo"} <= set(scores)
    assert "1 of 3 prompts are longer than 112 tokens" in " ".join(found["marks"])
    table, shown = found["details"]["sections"]
    assert table["table"]["rows"][0][:2] == ["1 to 1,024", 3]
    assert shown["samples"][0]["the model writes"] == "yes"
    low, high = found["intervals"]["test/f1"]
    assert 0 <= low <= scores["test/f1"] <= high <= 1


@pytest.mark.parametrize(
    ("more", "said"),
    [({"tokens": 100, "length": 128}, "leave 28 for a prompt"), ({"length": 512}, "the model takes 256 tokens")],
)
def test_what_can_not_be_asked_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, int], said: str
):
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    with pytest.raises(LuthierError, match=said):
        run(tmp_path, [{"prompt": "w1", "response": "w2"}], **more)
