"""What each of four processes does for `test_context_parallel`; it imports no more than that takes."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, distributed
from transformers import MistralConfig, MistralForCausalLM

from luthier.data.schemas import IGNORED
from luthier.errors import LuthierError
from luthier.language_modeling.context_parallel import own_group, own_slices, sharing_rows
from luthier.language_modeling.rows import prediction_rows
from tests.language_modeling.models import CAUSAL, SIZES, VOCABULARY, made

LENGTH = 32
DOCUMENTS = {"one text": ((32,), (32,)), "documents": ((5, 20, 7), (1, 31))}
MODELS = {**CAUSAL, "checkpointed": CAUSAL["llama"], "autocast": CAUSAL["llama"]}


def model_of(name: str) -> Any:
    """A model with key-value heads of several query heads, or others; in double precision but for autocasting."""
    model = made(MODELS[name], training=True)
    model.config.use_cache = False
    if name == "checkpointed":
        model.activation_checkpointing_enable()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model if name == "autocast" else model.double()


def batch(documents: str) -> dict[str, Tensor]:
    ids = torch.randint(5, VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(4))
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in DOCUMENTS[documents]])
    return {"input_ids": ids, "position_ids": positions, "labels": torch.where(positions == 0, IGNORED, ids)}


def learned(model: Any, name: str, batch: dict[str, Tensor], *, shifted: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and gradients of the sum of the losses."""
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=name == "autocast"):
        rows = prediction_rows(model, batch["labels"], shifted=shifted, inputs=inputs)
    scores = (rows.hidden.to(rows.weight.dtype) @ rows.weight.T).log_softmax(-1)
    scores.gather(1, rows.targets[:, None]).sum().backward()
    with torch.autocast("cpu", torch.bfloat16, enabled=name == "autocast"), torch.no_grad():
        logits = model(**inputs).logits
    return logits, {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


def refused(model: Any, length: int = LENGTH) -> str:
    """What is said of a model whose rows can't be shared."""
    before = model.config._attn_implementation
    try:
        with sharing_rows(model, 2, length):
            return ""
    except LuthierError as error:
        assert model.config._attn_implementation == before
        return str(error)


def mixing() -> Any:
    """A decoder of which a layer sees the mean of all tokens."""
    model = made(CAUSAL["llama"])
    model.model.layers[0].register_forward_hook(lambda _layer, _given, hidden: hidden + hidden.mean(1, keepdim=True))
    return model


def of_a_process(rank: int, folder: str) -> None:
    """Two processes share the first row, two the second one."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "4"}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=4)
    row = own_group(2)
    found: dict[str, Any] = {}
    for name in MODELS:
        model = model_of(name)
        with sharing_rows(model, 2, LENGTH):
            for documents in DOCUMENTS:
                own = {key: value[row : row + 1] for key, value in batch(documents).items()}
                sliced = own_slices(2).of_batch(own)
                logits, gradients = learned(model, name, sliced, shifted=False)
                for gradient in gradients.values():
                    distributed.all_reduce(gradient)
                found[f"{name} {documents}"] = logits, gradients
    found["mixing"] = refused(mixing())
    found["window"] = refused(MistralForCausalLM(MistralConfig(**SIZES, num_key_value_heads=1, sliding_window=8)))
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()
