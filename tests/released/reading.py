"""What a fixture gives, read with public names alone: `make.py` records it, and `test_released.py` compares it.

Every function works in the folder that holds `bases`, `data`, `adapters` and `runs`; paths are relative to it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

TEXTS = ("the film was lovely and warm", "this dull plot was with grim", "a clever hero with bright music")
FIRST_WORDS = ["the", "a", "it"]
PAIR_TEXTS = ("the ending was rich", "a cold night")


def logits_of(adapter: str, about: dict[str, Any]) -> torch.Tensor:
    """Logits (N, C) of a classifier, or (N, V) of the last word of a language model, for `TEXTS`."""
    return logits_on_texts(load_tuned(adapter, about), about)


@torch.inference_mode()
def logits_on_texts(model: Any, about: dict[str, Any]) -> torch.Tensor:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(about["base"])
    batch = dict(tokenizer(list(TEXTS), return_tensors="pt"))
    if about["auto_class"] == "AutoModelForSeq2SeqLM":
        batch["decoder_input_ids"] = torch.tensor([[0, *tokenizer.convert_tokens_to_ids(FIRST_WORDS)]] * len(TEXTS))
    logits = model.eval()(**batch).logits
    return logits[:, -1] if logits.ndim == 3 else logits


def load_tuned(folder: str, about: dict[str, Any]) -> Any:
    """The tuned model as a user of transformers and PEFT loads it."""
    import peft
    import transformers

    import luthier  # noqa: F401

    auto_class = getattr(transformers, about["auto_class"])
    if not about["adapter"]:
        return auto_class.from_pretrained(folder)
    torch.manual_seed(0)
    return peft.PeftModel.from_pretrained(auto_class.from_pretrained(about["base"]), folder)


def vectors_of(encoder: str, task_prefix: str) -> dict[str, np.ndarray]:
    """Vectors (N, D) of an encoder, for texts and for pairs, and of one made from saved prefixes."""
    import luthier
    from luthier.tuning import SharedEncoder

    added = SharedEncoder("bases/bert", pooling="mean")
    added.add("mood", task_prefix)
    added.add("pair", f"{encoder}/00-represent/model/prefixes/pair.safetensors")
    return {
        "texts": luthier.embed(encoder, list(TEXTS)),
        "pairs": luthier.embed(encoder, list(PAIR_TEXTS), list(PAIR_TEXTS[::-1])),
        "added": added.encode(list(TEXTS)),
    }


def predictions_of(run: str, file: str, output: Path) -> list[dict[str, Any]]:
    """What `luthier predict` writes for the rows of a file."""
    command("predict", run, "--file", file, "--output", str(output))
    return [json.loads(line) for line in output.read_text(encoding="utf8").splitlines()]


def chosen_of(comparison: str) -> dict[str, Any]:
    """What `recommend` makes of a comparison."""
    from luthier.report import recommend

    choice = recommend(comparison)
    assert choice is not None
    assert choice.chosen is not None
    left_out = sorted(label for label, _ in choice.left_out)
    return {"score_name": choice.score_name, "chosen": choice.chosen.label, "left_out": left_out}


def command(*arguments: str) -> None:
    """Run the command line.

    Raises:
        AssertionError: it failed.
    """
    from luthier.cli import main

    assert main(list(arguments)) == 0, arguments
