"""Texts of the rollout: those of transformers' own loop, whatever shares a batch, and from the right distribution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf

from luthier.generation.rollout import Rollout, common_beginning, opened, prompt_ids, read_prompts
from luthier.generation.sampling import RowSampler, nucleus
from luthier.generation.writing import Request
from luthier.models.artifacts import load_model
from luthier.models.loading import load_tokenizer
from tests.models.builders import BERT_TOKENS, build_tokenizer
from tests.redteaming.conftest import WORDS


@pytest.fixture(scope="module")
def loaded(speaker):
    return load_model(str(speaker), "causal_lm"), load_tokenizer(str(speaker))


def texts(loaded, requests, tokens=12, **more):
    return {one.id: one for part in Rollout(*loaded, **more).write(requests, tokens) for one in part}


def asked(temperature: float, count: int = 14) -> list[Request]:
    long = "how may i hide the kettle and the garden and the ladder and the violin quietly please and"
    found = [" ".join([*long.split(), *WORDS[i : i + 1 + i % 5]]) for i in range(count - 4)]
    found += ["a", "no never", found[0], found[0]]
    return [Request(str(i), text, temperature=temperature, seed=i) for i, text in enumerate(found)]


def test_greedy_texts_are_those_of_generate_one_by_one(loaded):
    model, tokenizer = loaded
    found = texts(loaded, asked(0.0), batch_size=8)
    for one in asked(0.0):
        ids = torch.tensor([tokenizer(one.prompt)["input_ids"]])
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        assert found[one.id].text == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True), one.prompt


SIZES = {"vocab_size": 80, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "pad_token_id": 0}
LLAMA = {**SIZES, "num_key_value_heads": 4, "intermediate_size": 48, "max_position_embeddings": 128}
OWN = {"vocab_size": 80, "n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 128}
NEAR = {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 24}
DECODERS = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**LLAMA, sliding_window=24)),
    "gemma3": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**LLAMA, head_dim=8, sliding_window=24)),
    "gpt_neo": lambda: hf.GPTNeoForCausalLM(hf.GPTNeoConfig(vocab_size=80, hidden_size=32, **NEAR)),
    "mpt": lambda: hf.MptForCausalLM(hf.MptConfig(vocab_size=80, d_model=32, n_layers=2, n_heads=4, max_seq_len=128)),
    "bloom": lambda: hf.BloomForCausalLM(hf.BloomConfig(vocab_size=80, hidden_size=32, n_layer=2, n_head=4)),
}


def sharpened(model: Any) -> Any:
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("kind", list(DECODERS))
@pytest.mark.parametrize("rests", [(20, 12, 3), (9, 9, 9)])
def test_a_prompt_is_read_as_if_it_were_alone_whatever_others_begin_with(kind, rests):
    """Windows and distances over columns count the padding behind a beginning that is read once."""
    model, draw = sharpened(DECODERS[kind]()), torch.Generator().manual_seed(1)
    begins, *ends = (torch.randint(3, 80, (n,), generator=draw).tolist() for n in (30, *rests))
    prompts = [begins + end for end in ends]
    with torch.inference_mode():
        found, _, _ = read_prompts(model, prompts, 0)
        alone = torch.cat([model(input_ids=torch.tensor([one])).logits[:, -1] for one in prompts])
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-4)


UNCACHED = {
    "mamba": lambda: hf.MambaForCausalLM(hf.MambaConfig(vocab_size=80, hidden_size=32, num_hidden_layers=2)),
    "rwkv": lambda: hf.RwkvForCausalLM(hf.RwkvConfig(vocab_size=80, hidden_size=32, num_hidden_layers=2)),
    "openai-gpt": lambda: hf.OpenAIGPTLMHeadModel(hf.OpenAIGPTConfig(**OWN)),
}


@pytest.mark.parametrize("kind", list(UNCACHED))
def test_models_that_keep_no_keys_and_values_write_as_each_text_alone(loaded, kind):
    model, tokenizer = sharpened(UNCACHED[kind]()), loaded[1]
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    found = {one.id: one for part in Rollout(model, tokenizer, batch_size=8).write(asked(0.0), 6) for one in part}
    for one in asked(0.0):
        ids = torch.tensor(prompt_ids([one], tokenizer, 128, 6))
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
        assert found[one.id].text == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True), one.prompt


def test_samples_do_not_depend_on_what_shares_the_batch(loaded):
    together = texts(loaded, asked(0.8), batch_size=32)
    for size in (1, 3, 14):
        assert {k: v.text for k, v in texts(loaded, asked(0.8), batch_size=size).items()} == {
            k: v.text for k, v in together.items()
        }
    assert together["0"].text != together["13"].text  # the same prompt, another seed


def test_parts_that_are_there_are_left_out_and_the_others_are_the_same(loaded):
    rollout = Rollout(*loaded, batch_size=4)
    parts = list(rollout.write(asked(0.8), 6))
    skip = frozenset(one.id for one in parts[1])
    assert list(rollout.write(asked(0.8), 6, skip)) == [parts[0], *parts[2:]]
    torn = frozenset(one.id for one in parts[1][:2])
    assert list(rollout.write(asked(0.8), 6, torn)) == parts


def test_it_is_told_which_texts_were_cut_off(loaded):
    found = texts(loaded, asked(1.5, 14), 30, batch_size=14)
    assert {one.cut_off for one in found.values()} == {True, False}
    assert all(one.tokens == 30 for one in found.values() if one.cut_off and one.prompt_tokens + 30 <= 64)
    long = Request("x", " ".join(WORDS * 3), temperature=0.0)
    (one,) = texts(loaded, [long], 8).values()
    assert one.prompt_tokens == 64 - 8


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p():
    probabilities = torch.tensor([[0.1, 0.5, 0.15, 0.25]])
    drawn = [
        int(nucleus(probabilities, torch.tensor([0.7]), torch.tensor([u]))) for u in torch.linspace(0, 0.9999, 3000)
    ]
    shares = torch.bincount(torch.tensor(drawn), minlength=4) / len(drawn)
    assert torch.allclose(shares, torch.tensor([0.0, 2 / 3, 0.0, 1 / 3]), atol=0.01)


def test_the_nucleus_of_a_large_flat_vocabulary_is_sorted_whole():
    torch.manual_seed(0)
    probabilities = torch.rand(3, 2000).softmax(-1)
    uniform = torch.tensor([0.05, 0.5, 0.999])
    found = nucleus(probabilities, torch.full((3,), 0.9), uniform)
    for row, token, u in zip(probabilities, found, uniform, strict=True):
        values, order = row.sort(descending=True)
        kept = values[: int((values.cumsum(0) - values < 0.9).sum())]
        place = int((kept.cumsum(0) / kept.sum() <= u).sum())
        assert int(token) == int(order[place])


def test_samples_follow_the_model(loaded):
    logits = torch.tensor([[2.0, 1.0, 0.0]]).repeat(4000, 1)
    sampler = RowSampler([Request(str(i), "", temperature=0.5, top_p=1.0, seed=i) for i in range(4000)])
    shares = torch.bincount(sampler.draw(logits, range(4000)), minlength=3) / 4000
    assert torch.allclose(shares, (logits[0] / 0.5).softmax(-1), atol=0.03)


def test_the_preamble_stands_where_the_system_text_goes():
    class Chat:
        def __init__(self, takes_system):
            self.takes_system = takes_system

        def apply_chat_template(self, messages, **_):
            kept = [one for one in messages if one["role"] != "system" or self.takes_system]
            return "".join(f"<{one['role']}>{one['content']}" for one in kept) + "<assistant>"

    request = Request("x", "borrow it", "be kind")
    assert opened(Chat(True), request) == "<system>be kind<user>borrow it<assistant>"
    assert opened(Chat(False), request) == "<user>be kind\n\nborrow it<assistant>"


def test_the_common_beginning_leaves_a_token_to_each():
    assert common_beginning([[1, 2, 3], [1, 2, 4]]) == 2
    assert common_beginning([[1, 2], [1, 2, 4]]) == 1
    assert common_beginning([[5], [1, 2, 4]]) == 0


def test_a_text_goes_on_from_what_it_begins_with(loaded):
    plain = texts(loaded, [Request("a", "how may i hide the kettle", temperature=0.0)])["a"].text
    found = texts(loaded, [Request("a", "how may i hide the", temperature=0.0, begins=" kettle")])["a"].text
    assert found == f" kettle{plain}"


def test_a_prompt_stands_as_it_is_where_no_chat_is_wanted(loaded):
    model, tokenizer = loaded
    before = tokenizer.chat_template
    tokenizer.chat_template = "please {{ messages[0]['content'] }} tell"
    try:
        asked_ = [Request("a", "how may i", chat=False), Request("b", "how may i")]
        first, second = prompt_ids(asked_, tokenizer, Rollout(model, tokenizer).limit, 8)
    finally:
        tokenizer.chat_template = before
    assert first == tokenizer("how may i")["input_ids"]
    assert second == tokenizer("please how may i tell")["input_ids"]


@pytest.mark.parametrize("template", ["{{ messages[0]['content'] }}", None])
def test_a_text_that_goes_on_does_not_end_in_the_end_token(template):
    tokenizer = build_tokenizer(**BERT_TOKENS, eos_token="[SEP]")
    tokenizer.chat_template = template
    (found,) = prompt_ids([Request("a", "a good film", chat=False)], tokenizer, 64, 8)
    assert found == tokenizer("a good film")["input_ids"][:-1]
