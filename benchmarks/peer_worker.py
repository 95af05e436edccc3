"""Times training steps of a frozen BERT of the usual size with something small trained. Runs in two environments.

`python peer_worker.py WHAT WEIGHTS`, with WHAT out of floor, lora and unipelt, is the side of AdapterHub's `adapters`;
`peer_cost.py` imports `timed` for the other. Imports nothing of this project.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from typing import Any

import torch

BATCH, LENGTH, WARM_UP, STEPS = 8, 64, 1, 4
LIMIT = 1e-5


def batch() -> dict[str, torch.Tensor]:
    """The same rows everywhere, none padded."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(1000, 20000, (BATCH, LENGTH), generator=draw)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def base_model() -> Any:
    """BERT in its base size with fixed random weights; the head comes last."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig())


def let_gradient_reach_the_input(model: Any) -> None:
    """Freeze all but the head, and still compute the gradient down to the embeddings: what any adapter has to pay."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("classifier."))
    model.get_input_embeddings().register_forward_hook(lambda _m, _a, output: output.requires_grad_())


def timed(model: Any) -> dict[str, Any]:
    """Median seconds of a step, and the peak resident size of the process."""
    torch.set_num_threads(1)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4)
    rows, labels = batch(), torch.arange(BATCH) % 2
    seconds = []
    for _ in range(WARM_UP + STEPS):
        started = time.perf_counter()
        torch.nn.functional.cross_entropy(model(**rows).logits, labels).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        seconds.append(time.perf_counter() - started)
    return {
        "step_seconds": statistics.median(seconds[WARM_UP:]),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "trainable": sum(p.numel() for p in trained),
    }


def logits(model: Any) -> torch.Tensor:
    model.eval()
    with torch.inference_mode():
        found: torch.Tensor = model(**batch()).logits
    return found


def peer_model(what: str, weights: dict[str, torch.Tensor]) -> Any:
    """The peer's model, with this project's weights in it.

    Raises:
        ValueError: its logits are not those of this project.
    """
    import adapters

    model = base_model()
    if what == "floor":
        let_gradient_reach_the_input(model)
        return model
    adapters.init(model)
    config = adapters.UniPELTConfig() if what == "unipelt" else adapters.LoRAConfig(r=8, alpha=16)
    model.add_adapter("peer", config=config)
    model.train_adapter("peer")
    if what == "unipelt":
        own, expected = dict(model.named_parameters()), weights.pop("logits")
        missing = {n for n, p in own.items() if p.requires_grad} ^ set(weights)
        if missing:
            raise ValueError(f"these parameters have no counterpart: {sorted(missing)[:4]}")
        with torch.no_grad():
            for name, value in weights.items():
                own[name].copy_(value)
        gap = (logits(model) - expected).abs().max().item()
        if gap > LIMIT:
            raise ValueError(f"the two implementations differ by {gap:.1e}")
    return model


if __name__ == "__main__":
    from safetensors.torch import load_file

    print(json.dumps(timed(peer_model(sys.argv[1], load_file(sys.argv[2])))))
