"""Greedy text is the likeliest token at every place, whatever a checkpoint's own settings of generation say."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from luthier.generation.rollout import Rollout
from luthier.generation.writing import Request
from luthier.models.loading import load_tokenizer
from luthier.tasks.running.writing import written_after
from tests.models.builders import llama_config, save_tiny, t5_config

PROMPT = [7, 8, 10, 11]
OWN = {"num_beams": 3, "repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "min_length": 30}


@pytest.fixture(params=["llama", "t5"])
def model(request, tmp_path) -> Any:
    import transformers

    name, config, own = {
        "llama": ("LlamaForCausalLM", llama_config(), {"bos_token": "<s>", "eos_token": "</s>"}),
        "t5": ("T5ForConditionalGeneration", t5_config(), {"pad_token": "[PAD]", "eos_token": "</s>"}),
    }[request.param]
    made = getattr(transformers, name).from_pretrained(save_tiny(name, config, tmp_path / "model", **own))
    made.generation_config.update(**OWN)
    return made.eval(), load_tokenizer(str(tmp_path / "model")), request.param == "t5"


def likeliest(model: Any, two_sided: bool, count: int) -> list[int]:
    ids, start = list(PROMPT), [0]
    found = start if two_sided else ids
    for _ in range(count):
        given = {"input_ids": torch.tensor([ids])} | ({"decoder_input_ids": torch.tensor([start])} if two_sided else {})
        with torch.no_grad():
            found.append(int(model(**given).logits[0, -1].argmax()))
        if found[-1] == model.generation_config.eos_token_id:
            break
    return found[1:] if two_sided else found[len(PROMPT) :]


def test_it_is_what_a_loop_over_the_model_gives(model):
    model, tokenizer, two_sided = model
    wanted = likeliest(model, two_sided, 6)
    ended = [token for token in wanted if token != model.generation_config.eos_token_id]
    assert written_after(model, tokenizer, [PROMPT], [6]) == [ended]


def test_a_prompt_beside_the_text_is_asked_in_the_same_way(tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    place = save_tiny("LlamaForCausalLM", llama_config(), tmp_path / "model", bos_token="<s>", eos_token="</s>")
    model, requests = AutoModelForCausalLM.from_pretrained(place).eval(), [Request("a", "a good film", temperature=0.0)]
    model.generation_config.update(**OWN)
    by_steps = [one.text for part in Rollout(model, load_tokenizer(str(place))).write(requests, 6) for one in part]
    monkeypatch.setattr("luthier.generation.rollout.reads_prompt_beside_text", lambda _: True)
    assert [
        one.text for part in Rollout(model, load_tokenizer(str(place))).write(requests, 6) for one in part
    ] == by_steps
