"""UniPELT's step against its floor, here and in AdapterHub's `adapters` 1.3.0, on BERT in its base size.

The floor is the same step with nothing but the head trained and the gradient computed down to the embeddings. The peer
needs older libraries, so an environment of its own is built in `.cache/` (once, with pip). Before anything is timed
the weights of our UniPELT are put into the peer's, and their logits have to agree to 1e-5. Claim: at most 1.15 floors.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import harness
import peer_worker
from tables import Cells, grouped, median_and_range, pick, table

ROUNDS = 5
PEER = Path(__file__).parent.parent / ".cache" / "peer-adapters"
REQUIREMENTS = ("torch==2.13.0", "adapters==1.3.0")
SETTINGS = {
    "rounds": ROUNDS,
    "batch": peer_worker.BATCH,
    "length": peer_worker.LENGTH,
    "steps": peer_worker.STEPS,
    "peer": REQUIREMENTS,
}


def main() -> None:
    if len(sys.argv) > 2 and sys.argv[1] == "--measure":
        harness.single_core()
        print(json.dumps(peer_worker.timed(own_model(sys.argv[2]))))
        return
    options = harness.arguments(__doc__)
    peer = peer_python()
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        write_weights(weights)

        def measure(cell: dict[str, Any]) -> dict[str, Any]:
            ours = [sys.executable, __file__, "--measure", cell["what"]]
            theirs = [str(peer), peer_worker.__file__, cell["what"], str(weights)]
            command = ours if cell["side"] == "luthier" else theirs
            return harness.answer_of(command)

        cells = [
            {"side": side, "what": what, "round": number}
            for number in range(ROUNDS)
            for what in ("floor", "lora", "unipelt")
            for side in ("luthier", "adapters")
        ]
        harness.run_cells("peer_cost", SETTINGS, cells, measure, options)


def peer_python() -> Path:
    """The peer's interpreter, after building its environment where there is none."""
    python = PEER / "bin" / "python"
    done = PEER / "installed"
    if not done.exists():
        venv.create(PEER, with_pip=True, clear=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
        done.write_text("\n".join(REQUIREMENTS))
    return python


def own_model(what: str) -> Any:
    """This project's side: the floor, or the model with an adapter in it."""
    from peft import LoraConfig, get_peft_model

    from luthier.tuning import UniPELTConfig

    model = peer_worker.base_model()
    if what == "floor":
        peer_worker.let_gradient_reach_the_input(model)
        return model
    if what == "lora":
        targets = ["query", "value"]
        return get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=targets))
    return get_peft_model(model, UniPELTConfig(task_type="SEQ_CLS"))


def write_weights(path: Path) -> None:
    """Our UniPELT's trained parameters under the peer's names, and our logits, with every part away from its start."""
    import torch
    from safetensors.torch import save_file

    model = own_model("unipelt")
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.02)
    found = {n.removeprefix("base_model.model."): p.detach() for n, p in model.named_parameters() if p.requires_grad}
    layers = model.config.num_hidden_layers
    renamed = {f"classifier.{k}": found[f"classifier.modules_to_save.default.{k}"] for k in ("weight", "bias")}
    for number in range(layers):
        renamed |= layer_weights(found, number)
    prefix = "bert.encoder.layer.0.attention.self.prefix_tuning.pool.prefix_tunings.peer.self_prefix"
    shared = "bert.unipelt.unipelt_parts.default.self"
    ups = [f"bert.encoder.layer.{i}.unipelt.unipelt_parts.default.prefix.self.up" for i in range(layers)]
    renamed[f"{prefix}.wte.weight"] = found[f"{shared}.table"]
    for kind in ("weight", "bias"):
        renamed[f"{prefix}.control_trans.0.{kind}"] = found[f"{shared}.hidden.{kind}"]
        renamed[f"{prefix}.control_trans.2.{kind}"] = torch.cat([found[f"{up}.{kind}"] for up in ups])
    save_file({k: v.contiguous() for k, v in renamed.items()} | {"logits": peer_worker.logits(model)}, path)


def layer_weights(found: dict[str, Any], number: int) -> dict[str, Any]:
    """One layer's parameters under the peer's names."""
    ours = f"bert.encoder.layer.{number}.unipelt.unipelt_parts.default"
    theirs = f"bert.encoder.layer.{number}"
    renamed = {}
    for role in ("query", "value"):
        lora = f"{theirs}.attention.self.{role}.loras.peer"
        renamed[f"{lora}.lora_A"] = found[f"{ours}.lora.self-{role}.a"]
        renamed[f"{lora}.lora_B"] = found[f"{ours}.lora.self-{role}.b"]
    gates = {
        "lora-self-query": "attention.self.query.loras.peer.gate",
        "lora-self-value": "attention.self.value.loras.peer.gate",
        "prefix-self": "attention.self.prefix_tuning.prefix_gates.peer",
        "adapter": "output.adapters.peer.gate",
    }
    for kind in ("weight", "bias"):
        for own, other in gates.items():
            renamed[f"{theirs}.{other}.{kind}"] = found[f"{ours}.learned_gates.{own}.{kind}"]
        renamed[f"{theirs}.output.adapters.peer.adapter_down.0.{kind}"] = found[f"{ours}.adapter.down.{kind}"]
        renamed[f"{theirs}.output.adapters.peer.adapter_up.{kind}"] = found[f"{ours}.adapter.up.{kind}"]
    return renamed


def page(cells: Cells) -> str:
    rows = []
    for (what, side), found in grouped(cells, "what", "side").items():
        ratios = ratios_of(cells, what, side)
        memory = statistics.median(e["peak_memory_bytes"] for e in found)
        rows.append(
            [
                what,
                side,
                f"{found[0]['trainable']:,}",
                f"{statistics.median(e['step_seconds'] for e in found):.2f} s",
                median_and_range(ratios) if ratios else "",
                f"{memory / 1e6:,.0f} MB",
            ]
        )
    about = (
        "## UniPELT's step here and in AdapterHub's `adapters`\n\nBERT in its base size (109 M), random weights, "
        "8 rows of 64 tokens, one pinned core, a fresh process for every measurement, sides in turn. Ours runs on "
        "transformers 5, `adapters` 1.3.0 on 4.57, both on torch 2.13. With the same weights their logits agree to "
        "1e-5, which the script checks. Floor: the gradient down to the embeddings, nothing but the head trained.\n"
    )
    return about + "\n" + table(["what", "side", "trained", "step (median)", "against own floor", "peak memory"], rows)


def answers(cells: Cells) -> list[tuple[str, str]]:
    ours, theirs = (median_and_range(ratios_of(cells, "unipelt", side)) for side in ("luthier", "adapters"))
    question = "What does a UniPELT step cost against its floor, the gradient down to the embeddings?"
    return [(question, f"{ours} here, {theirs} in `adapters`.")]


def ratios_of(cells: Cells, what: str, side: str) -> list[float]:
    """Step time against the floor of the same side and round."""
    floors = {e["cell"]["round"]: e["step_seconds"] for e in pick(cells, what="floor", side=side)}
    own = {e["cell"]["round"]: e["step_seconds"] for e in pick(cells, what=what, side=side)}
    return [seconds / floors[r] for r, seconds in own.items() if r in floors]


if __name__ == "__main__":
    main()
