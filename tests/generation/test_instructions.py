"""Ordinary prompts with responses: messages before a prompt are carried along, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier.data.settings import DataSettings
from luthier.errors import DataError
from luthier.generation.instructions import instruction_rows, prompts_with_responses

SYSTEM = {"role": "system", "content": "Be brief."}
ALONE = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Anna."}]


def test_messages_before_a_prompt_are_carried_along_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "chats.jsonl"
    place.write_text("".join(json.dumps({"messages": one}) + "\n" for one in (ALONE, [SYSTEM, *ALONE])))
    data = DataSettings(train=str(place), task="prompt_response")
    rows = prompts_with_responses(data, "train", conversations=True)
    assert [one["history"] for one in rows] == [[], [SYSTEM]]
    assert sorted(len(one["history"]) for one in instruction_rows(data, 2, 0, conversations=True)) == [0, 1]
    with pytest.raises(DataError, match="row 2 has messages before its prompt"):
        prompts_with_responses(data, "train")
