"""Longer contexts on a small decoder that is trained here: a larger rotary base against position interpolation.

For every seed a Llama-shaped decoder learns the Brown corpus in rows of 128 tokens; then each arm goes on from it for
the same tokens in rows of 512. Main comparison: `abf` (base 500,000) against `pi`, by the loss beyond the old length
(of the last three quarters of 512 tokens) and by the share of held-out texts whose own first sentence is likelier than
another's, at the longest prompts; the loss of short text, at 128 tokens, stands beside it. `base` keeps the
frequencies, `none` is the model before. Then `curriculum`: half of the tokens at 128, the rest at 512, under `abf`, for
the loss that it reaches and the operations that it takes. A cell is a recipe's run under `.cache/benchmarks`, so that a
stopped one goes on. `--scale pilot` is a smaller decoder that sees less text, from 64 to 256 tokens.

    python benchmarks/context.py --scale quick     # shows in a minute that the script works
    python benchmarks/context.py
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import harness
import torch
from ruamel.yaml import YAML
from tables import Cells, pick, spread, table

import luthier
from luthier.context import losses_by_position
from luthier.context.position_losses import text_rows
from luthier.context.probes import first_sentence_retrieval
from luthier.models.artifacts import load

PLACE = Path(".cache/benchmarks/context")
TRAIN, HELD_OUT = (Path(f".cache/text/brown-{split}.txt") for split in ("train", "validation"))
ARMS = ("abf", "pi", "base", "none", "curriculum")
ROPE = {"abf": "abf", "pi": "interpolation", "base": "base", "curriculum": "abf"}


@dataclass(frozen=True)
class Scale:
    """Sizes of everything.

    Attributes:
        hidden, layers, heads: of the decoder.
        old, new: tokens of the rows before and after.
        first, tokens: that it is trained on before and after.
        vocabulary: of the tokenizer.
        seeds: how many.
        samples: texts that are asked for their first sentence.
    """

    hidden: int
    layers: int
    heads: int
    old: int
    new: int
    first: float
    tokens: float
    vocabulary: int
    seeds: int
    samples: int


SCALES = {
    "quick": Scale(32, 2, 2, 64, 256, 2e4, 2e4, 512, 1, 10),
    "pilot": Scale(64, 2, 2, 64, 256, 1.5e6, 3e5, 2048, 2, 60),
    "small": Scale(128, 4, 2, 128, 512, 4e6, 1e6, 4096, 5, 60),
}


def main() -> None:
    options = harness.arguments(__doc__, scale={"choices": [*SCALES], "default": "small", "help": "how large"})
    scale = SCALES[options.scale]
    claim = "context" if options.scale == "small" else f"context_{options.scale}"
    cells = [{"seed": seed, "arm": arm} for seed in range(scale.seeds) for arm in ARMS]
    settings = {"scale": asdict(scale), "rope": ROPE, "text": "Brown"}
    torch.set_num_threads(1)
    harness.run_cells(claim, settings, cells, lambda cell: measured(scale, options.scale, cell), options)


def measured(scale: Scale, name: str, cell: dict[str, Any]) -> dict[str, Any]:
    """Train an arm from its seed's decoder, and look at it at every length."""
    folder = PLACE / name / str(cell["seed"])
    before = trained(folder, "before", cell["seed"], [{"pretrain": pretraining(scale)}])
    arm = cell["arm"]
    after = (
        before if arm == "none" else trained(folder, arm, cell["seed"], [{"lengthen": lengthening(scale, arm)}], before)
    )
    noted = after / "context.json"
    told = YAML(typ="safe").load(noted) if noted.exists() else {}
    return {**looked_at(scale, after / "model"), "flops": told.get("flops", 0.0), "tokens": told.get("tokens", 0)}


def trained(folder: Path, name: str, seed: int, stages: list[dict[str, Any]], model: Path | None = None) -> Path:
    """The folder of the stage of a recipe with one stage; the same call again trains nothing."""
    recipe = {"name": name, "seed": seed, "stages": stages, **({"model": str(model / "model")} if model else {})}
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"{name}.yaml"
    with place.open("w") as file:
        YAML().dump(recipe, file)
    record = luthier.run(place, output=folder)
    return Path(record.folder) / f"00-{next(iter(stages[0]))}"


def text() -> dict[str, Any]:
    return {"train": str(TRAIN.absolute()), "validation": str(HELD_OUT.absolute()), "shuffle": 0}


