"""Tiny seeded models with working tokenizers, and a few rows for every kind of task. All of it is made up here."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

GOOD = "fine lovely bright warm clever funny gentle rich sharp sweet".split()
BAD = "dull cold poor tired clumsy grim hollow stale weak bleak".split()
PLAIN = (
    "the a film plot scene actor and with of was it this song book story ending voice picture play cast music light "
    "hero script page stage crowd camera town night day year man woman child friend house road river sea garden king "
    "queen war love dream window door letter train summer winter"
).split()
ASKED = "which word says how it was ? . : 0 1 2 3 4 5 positive negative same other review text pair choice".split()
WORDS = [*GOOD, *BAD, *PLAIN, *ASKED]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
LENGTH = 48
ROWS = {"train": 24, "validation": 12, "test": 8}


def save_bases(folder: Path) -> None:
    """Write the folders `bert`, `llama` and `t5`."""
    import torch

    from tests.released.pretraining import pretrain

    for kind, build in {"bert": _bert, "llama": _llama, "t5": _t5}.items():
        torch.manual_seed(5)
        tokenizer = _tokenizer(kind)
        assert tokenizer(f"the film was {GOOD[0]}")["input_ids"].count(tokenizer.unk_token_id) == 0
        model = build(len(tokenizer))
        pretrain(kind, model, tokenizer)
        model.save_pretrained(folder / kind)
        tokenizer.save_pretrained(folder / kind)


def _bert(vocabulary: int) -> Any:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=vocabulary, max_position_embeddings=LENGTH + 16, initializer_range=0.1, pad_token_id=0, **SIZES
    )
    return BertModel(config)


def _llama(vocabulary: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        max_position_embeddings=LENGTH + 16,
        initializer_range=0.1,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        **SIZES,
    )
    return LlamaForCausalLM(config)


def _t5(vocabulary: int) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=vocabulary,
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_heads=2,
        pad_token_id=0,
        eos_token_id=3,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config)


def _tokenizer(kind: str) -> Any:
    """One token a word. BERT's frames a text, T5's ends it, Llama's adds nothing."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    first, last = ("[CLS]", "[SEP]") if kind == "bert" else ("<s>", "</s>")
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", first, last, "[MASK]", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": first, "eos_token": last}
    if kind == "bert":
        special = {"cls_token": first, "sep_token": last, "mask_token": "[MASK]"}
        inner.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {last} $B:1 {last}:1",
            special_tokens=[(first, 2), (last, 3)],
        )
    elif kind == "t5":
        inner.post_processor = processors.TemplateProcessing(single=f"$A {last}", special_tokens=[(last, 3)])
    inputs = ["input_ids", *(["token_type_ids"] if kind == "bert" else []), "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_max_length=LENGTH,
        model_input_names=inputs,
        **special,
    )


def save_data(folder: Path) -> None:
    """Write `TASK-SPLIT.csv` or `TASK-SPLIT.jsonl` for every kind of task and every split."""
    folder.mkdir()
    for task, row_of in ROW_OF.items():
        for number, (split, count) in enumerate(ROWS.items()):
            draw = random.Random(f"{task}{number}")
            rows = [row_of(draw, index % 2 == 0) for index in range(count)]
            if all(isinstance(value, str) for value in rows[0].values()):
                with (folder / f"{task}-{split}.csv").open("w", newline="", encoding="utf8") as file:
                    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(rows)
            else:
                lines = "".join(json.dumps(row) + "\n" for row in rows)
                (folder / f"{task}-{split}.jsonl").write_text(lines, encoding="utf8")


def data_file(task: str, split: str) -> str:
    """Its name in the folder that `save_data` writes."""
    ending = "jsonl" if task in ("token_labels", "multiple_choice", "extractive_qa") else "csv"
    return f"data/{task}-{split}.{ending}"


def sentence(draw: random.Random, good: bool, longest: int = 7) -> list[str]:
    """Words of which two are good ones or two are bad ones."""
    words = draw.choices(PLAIN, k=draw.randint(3, longest)) + draw.choices(GOOD if good else BAD, k=2)
    draw.shuffle(words)
    return words


def _single(draw: random.Random, good: bool) -> dict[str, Any]:
    return {"text": " ".join(sentence(draw, good)), "label": "positive" if good else "negative"}


def _pair(draw: random.Random, same: bool) -> dict[str, Any]:
    first, second = sentence(draw, True), sentence(draw, same)
    return {"text": " ".join(first), "text_pair": " ".join(second), "label": "same" if same else "other"}


def _regression(draw: random.Random, good: bool) -> dict[str, Any]:
    words = sentence(draw, good)
    return {"text": " ".join(words), "label": f"{(3 if good else 1) + len(words) / 10:.1f}"}


def _token_labels(draw: random.Random, good: bool) -> dict[str, Any]:
    words = sentence(draw, good)
    tags = ["B-good" if word in GOOD else "B-bad" if word in BAD else "O" for word in words]
    return {"tokens": words, "tags": tags}


def _multiple_choice(draw: random.Random, first: bool) -> dict[str, Any]:
    choices = [draw.choice(GOOD), draw.choice(BAD)]
    context = " ".join(draw.choices(PLAIN, k=4))
    return {"context": context, "choices": choices if first else choices[::-1], "label": int(not first)}


def _extractive_qa(draw: random.Random, good: bool) -> dict[str, Any]:
    answer, words = draw.choice(GOOD if good else BAD), draw.choices(PLAIN, k=5)
    words.insert(draw.randrange(6), answer)
    context = " ".join(words)
    return {
        "question": "which word says how it was ?",
        "context": context,
        "answers": {"text": [answer], "answer_start": [f" {context} ".index(f" {answer} ")]},
    }


def _plain_text(draw: random.Random, good: bool) -> dict[str, Any]:
    return {"text": " ".join(sentence(draw, good))}


def _prompt_response(draw: random.Random, good: bool) -> dict[str, Any]:
    return {"prompt": " ".join(["review :", *sentence(draw, good)]), "response": "positive" if good else "negative"}


ROW_OF: dict[str, Callable[[random.Random, bool], dict[str, Any]]] = {
    "single_sentence": _single,
    "pair": _pair,
    "regression": _regression,
    "token_labels": _token_labels,
    "multiple_choice": _multiple_choice,
    "extractive_qa": _extractive_qa,
    "plain_text": _plain_text,
    "prompt_response": _prompt_response,
}
