"""Tiny encoders for the tests of instance prompts, and an independent reference of the full model.

The reference reads the weights of a model of transformers and the generator's numbers, and nothing else.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

from luthier.tuning.instance_prompt import InstancePromptConfig

VOCABULARY, WIDTH, LAYERS, HEADS, PAD, SEPARATOR = 41, 16, 3, 4, 1, 2


def encoder(kind: str = "roberta", **options: Any) -> Any:
    torch.manual_seed(0)
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 24,
        "max_position_embeddings": 40,
        "pad_token_id": PAD,
        "num_labels": 3,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.4,
        **options,
    }
    if kind == "bert":
        return BertForSequenceClassification(BertConfig(**shape)).eval()
    return RobertaForSequenceClassification(RobertaConfig(eos_token_id=SEPARATOR, **shape)).eval()


def tuned(model: Any, **options: Any) -> Any:
    """With a generator large enough for every prompt to count."""
    settings = {"task_type": "SEQ_CLS", "prompt_length": 3, "bottleneck": 8, "phm_order": 4, "dropout": 0.0, **options}
    wrapped = get_peft_model(model, InstancePromptConfig(**settings)).eval()
    with torch.no_grad():
        for parameter in wrapped.base_model.prompt_layer.instance_prompt_generators.parameters():
            parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(parameter.numel()))
    return wrapped


def pairs(lengths: list[tuple[int, int]]) -> dict[str, Tensor]:
    """<s> a </s> </s> b </s>, padded on the right."""
    rows = []
    for number, (a, b) in enumerate(lengths):
        drawn = torch.randint(4, VOCABULARY, (a + b,), generator=torch.Generator().manual_seed(number)).tolist()
        rows.append([0, *drawn[:a], SEPARATOR, SEPARATOR, *drawn[a:], SEPARATOR])
    width = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


def kron_sum(a: Tensor, b: Tensor) -> Tensor:
    return sum(torch.kron(left, right) for left, right in zip(a, b, strict=True))  # type: ignore[return-value]


def generated(generator: Any, s: Tensor, layer: int) -> Tensor:
    """G_b(s) for one row, with the weight matrices written out."""
    net = generator.networks[layer if len(generator.networks) > 1 else 0]
    hidden = F.gelu(s @ kron_sum(net.down.a, net.down.b) + net.down_bias)
    return (hidden @ kron_sum(net.up.a, net.up.b) + generator.bias[layer]).view(-1, len(s))


def reference(
    model: Any,
    ids: list[int],
    *,
    at: int | None,
    multi: bool,
    previous: bool,
    generator: Any,
    with_prompt: tuple[int, ...] = (),
) -> Tensor:
    """Logits of one unpadded row; `at` is the column of the prompt, None runs the bare model.

    `with_prompt` are tokens that follow the text in the passes with a prompt only.
    """
    w = {name.split(".", 1)[1]: p for name, p in model.named_parameters() if name.startswith(("bert.", "roberta."))}
    first_position = PAD + 1 if hasattr(model, "roberta") else 0

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-12)

    def body(prompt: Tensor | None, s: Tensor | None) -> Tensor:
        tokens = ids if prompt is None else [*ids, *with_prompt]
        h = w["embeddings.word_embeddings.weight"][tokens]
        if prompt is not None:
            h = torch.cat([h[:at], prompt, h[at:]])
        h = h + w["embeddings.position_embeddings.weight"][first_position : first_position + len(h)]
        h = norm(h + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for layer in range(LAYERS):
            if prompt is not None and multi and layer > 0:
                added = generated(generator, h[0] if previous else s, layer)
                h = torch.cat([h[:at], h[at : at + len(added)] + added, h[at + len(added) :]])
            p = f"encoder.layer.{layer}"
            q, k, v = (
                linear(h, f"{p}.attention.self.{x}").view(len(h), HEADS, -1).transpose(0, 1)
                for x in ("query", "key", "value")
            )
            mixed = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
            out = linear(mixed.transpose(0, 1).reshape(len(h), -1), f"{p}.attention.output.dense")
            h = norm(h + out, f"{p}.attention.output.LayerNorm")
            out = linear(F.gelu(linear(h, f"{p}.intermediate.dense")), f"{p}.output.dense")
            h = norm(h + out, f"{p}.output.LayerNorm")
        return h

    s = body(None, None)[0]
    top = body(None if at is None else generated(generator, s, 0), s)[0]
    if hasattr(model, "bert"):
        return model.classifier(torch.tanh(linear(top, "pooler.dense")))
    return model.classifier.out_proj(torch.tanh(model.classifier.dense(top)))