def pretraining(scale: Scale) -> dict[str, Any]:
    """The `pretrain` stage."""
    sizes = {"hidden_size": scale.hidden, "num_hidden_layers": scale.layers, "num_attention_heads": scale.heads}
    architecture = {
        "model_type": "llama",
        **sizes,
        "num_key_value_heads": scale.heads,
        "intermediate_size": 3 * scale.hidden,
        "max_position_embeddings": scale.old,
        "tie_word_embeddings": True,
    }
    return {
        "architecture": architecture,
        "tokenizer": {"kind": "bpe", "vocabulary": scale.vocabulary, "lowercase": False},
        "corpus": text(),
        "length": scale.old,
        "max_tokens": scale.first,
        "batch_size": 2048 // scale.old,
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "evaluate_every": "never",
    }


def lengthening(scale: Scale, arm: str) -> dict[str, Any]:
    """The `lengthen` stage of an arm."""
    return {
        "corpus": text(),
        "length": scale.new,
        "rope": {"kind": ROPE[arm]},
        "curriculum": [{"length": scale.old, "share": 0.5}] if arm == "curriculum" else [],
        "max_tokens": scale.tokens,
        "batch_size": 2048 // scale.new,
        "learning_rate": 5e-4,
        "evaluate_every": "never",
    }


def looked_at(scale: Scale, model_folder: Path) -> dict[str, Any]:
    """Loss of short text, loss beyond the old length, and first sentences by length."""
    model, tokenizer = load(str(model_folder))
    documents = [line for line in HELD_OUT.read_text(encoding="utf8").splitlines() if line.strip()]
    losses = losses_by_position(model, text_rows(documents, tokenizer, scale.new, 100))
    short = losses_by_position(model, text_rows(documents, tokenizer, scale.old, 400))
    lengths = [scale.old, 2 * scale.old, scale.new]
    probes = first_sentence_retrieval(
        model, tokenizer, documents, lengths, samples=scale.samples, batch_size=16, generate=False
    )
    found: dict[str, Any] = {
        "loss_beyond": float(losses[:, scale.old :].mean()),
        "loss_within": float(losses[:, : scale.old].mean()),
        "loss_short": float(short.mean()),
    }
    for one in probes:
        name = "longest" if one.length == scale.new else str(one.length)
        found[f"prefers_{name}"] = one.prefers
        found[f"margin_{name}"] = float(one.margins.mean())
    return {**found, "old": scale.old, "new": scale.new}


NAMES = {
    "loss_short": "loss of short text",
    "loss_beyond": "loss beyond the old length",
    "prefers_longest": "own first sentence likelier",
    "margin_longest": "margin, nats a token",
}


def page(cells: Cells) -> str:
    """The part of RESULTS.md."""
    seeds = sorted({one["cell"]["seed"] for one in cells})
    old, new = cells[0]["old"], cells[0]["new"]
    rows = []
    for arm in ARMS:
        some = pick(cells, arm=arm)
        if some:
            scores = [spread([one[key] for one in some]) for key in NAMES]
            rows.append([arm, *scores, f"{statistics.fmean(one['flops'] for one in some):.3g}"])
    lines = [
        f"## Longer contexts: {old} to {new} tokens\n",
        f"A decoder trained on Brown in rows of {old} tokens, then in rows of {new}; seeds: {len(seeds)}. First "
        f"sentences are asked for at {new} tokens; half is chance. `none` is the model before.\n",
        table(["arm", *NAMES.values(), "operations"], rows),
    ]
    return "\n".join(lines)


def answers(cells: Cells) -> list[tuple[str, str]]:
    """ABF less PI, and the curriculum less ABF, paired by seed."""
    found = []
    for one, other, question in (
        ("abf", "pi", "Is a larger base better than interpolation on longer texts?"),
        ("curriculum", "abf", "What does beginning with short rows cost?"),
    ):
        pairs = [(pick(cells, arm=one, seed=s), pick(cells, arm=other, seed=s)) for s in _seeds(cells)]
        whole = [(a[0], b[0]) for a, b in pairs if a and b]
        if whole:
            told = [f"{name} {spread([a[key] - b[key] for a, b in whole])}" for key, name in NAMES.items()]
            saved = 1 - statistics.fmean(a["flops"] / b["flops"] for a, b in whole)
            told += [f"operations saved {saved:.1%}"] if one == "curriculum" else []
            found.append((question, f"{one} less {other}: {'; '.join(told)}"))
    return found


def _seeds(cells: Cells) -> list[int]:
    return sorted({one["cell"]["seed"] for one in cells})


if __name__ == "__main__":
    main()
