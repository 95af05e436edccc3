"""A Llama whose next token hangs on the last one alone, set by hand, so that it keeps to the form of questions and
answers, and documents of the words that it knows."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from luthier.context.instruction import wording

WORDS = [f"w{n}" for n in range(20)]
TAGS = ["<question>", "</question>", "<answer>", "</answer>", "yes", "no"]
SPECIAL = ["<pad>", "</s>", "<unk>"]
# What follows what: pairs in their tags for a question, and yes for a verdict, whose prompt ends in `Right:`.
CHAIN = {
    "<question>": "w1",
    "w1": "w2",
    "w2": "</question>",
    "</question>": "<answer>",
    "<answer>": "w7",
    "w7": "</answer>",
    "</answer>": "</s>",
    "Right:": "yes",
    "yes": "</s>",
}
LENGTH = 256


def vocabulary() -> list[str]:
    """All tokens: of the chain, of documents, and of the wording of prompts."""
    prompts = [
        wording.asked_for_a_pair("w0", kind) + wording.learned_prompt("w0", "w0", kind) for kind in wording._ASKED
    ]
    said = " ".join([*prompts, wording.asked_for_a_verdict("w0", "w0", "w0")]).split()
    return list(dict.fromkeys([*SPECIAL, *TAGS, *WORDS, *(f"{word}." for word in WORDS), *said]))


def tokenizer() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: n for n, word in enumerate(vocabulary())}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=LENGTH
    )


def chained(chain: dict[str, str]) -> LlamaForCausalLM:
    """Embeddings are the axes, layers add nothing, and the last projection turns each token into the one behind it."""
    words = vocabulary()
    place = {word: n for n, word in enumerate(words)}
    size = 2 * -(-len(words) // 2)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=size,
        num_hidden_layers=1,
        num_attention_heads=1,
        head_dim=8,
        intermediate_size=8,
        max_position_embeddings=LENGTH,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(len(words), size))
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        for word, following in chain.items():
            model.lm_head.weight[place[following], place[word]] = 2.0
    return model


@pytest.fixture(scope="session")
def asker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the model lies."""
    folder = tmp_path_factory.mktemp("asker") / "model"
    chained(CHAIN).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def text(words: int, seed: int) -> str:
    """Sentences of five words."""
    draw = random.Random(seed)
    return " ".join(f"{' '.join(draw.choices(WORDS, k=4))} {draw.choice(WORDS)}." for _ in range(words // 5))


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with documents, some longer than a sample, and short instructions."""
    folder = tmp_path_factory.mktemp("texts")
    sizes = [60, 120, 400, 90, 300, 150, 80, 200, 70, 110, 50, 140]
    (folder / "documents.txt").write_text("".join(f"{text(size, n)}\n" for n, size in enumerate(sizes)))
    short = [{"prompt": text(10 + 5 * (n % 3), 100 + n), "response": text(5, 200 + n)} for n in range(30)]
    (folder / "short.jsonl").write_text("".join(json.dumps(row) + "\n" for row in short))
    return folder


def stage(texts: Path, **more: Any) -> dict[str, Any]:
    """Settings that take seconds."""
    return {
        "documents": {"train": str(texts / "documents.txt"), "held_out": 0.3},
        "writing": {"chunk_tokens": 40, "max_new_tokens": 12, "temperature": 0.0},
        "short": {"train": str(texts / "short.jsonl"), "task": "prompt_response"},
        "batch_size": 2,
        "accumulation": 2,
        "learning_rate": 1e-3,
        "checkpoint_every": 1,
        "log_every": 1,
        **more,
    }
