"""Memory of a `lengthen` stage as `luthier plan` estimates it, against what the process takes.

Each cell is a recipe's run in a process of its own on a model with random weights: the peak is the process's VmHWM, all
of it, libraries too. Claim: the estimate is within 15 % of the peak, for models of three sizes, with checkpointed
activations and without, at several lengths, with documents together, apart by a mask, and apart without one, for two
processes that have weights, gradients and moments together, and for two that share a row.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
from tables import Cells, table

from luthier.context.memory import training_memory
from luthier.training.estimates import split_states

SIZES = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 192},
    "small": {"hidden_size": 320, "num_hidden_layers": 8, "num_attention_heads": 5, "intermediate_size": 960},
    "wide": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 2304},
}
VOCABULARY = 2048
CELLS = (
    {"size": "tiny", "length": 512, "batch": 4, "checkpointing": False, "mask": "none"},
    {"size": "small", "length": 512, "batch": 2, "checkpointing": False, "mask": "none"},
    {"size": "small", "length": 2048, "batch": 2, "checkpointing": False, "mask": "none"},
    {"size": "small", "length": 2048, "batch": 2, "checkpointing": True, "mask": "none"},
    {"size": "small", "length": 2048, "batch": 2, "checkpointing": False, "mask": "block"},
    {"size": "small", "length": 2048, "batch": 2, "checkpointing": False, "mask": "varlen"},
    {"size": "wide", "length": 256, "batch": 1, "checkpointing": False, "mask": "none"},
    {"size": "wide", "length": 256, "batch": 1, "checkpointing": False, "mask": "none", "processes": 2},
    {"size": "small", "length": 4096, "batch": 1, "checkpointing": False, "mask": "none"},
    {"size": "small", "length": 4096, "batch": 1, "checkpointing": False, "mask": "none", "sharing": 2},
    {"size": "small", "length": 4096, "batch": 1, "checkpointing": True, "mask": "none"},
    {"size": "small", "length": 4096, "batch": 1, "checkpointing": True, "mask": "none", "sharing": 2},
    {"size": "small", "length": 8192, "batch": 1, "checkpointing": False, "mask": "none"},
    {"size": "small", "length": 8192, "batch": 1, "checkpointing": False, "mask": "none", "sharing": 2},
)
SETTINGS = {"sizes": SIZES, "vocabulary": VOCABULARY, "steps": 2}


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--measure":
        print(json.dumps(peak(json.loads(sys.argv[2]))))
        return
    options = harness.arguments(__doc__)
    harness.run_cells("context_memory", SETTINGS, CELLS, measured, options)


def measured(cell: dict[str, Any]) -> dict[str, Any]:
    """The peak of a process of its own, and the estimate."""
    started = [sys.executable]
    if (processes := max(cell.get("processes", 1), cell.get("sharing", 1))) > 1:
        started += ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--standalone"]
    command = [*started, __file__, "--measure", json.dumps(cell)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    each = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    found = dict(max(each, key=lambda one: one["peak"]))
    if processes > 1:
        found["peaks"] = [one["peak"] for one in each]
    found["ratio"] = found["estimate"] / found["peak"]
    return found


def peak(cell: dict[str, Any]) -> dict[str, Any]:
    """Run the stage here."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    import luthier
    from luthier.training.split import whole_at_once

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = [f"w{n}" for n in range(VOCABULARY - 2)]
        inner = Tokenizer(
            models.WordLevel({"<end>": 0, "<unk>": 1, **{w: n + 2 for n, w in enumerate(words)}}, "<unk>")
        )
        inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=inner, eos_token="<end>", unk_token="<unk>", pad_token="<end>"
        )
        tokenizer.save_pretrained(folder / "model")
        config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=256, eos_token_id=0, **SIZES[cell["size"]])
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        total = sum(p.numel() for p in model.parameters())
        model.save_pretrained(folder / "model")
        whole, processes = whole_at_once(model), cell.get("processes", 1)
        del model
        draw = random.Random(0)
        text = folder / "text.txt"
        text.write_text(
            "".join(" ".join(draw.choices(words, k=draw.choice([20, 200, 900]))) + "\n" for _ in range(100))
        )
        stage = {"corpus": {"train": str(text), "held_out": 0}, "length": cell["length"], "batch_size": cell["batch"]}
        stage |= {"gradient_checkpointing": cell["checkpointing"], "split_weights": processes > 1}
        stage["context_parallel_size"] = cell.get("sharing", 1)
        stage["document_mask"] = "none" if cell["mask"] == "none" else "block"
        stage["document_attention"] = "varlen" if cell["mask"] == "varlen" else "mask"
        stage |= {"max_steps": 2, "evaluate_every": "never"}
        recipe = folder / "run.yaml"
        recipe.write_text(json.dumps({"name": "run", "model": str(folder / "model"), "stages": [{"lengthen": stage}]}))
        luthier.run(recipe, output=folder / "runs")
    estimate = training_memory(
        config,
        total,
        cell["batch"] * cell["length"],
        cell["length"],
        checkpointing=cell["checkpointing"],
        masked=cell["mask"] == "block",
        states=split_states(total, whole, processes) if processes > 1 else None,
        sharing=cell.get("sharing", 1),
    )
    status = Path("/proc/self/status").read_text()
    found = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return {"peak": int(found.split()[1]) * 1024, "estimate": estimate.total, "parameters": total, "whole": whole}


def page(cells: Cells) -> str:
    """The part of RESULTS.md."""
    rows = []
    for one in cells:
        cell = one["cell"]
        name = f"{cell['size']}, {cell['batch']} row{'s' * (cell['batch'] > 1)} of {cell['length']:,}"
        more = ", checkpointed" * cell["checkpointing"] + ", documents apart" * (cell["mask"] != "none")
        more += " without a mask" * (cell["mask"] == "varlen")
        more += ", split over 2 processes" * (cell.get("processes", 1) > 1)
        more += ", shared by 2 processes" * (cell.get("sharing", 1) > 1)
        rows.append([name + more, f"{one['peak'] / 1e6:,.0f}", f"{one['estimate'] / 1e6:,.0f}", f"{one['ratio']:.2f}"])
    return "## Memory of longer contexts\n\n" + table(["model", "peak MB", "estimated MB", "ratio"], rows)


def answers(cells: Cells) -> list[tuple[str, str]]:
    """Whether every estimate is within 15 %."""
    worst = max((one["ratio"] for one in cells), key=lambda ratio: abs(ratio - 1))
    return [("Does the plan tell the memory of a length?", f"estimates are at most {abs(worst - 1):.0%} off")]


if __name__ == "__main__":
    main()
