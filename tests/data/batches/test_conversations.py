"""Conversations: what is written is the chat template's own text, and only what the assistant says is learned."""

import pytest

from luthier.data import DataSettings, encode, load_data
from luthier.data.batches.conversations import conversation_parts
from luthier.data.batches.encoders import IGNORED, Encoder, opening_tokens
from luthier.errors import DataError
from tests.cli.starting_files import CHAT, lines
from tests.data.tokenizers import decoder_tokenizer

TEMPLATE = (
    "{% for m in messages %}{{ m['role'][0] }} {{ m['content'] }} <eos> {% endfor %}"
    "{% if add_generation_prompt %}a {% endif %}"
)
FORGETS = (
    "{% for m in messages %}{% if m['role'] != 'assistant' or loop.last %}{{ m['role'][0] }} {{ m['content'] }} <eos> "
    "{% endif %}{% endfor %}{% if add_generation_prompt %}a {% endif %}"
)
STRICT = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system message') }}{% endif %}" + TEMPLATE
HISTORY = [
    {"role": "system", "content": "be"},
    {"role": "user", "content": "cd"},
    {"role": "assistant", "content": "ef"},
]


def chatting(template=TEMPLATE):
    tokenizer = decoder_tokenizer(eos_token="<eos>")
    tokenizer.chat_template = template
    return tokenizer


def written(tokenizer, messages):
    return tokenizer.apply_chat_template(messages, tokenize=False)


def rows(write, *messages):
    file = write("chat.jsonl", lines(*[{"messages": list(some)} for some in messages]))
    return load_data(DataSettings(train=file))


WHOLE = [*HISTORY, {"role": "user", "content": "gh"}, {"role": "assistant", "content": "ij"}]


def test_every_reply_is_learned_and_nothing_else(write):
    tokenizer = chatting()
    encoded = encode(rows(write, WHOLE, WHOLE), tokenizer, max_length=64)["train"][0]
    whole = tokenizer(written(tokenizer, WHOLE), add_special_tokens=False)["input_ids"]
    assert encoded["input_ids"] == whole
    learned = [token for token, label in zip(whole, encoded["labels"], strict=True) if label != IGNORED]
    assert learned == tokenizer("ef <eos> ij <eos>", add_special_tokens=False)["input_ids"]
    assert all(label in (IGNORED, token) for token, label in zip(whole, encoded["labels"], strict=True))


def test_where_a_template_forgets_earlier_replies_the_last_one_is_learned(write):
    tokenizer = chatting(FORGETS)
    encoded = encode(rows(write, WHOLE, WHOLE), tokenizer, max_length=64)["train"][0]
    assert encoded["input_ids"] == tokenizer(written(tokenizer, WHOLE), add_special_tokens=False)["input_ids"]
    learned = [label for label in encoded["labels"] if label != IGNORED]
    assert learned == tokenizer("ij <eos>", add_special_tokens=False)["input_ids"]


def test_one_exchange_is_encoded_as_a_prompt_and_its_response_is(write):
    tokenizer = chatting()
    chat = encode(rows(write, WHOLE[3:], WHOLE[3:]), tokenizer, max_length=64)["train"]
    plain = load_data(DataSettings(train=write("plain.jsonl", lines({"prompt": "gh", "response": "ij"}))))
    assert chat[0]["input_ids"] == encode(plain, tokenizer, max_length=64)["train"][0]["input_ids"]


def test_a_long_conversation_loses_its_start(write):
    tokenizer = chatting()
    data = rows(write, WHOLE, WHOLE)
    whole, cut = (encode(data, tokenizer, max_length=length, too_long="truncate")["train"][0] for length in (64, 9))
    assert cut["input_ids"] == whole["input_ids"][-9:]
    assert cut["labels"] == whole["labels"][-9:]
    with pytest.raises(DataError, match="2 of 2 rows are longer than 9 tokens"):
        encode(data, tokenizer, max_length=9)


def test_the_model_goes_on_where_the_assistant_speaks():
    tokenizer = chatting()
    rows = [{"row": 1, "prompt": "gh", "history": HISTORY}, {"row": 2, "prompt": "gh", "history": []}]
    first, second = opening_tokens(rows, Encoder(tokenizer, 64), 4)
    opening = tokenizer.apply_chat_template(WHOLE[:-1], tokenize=False, add_generation_prompt=True)
    assert first == tokenizer(opening, add_special_tokens=False)["input_ids"]
    assert second == tokenizer("u gh <eos> a", add_special_tokens=False)["input_ids"]


def test_without_a_template_a_conversation_is_refused_and_one_exchange_is_not(write):
    tokenizer = decoder_tokenizer(eos_token="<eos>")
    with pytest.raises(DataError, match=r"row 1: holds a conversation.*\n  fix: take a model that was tuned to chat"):
        encode(rows(write, WHOLE, WHOLE), tokenizer, max_length=64)
    assert len(encode(rows(write, WHOLE[3:], WHOLE[3:]), tokenizer, max_length=64)["train"]) == 2


def test_a_conversation_that_the_template_refuses_names_its_row(write):
    data = rows(write, WHOLE[3:], WHOLE)
    with pytest.raises(DataError, match="row 2: the model's chat template refuses the conversation: no system message"):
        encode(data, chatting(STRICT), max_length=64)


def test_parts_joined_are_the_whole(write):
    for template in (TEMPLATE, FORGETS):
        tokenizer = chatting(template)
        parts = conversation_parts(HISTORY, "gh", "ij", tokenizer, "row 1")
        assert "".join(text for text, _ in parts) == written(tokenizer, WHOLE)


def test_a_stream_of_conversations_gives_the_same_tokens(write):
    file = write("chat.jsonl", lines(*CHAT))
    tokenizer = chatting()
    streamed = load_data(DataSettings(train=file, streaming=True))
    found = list(encode(streamed, tokenizer, max_length=512)["train"])
    held = encode(load_data(DataSettings(train=file)), tokenizer, max_length=512)["train"]
    assert sorted((row["row"], row["input_ids"], row["labels"]) for row in found) == [
        (row["row"], row["input_ids"], row["labels"]) for row in held
    ]
