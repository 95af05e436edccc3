"""What language models write after several prompts at once is what they write after each alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from luthier.data.batches.encoding import encode_rows
from luthier.data.schemas import IGNORED
from luthier.methods.base import MethodContext
from luthier.registry import METHODS, import_folder
from luthier.tasks.base import task_named
from luthier.tasks.running.writing import end_tokens, written_after
from tests.evaluation.text_models import model_of, tokenizer_of

import_folder("luthier.tuning.stock")
WORDS = "a b c d e f g h i j k l m n o p q r s t".split()
POSITIONS = 24
# Lengths that are shared, that are not, and one that leaves a decoder no room for more than its own share.
PROMPTS = [[3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [5], [6, 7, 8], [9, 4, 3], [5], [12, 11, 10, 9, 8, 7]]
MOST = [6, 14, 14, 14, 14, 9]
SIZES: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
ENDS = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}


def bare(kind: str, vocabulary: int) -> Any:
    torch.manual_seed(0)
    if kind == "gpt2":
        sizes = {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": POSITIONS}
        return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, **sizes, **ENDS))
    if kind == "mistral":
        sizes = {**SIZES, "num_hidden_layers": 2, "sliding_window": 4}
        return MistralForCausalLM(MistralConfig(vocab_size=vocabulary, **sizes, **ENDS))
    if kind == "recurrent_gemma":
        sizes = {**SIZES, "lru_width": 32, "attention_window_size": 16, "num_hidden_layers": 3}
        return RecurrentGemmaForCausalLM(RecurrentGemmaConfig(vocab_size=vocabulary, **sizes, **ENDS))
    if kind == "rwkv":
        return hf.RwkvForCausalLM(hf.RwkvConfig(vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, **ENDS))
    return model_of(kind, vocabulary)


def tuned(kind: str, method: str) -> tuple[Any, Any]:
    """Model and tokenizer, with weights that tell tokens and places apart."""
    tokenizer = tokenizer_of(WORDS, "t5" if kind == "t5" else "llama")
    base = bare(kind, len(tokenizer))
    task = task_named("prompt_response").peft_type(base.config)
    settings = {"length": 3} if method in ("prompt", "prefix", "residual_prompt") else {}
    model: Any = METHODS.get(method)(**settings).apply(base, MethodContext(task, 1, tokenizer))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.2)
    return model.double().eval(), tokenizer


def alone(model: Any, prompt: list[int], most: int, *, two_sided: bool) -> list[int]:
    """transformers' own greedy search on a batch of one."""
    ids = torch.tensor([prompt])
    options = {"max_new_tokens": most, "do_sample": False, "pad_token_id": 0}
    with torch.inference_mode():
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)[0].tolist()
    found = out[1:] if two_sided else out[len(prompt) :]
    return found[: found.index(1)] if 1 in found else found


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        *[(kind, method) for kind in ("llama", "t5") for method in ("full", "lora", "prompt", "prefix", "idpg")],
        *[("mistral", method) for method in ("full", "prompt", "prefix", "unipelt", "residual_prompt", "idpg")],
        ("gpt2", "full"),
        ("recurrent_gemma", "full"),
        ("rwkv", "full"),
    ],
)
def test_many_at_once_are_as_each_alone(kind: str, method: str) -> None:
    model, tokenizer = tuned(kind, method)
    expected = [alone(model, ids, most, two_sided=kind == "t5") for ids, most in zip(PROMPTS, MOST, strict=True)]
    assert len({tuple(one) for one in expected}) > 2, "the prompts are told apart"
    done: list[int] = []
    for size in (64, 2):
        limit = POSITIONS if kind == "gpt2" else None
        found = written_after(model, tokenizer, PROMPTS, MOST, limit=limit, batch_size=size, on_prompt=done.append)
        assert found == expected
        assert done.pop() == len(PROMPTS)


def test_prompts_share_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tuned("llama", "full")
    sizes: list[int] = []
    generate = model.generate
    monkeypatch.setattr(
        model, "generate", lambda **given: (sizes.append(len(given["input_ids"])), generate(**given))[1]
    )
    written_after(model, tokenizer, PROMPTS, MOST, batch_size=3)
    assert sizes == [3, 2], "equal prompts are answered once"
    sizes.clear()
    written_after(model, tokenizer, PROMPTS, MOST, limit=20)
    assert sizes == [2, 3], "14 tokens find no room behind 10"
    sizes.clear()
    monkeypatch.setattr("luthier.tasks.running.writing._CACHED", 60)
    written_after(model, tokenizer, PROMPTS, MOST)
    assert sizes == [2, 3], "24 tokens fit twice, 17 three times"


CHATML = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }} {{ m['content'] }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


@pytest.mark.parametrize("template", [CHATML, None])
@pytest.mark.parametrize("stated", [True, False])
def test_a_response_ends_where_training_ended_it(template: str | None, stated: bool) -> None:
    """A base model of the layout of Qwen's: its end token is another than the one that ends a turn."""
    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "[UNK]", "user", "assistant", "hello", "world", "more"]
    raw = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"eos_token": words[0], "pad_token": words[0], "unk_token": "[UNK]"}
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=raw, **special)
    tokenizer.add_special_tokens({"additional_special_tokens": words[1:3]})
    tokenizer.chat_template = template
    row = encode_rows([{"prompt": "hello", "response": "world"}], "prompt_response", tokenizer, max_length=40)[0]
    *answer, end = [token for token in row["labels"] if token != IGNORED]
    config = hf.LlamaConfig(vocab_size=9, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, eos_token_id=None)
    model: Any = hf.LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = 0 if stated else None

    # It tells the answer and its end by heart, and goes on.
    def forward(input_ids: torch.Tensor, **_: Any) -> Any:
        tail = [*answer, end, 8, 8, 8, 8]
        behind = dict(zip([row["input_ids"][-len(answer) - 2], *tail], tail, strict=False))
        logits = torch.nn.functional.one_hot(torch.tensor([[behind.get(int(i), 8)] for i in input_ids[:, -1]]), 9)
        return CausalLMOutputWithPast(logits=logits.float() * 50)

    model.forward = forward
    prompt = row["input_ids"][: -len(answer) - 1]
    assert end == (2 if template else 0)
    assert written_after(model, tokenizer, [prompt], [6]) == [answer]
    assert end in end_tokens(model, tokenizer)
