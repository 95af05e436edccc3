"""Several keys and tracked variables: what is asked, no prompt is too long, and reading once changes nothing."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

from luthier.context import multi_key_retrieval, passkey_retrieval, variable_tracking
from luthier.context.answering import Question, answers
from luthier.context.beginnings import Beginnings
from luthier.context.ruler import _named, _tracked
from luthier.errors import DataError, ModelError
from tests.context.test_probes import ByteTokenizer, Reader, finder

SIZES = {
    "vocab_size": 600,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 3,
}


def decoder(config: Any = None) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval() if config is None else config.eval()


def shown(ids: list[int]) -> str:
    return ByteTokenizer().decode(list(ids))


def test_each_text_holds_a_name_at_every_depth_and_is_asked_for_each():
    questions = _named(ByteTokenizer(), 700, [0.0, 0.5, 1.0], np.random.default_rng(0))
    texts = {shown(one.prompt).partition("\nWhat is")[0] for one in questions}
    assert len(texts) == 1
    pairs = re.findall(r"The number of (\w+) is (\d{5})\.", texts.pop())
    assert len(dict(pairs)) == 3
    for question, (name, number) in zip(questions, pairs, strict=True):
        assert shown(question.prompt).endswith(f"What is the number of {name}? The number of {name} is")
        assert shown(question.answer) == f" {number}."
        assert shown(question.rival) in {f" {other}." for _, other in pairs} - {f" {number}."}
        assert len(question.prompt) + len(question.answer) <= 700


def test_chains_lead_from_a_number_to_the_last_variable():
    questions, chains = _tracked(ByteTokenizer(), 900, 3, np.random.default_rng(0))
    text = shown(questions[0].prompt)
    for question, chain in zip(questions, chains, strict=True):
        first, number = re.search(rf"Variable ({chain[0]}) is (\d{{5}})\.", text).groups()
        assert shown(question.prompt).endswith(f"The variables that are {number}:")
        assert shown(question.answer) == f" {', '.join(chain)}."
        found, here = [first], text.index(f"Variable {first} is")
        while (after := re.search(rf"Variable (\w+) is what {found[-1]} is\.", text)) is not None:
            assert after.start() > here  # a variable is told before it is used
            here = after.start()
            found.append(after[1])
        assert found == chain
        assert len(question.prompt) + question.most <= 900
    assert questions[0].rival == questions[1].answer


def test_a_model_that_reads_finds_the_keys_and_names_the_variables():
    def named(ids: list[int]) -> int | None:
        asked = re.search(r"What is the number of (\w+)\?.*", shown(ids))
        return None if asked is None else finder(f"number of {asked[1]} is")(ids)

    probes = multi_key_retrieval(Reader(named), ByteTokenizer(), [400], depths=(0.9, 0.1), samples=2)
    assert [one.depth for one in probes] == [0.9, 0.1]
    assert all(one.exact.all() and one.prefers == 1.0 for one in probes)
    assert [list(one.texts) for one in probes] == [[0, 1], [0, 1]]

    def tracked(ids: list[int]) -> int | None:
        text, asked, rest = shown(ids).partition("\nWhich variables are ")
        if not asked or ":" not in rest:
            return None
        number, written = rest[:5], rest.partition(":")[2]
        names = re.findall(rf"Variable (\w+) is {number}\.", text)
        while names and (after := re.search(rf"Variable (\w+) is what {names[-1]} is\.", text)) is not None:
            names.append(after[1])
        whole = [ord(c) + 10 for c in f" {', '.join(names)}."] + [3]
        return whole[len(written)] if len(written) < len(whole) else 3

    found = variable_tracking(Reader(tracked), ByteTokenizer(), [500], hops=[1, 2], samples=2)
    assert [one.hops for one in found] == [1, 2]
    assert [list(one.texts) for one in found] == [[0, 0, 1, 1]] * 2
    assert all(one.exact.all() and one.prefers == 1.0 and (one.recall == 1).all() for one in found)
    blind = variable_tracking(Reader(lambda ids: None), ByteTokenizer(), [500], hops=[1], samples=2)
    assert (blind[0].recall == 0).all()


PROBES = {
    "passkey": lambda model, **more: passkey_retrieval(model, ByteTokenizer(), [300, 420], samples=3, **more),
    "multi_key": lambda model, **more: multi_key_retrieval(model, ByteTokenizer(), [420], samples=3, **more),
    "tracking": lambda model, **more: variable_tracking(model, ByteTokenizer(), [700], hops=[1, 2], samples=2, **more),
}


@pytest.mark.parametrize("name", PROBES)
def test_reading_what_prompts_share_once_changes_no_answer(name: str):
    model = decoder()
    once, each = (PROBES[name](model, reuse=reuse, batch_size=2) for reuse in (True, False))
    for one, other in zip(once, each, strict=True):
        assert (one.length, one.depth, one.hops) == (other.length, other.depth, other.hops)
        assert np.allclose(one.margins, other.margins, atol=1e-5)
        assert (one.exact == other.exact).all()
        assert np.array_equal(one.recall, other.recall, equal_nan=True)
        assert list(one.written) == list(other.written)


def test_a_beginning_is_read_once_over_batches_and_depths():
    model, text = decoder(), list(range(10, 210))
    asked = [
        Question([*text[:cut], 5 + n, *text[cut:]], [7], [8], group=group)
        for group, cut in enumerate((50, 100, 200))
        for n in range(4)
    ]
    kept = Beginnings(model)
    answers(model, asked, batch_size=2, stop=frozenset(), beginnings=kept)
    beginnings = 200 - 1  # of the last group all but the token that is read with the answer, which is its number
    rest = 4 * (200 - 50) + 4 * (200 - 100) + 4 * (200 - 199)
    assert kept.read == beginnings + rest
    plain = Beginnings(model, reuse=False)
    answers(model, asked, batch_size=2, stop=frozenset(), beginnings=plain)
    assert plain.read == 12 * 200


@pytest.mark.parametrize("kind", ["sliding", "dynamic"])
def test_models_whose_keys_change_with_the_text_read_every_prompt(kind: str):
    """Keys outside of a window are gone, and those of dynamic frequencies hang on the length of the whole text."""
    if kind == "sliding":
        model = decoder(MistralForCausalLM(MistralConfig(**SIZES, sliding_window=32)))
    else:
        rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
        model = decoder(LlamaForCausalLM(LlamaConfig(**{**SIZES, "max_position_embeddings": 64}, rope_parameters=rope)))
    once, each = (PROBES["multi_key"](model, reuse=reuse) for reuse in (True, False))
    assert all(np.allclose(one.margins, other.margins, atol=1e-5) for one, other in zip(once, each, strict=True))


@pytest.mark.parametrize("name", PROBES)
def test_a_model_without_keys_and_values_is_refused_in_words(name: str):
    model = MambaForCausalLM(MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2)).eval()
    with pytest.raises(ModelError, match="keeps no keys and values"):
        PROBES[name](model)


def test_what_leaves_no_room_is_said():
    with pytest.raises(DataError, match="for filler"):
        multi_key_retrieval(None, ByteTokenizer(), [100])
    with pytest.raises(DataError, match="for filler"):
        variable_tracking(None, ByteTokenizer(), [100])
    with pytest.raises(DataError, match="depths"):
        multi_key_retrieval(None, ByteTokenizer(), [400], depths=[0.5])
