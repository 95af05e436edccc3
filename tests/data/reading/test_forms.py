"""Rows in forms that are in wide use: what they become, and what is refused, by row and column."""

import json

import pytest

from luthier.data import DataSettings, load_data
from luthier.errors import DataError
from tests.cli.starting_files import CHAT, INSTRUCTIONS, SHAREGPT, lines

USER = {"role": "user", "content": "a"}
REPLY = {"role": "assistant", "content": "b"}


def loaded(write, *records, name="rows.jsonl", **settings):
    return load_data(DataSettings(train=write(name, lines(*records)), **settings)).splits["train"]


def test_an_instruction_with_its_input_is_one_prompt(write):
    row = loaded(write, *INSTRUCTIONS)[1]
    assert row["prompt"] == "Name a colour that goes with number 1.\n\nBe short."
    assert row["response"] == "Blue 1."
    assert "history" not in row


def test_dolly_names_its_columns_otherwise(write):
    record = {"instruction": "Who?", "context": "Ann did.", "response": "Ann.", "category": "qa"}
    assert loaded(write, record)[0]["prompt"] == "Who?\n\nAnn did."


def test_system_and_history_of_instructions_come_before_the_prompt(write):
    record = INSTRUCTIONS[0] | {"system": "Be kind.", "history": [["Hello.", "Hi."]]}
    assert loaded(write, record)[0]["history"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hi."},
    ]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [USER, REPLY]},
        {"dialogue": [USER, REPLY]},
        {"messages": json.dumps([USER, REPLY])},
        {"messages": [USER, REPLY, USER]},
        {"prompt": [USER], "completion": [REPLY]},
        {"prompt": "a", "prompt_id": "1", "messages": [USER, REPLY]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, REPLY]},
    ],
)
def test_a_conversation_ends_with_its_last_reply(write, record):
    row = loaded(write, record)[0]
    assert (row["prompt"], row["response"], row["history"]) == ("a", "b", [])


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([], "which is no list of messages"),
        ([USER], "has no message of the assistant"),
        ([REPLY], "message 1 (assistant) does not follow a message of the user"),
        ([USER, REPLY, REPLY], "message 3 (assistant) does not follow a message of the user"),
        ([USER, {"role": "tool", "content": "5"}, REPLY], "message 2 has the role 'tool'"),
        ([USER, {"role": "assistant", "content": None}], "message 2 (assistant) holds None"),
        ([USER, "b"], "message 2 has the role None"),
        (None, "which is no list of messages"),
    ],
)
def test_messages_that_can_not_be_learned_name_row_and_column(write, messages, told):
    with pytest.raises(DataError) as caught:
        loaded(write, *CHAT[:1], {"messages": messages})
    assert "row 2, column 'messages'" in str(caught.value)
    assert told in str(caught.value)


def test_columns_that_the_user_names_are_read_as_they_are(write):
    record = {"prompt": "x", "response": "y", "messages": [USER, REPLY]}
    assert loaded(write, record)[0]["prompt"] == "x"
    assert loaded(write, record | {"note": "z"}, prompt="note")[0]["prompt"] == "z"
    assert loaded(write, {"text": "t", "label": "l", "messages": [USER]}, task="plain_text")[0]["text"] == "t"


def test_a_classified_conversation_is_still_classified(write):
    rows = [{"text": f"t{i}", "label": f"l{i}", "messages": [USER, REPLY]} for i in range(2)]
    assert loaded(write, *rows)[0]["label"] == 0


def test_conversations_may_be_validated_on_prompts(write):
    plain = write("dev.jsonl", lines({"prompt": "x", "response": "y"}))
    data = load_data(DataSettings(train=write("chat.json", json.dumps(SHAREGPT)), validation=plain))
    assert data.splits["validation"][0]["prompt"] == "x"
    assert data.columns == {"prompt": "prompt", "response": "response"}


@pytest.mark.parametrize(
    ("answers", "places"),
    [("Rome", [3]), (["Rome", "Italy"], [3, 11]), ("", []), ([], [])],
)
def test_answers_as_text_are_looked_for_in_the_context(write, answers, places):
    first = {"context": "In Rome of Italy", "question": "Where?", "answers": "Italy"}
    row = loaded(write, first, first | {"answers": answers}, task="extractive_qa")[1]
    assert row["answers"]["answer_start"] == places


def test_an_answer_that_is_not_there_names_its_row(write):
    record = {"context": "In Rome", "question": "Where?", "answer": "Oslo"}
    with pytest.raises(DataError, match="row 1, column 'answer': the answer 'Oslo' is not part of the context"):
        loaded(write, record, task="extractive_qa")


def test_a_label_map_renames_the_answers_of_multiple_choice(write):
    rows = [{"context": "c", "choices": ["x", "y"], "label": letter} for letter in "AB"]
    split = loaded(write, *rows, label_map={"A": "0", "B": "1"})
    assert split["label"][:] == [0, 1]
