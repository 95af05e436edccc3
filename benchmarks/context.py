"""Longer contexts on a small decoder that is trained here: a larger rotary base against position interpolation.

For every seed a Llama-shaped decoder learns passages of the Brown corpus in short rows; then each arm goes on from it
for the same tokens in rows of four times that length. So that there is something to retrieve, half of the documents end
with the question for their first sentence and that sentence, in the words of the probe; no held-out text is among them,
and before anything is compared the decoder has to find first sentences at the old length (`alive`).

Main comparisons, `abf` (base 500,000) less `pi`: the loss beyond the old length, and the share of held-out texts whose
own first sentence is likelier than another's, at the longest prompts. The loss of short text stands beside them. Three
seeds are a pilot; from it come the seeds that see half of the published effect, at most `most`. Exploratory, on the
pilot's seeds: `base`, which keeps the frequencies, `none`, the model before, and under `abf` what the paper varies
beside: `curriculum`, half of the tokens in short rows and the rest in long ones, for the loss that it reaches and the
operations that it takes, and the mix of documents: `no_long`, without the longer ones, and `more_long`, nine tenths of
them.

A cell is a recipe's run under `.cache/benchmarks`, so that a stopped one goes on.

    python benchmarks/context.py --scale quick     # shows in a minute that the script works
    python benchmarks/context.py                   # about an hour on one core
"""

from __future__ import annotations

import json
import random
import re
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import harness
import torch
from evidence import Claim, Differences, Finding, findings_of, hours_of
from ruamel.yaml import YAML
from tables import Cells, pick, spread, table

import luthier
from luthier.context import losses_by_position
from luthier.context.position_losses import text_rows
from luthier.context.probes import FIRST, first_sentence_retrieval
from luthier.models.artifacts import load

PLACE = Path(".cache/benchmarks/context")
TRAIN, HELD_OUT = (Path(f".cache/text/brown-{split}.txt") for split in ("train", "validation"))
MAIN, EXPLORED = ("abf", "pi"), ("base", "none", "curriculum", "no_long", "more_long")
ARMS = (*MAIN, *EXPLORED)
# All other arms that are trained have the larger base.
ROPE = {"abf": "abf", "pi": "interpolation", "base": "base", "curriculum": "abf"}
MIX: dict[str, dict[str, Any]] = {"no_long": {"kind": "drop"}, "more_long": {"kind": "upsample", "share": 0.9}}
PILOT = 3
# At chance half of the own first sentences are likelier.
ALIVE = 0.6
_FIRST = re.compile(r"\s*(\S.*?[.!?])(?=\s|$)", re.DOTALL)

BEYOND = Claim(
    "Continued training on longer rows under a larger rotary base gives a lower loss beyond the old length than under "
    "position interpolation.",
    "loss under interpolation less loss under the larger base, nats",
    0.0028,
    "ln(6.341 / 6.323), perplexity on books of the 7B model",
    "new Llama",
)
RETRIEVAL = Claim(
    "It uses the start of long texts better.",
    "share of texts whose own first sentence is likelier than another's, at the new length",
    None,
    "a figure of ROUGE-L alone",
    "new Llama",
)
SHORT = Claim(
    "It is no worse on short text.",
    "loss of short text under interpolation less that under the larger base, nats",
    None,
    "",
    "new Llama",
    main=False,
)
CURRICULUM = Claim(
    "Half of the tokens in short rows lose nothing beyond the old length.",
    "loss of long rows from the start less that of the curriculum, nats",
    None,
    "",
    "new Llama",
    main=False,
)
MIXED = Claim(
    "Documents without the longer ones among them lose nothing beyond the old length.",
    "loss with all documents less that without the longer ones, nats",
    None,
    "",
    "new Llama",
    main=False,
)


@dataclass(frozen=True)
class Scale:
    """Sizes of everything.

    Attributes:
        hidden, layers, heads: of the decoder.
        old, new: tokens of the rows before and after.
        first, tokens: that it is trained on before and after.
        vocabulary: of the tokenizer.
        most: seeds of the main arms, however many the pilot asks for.
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
    most: int
    samples: int


SCALES = {
    "quick": Scale(32, 2, 2, 64, 256, 2e4, 2e4, 512, 1, 10),
    "pilot": Scale(64, 2, 2, 64, 256, 1e6, 2e5, 2048, PILOT, 60),
    "small": Scale(64, 2, 2, 64, 256, 2e6, 4e5, 2048, 8, 100),
    "larger": Scale(128, 4, 2, 128, 512, 6e6, 1e6, 4096, 10, 100),
}


def main() -> None:
    options = harness.arguments(__doc__, scale={"choices": [*SCALES], "default": "small", "help": "how large"})
    scale = SCALES[options.scale]
    claim = "context" if options.scale == "small" else f"context_{options.scale}"
    settings = {"scale": asdict(scale), "rope": ROPE, "text": "Brown with questions for first sentences"}
    torch.set_num_threads(1)
    write_texts(scale, PLACE / options.scale)

    def run(cells: list[dict[str, Any]]) -> Cells:
        done = harness.run_cells(claim, settings, cells, lambda cell: measured(scale, options.scale, cell), options)
        return [done["cells"][name] for name in map(harness.cell_name, cells) if name in done["cells"]]

    seeds = min(PILOT, scale.most)
    pilot = [{"seed": seed, "arm": arm} for seed in range(seeds) for arm in ARMS]
    found = run(pilot)
    if len(found) == len(pilot):
        run([{"seed": seed, "arm": arm} for seed in range(seeds, seeds_needed(found, scale.most)) for arm in MAIN])


def seeds_needed(cells: Cells, most: int) -> int:
    """Seeds that see half of the published effect with 80 % power, by the pilot; at most `most`."""
    found = differences(BEYOND, [one for one in cells if one["cell"]["seed"] < PILOT])
    return most if found is None else min(most, found.seeds_for(BEYOND.published / 2, most) or most)


# -- text ------------------------------------------------------------------------------------------------------


def write_texts(scale: Scale, folder: Path) -> None:
    """`short.jsonl` for the decoder, `long.jsonl` for the arms: passages that follow each other, of up to as many words
    as a row has room for, half of them with the question for their first sentence."""
    folder.mkdir(parents=True, exist_ok=True)
    passages = [line for line in TRAIN.read_text(encoding="utf8").splitlines() if line.strip()]
    for name, most in (("short", scale.old), ("long", scale.new)):
        place = folder / f"{name}.jsonl"
        if not place.exists():
            rows = [json.dumps({"text": text}) + "\n" for text in documents(passages, most, random.Random(name))]
            place.write_text("".join(rows), encoding="utf8")


def documents(passages: list[str], most: int, draw: random.Random) -> Iterator[str]:
    """All passages in parts of a quarter to a half of `most` words, which leaves tokens for the question."""
    words = [word for passage in passages for word in passage.split()]
    place = 0
    while place < len(words):
        size = draw.randint(most // 4, most // 2)
        text = " ".join(words[place : place + size])
        place += size
        first = _FIRST.match(text)
        asked = first is not None and len(first[1].split()) <= most // 8 and draw.random() < 0.5
        yield f"{text}{FIRST} {first[1]}" if asked and first is not None else text


# -- cells -----------------------------------------------------------------------------------------------------


def measured(scale: Scale, name: str, cell: dict[str, Any]) -> dict[str, Any]:
    """Train an arm from its seed's decoder, and look at it at every length."""
    folder, texts = PLACE / name / str(cell["seed"]), PLACE / name
    before = trained(folder, "before", cell["seed"], [{"pretrain": pretraining(scale, texts)}])
    arm = cell["arm"]
    stages = [{"lengthen": lengthening(scale, arm, texts)}] if arm != "none" else []
    after = trained(folder, arm, cell["seed"], stages, before) if stages else before
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


def text(texts: Path, name: str) -> dict[str, Any]:
    return {"train": str((texts / f"{name}.jsonl").absolute()), "held_out": 0}


def pretraining(scale: Scale, texts: Path) -> dict[str, Any]:
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
        "corpus": text(texts, "short"),
        "length": scale.old,
        "max_tokens": scale.first,
        "batch_size": 2048 // scale.old,
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "evaluate_every": "never",
    }


def lengthening(scale: Scale, arm: str, texts: Path) -> dict[str, Any]:
    """The `lengthen` stage of an arm. Documents are long from half of a new row on."""
    corpus = text(texts, "long")
    if arm in MIX:
        corpus["long_documents"] = {**MIX[arm], "threshold": scale.new // 2}
    return {
        "corpus": corpus,
        "length": scale.new,
        "rope": {"kind": ROPE.get(arm, "abf")},
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
        found[f"right_{name}"] = "".join("1" if margin > 0 else "0" for margin in one.margins)
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
    old, new = cells[0]["old"], cells[0]["new"]
    rows = []
    for arm in ARMS:
        some = pick(cells, arm=arm)
        if some:
            scores = [spread([one[key] for one in some]) for key in NAMES]
            rows.append([arm, str(len(some)), *scores, f"{statistics.fmean(one['flops'] for one in some):.3g}"])
    pilot = differences(BEYOND, [one for one in cells if one["cell"]["seed"] < PILOT])
    power = ""
    if pilot is not None and pilot.seeds > 1:
        needed = pilot.seeds_for(BEYOND.published / 2)
        seeds = "more seeds alone can't see" if needed is None else f"{needed} seeds see"
        power = f" Pilot: paired seeds deviate by {pilot.deviation:.4f} nats, {seeds} {BEYOND.published / 2:.4f}."
    lines = [
        f"## Longer contexts: {old} to {new} tokens\n",
        f"A decoder trained on Brown in rows of {old} tokens, then in rows of {new}. First sentences are asked for at "
        f"{new} tokens; half is chance. `none` is the model before; {alive(cells)}{power}\n",
        table(["arm", "seeds", *NAMES.values(), "operations"], rows),
    ]
    return "\n".join(lines)


def alive(cells: Cells) -> str:
    """Whether the decoder finds first sentences at the length that it was trained on."""
    before = pick(cells, arm="none")
    if not before:
        return "whether it finds first sentences at its own length has not been looked at."
    share = statistics.fmean(one[f"prefers_{one['old']}"] for one in before)
    verdict = "so that there is something to lose" if share >= ALIVE else "so that retrieval tells nothing here"
    return f"at its own length it prefers {share:.0%} of the first sentences, {verdict}."


def differences(claim: Claim, cells: Cells) -> Differences | None:
    """Paired by seed, better when higher."""
    first, second, key, sign = {
        BEYOND: ("abf", "pi", "loss_beyond", -1),
        RETRIEVAL: ("abf", "pi", "right_longest", 1),
        SHORT: ("abf", "pi", "loss_short", -1),
        CURRICULUM: ("curriculum", "abf", "loss_beyond", -1),
        MIXED: ("no_long", "abf", "loss_beyond", -1),
    }[claim]

    def scores(arm: str) -> dict[int, Any]:
        found = {one["cell"]["seed"]: one[key] for one in pick(cells, arm=arm)}
        return {
            seed: [float(right) for right in value] if isinstance(value, str) else sign * value
            for seed, value in found.items()
        }

    return Differences.paired({"Brown": (scores(first), scores(second))})


def findings(cells: Cells) -> list[Finding]:
    """Of every claim; retrieval is not testable where the decoder finds nothing at its own length either."""
    claims = [BEYOND, RETRIEVAL, SHORT, CURRICULUM, MIXED]
    hours = hours_of(cells)
    found = findings_of([(claim, differences(claim, cells)) for claim in claims], hours)
    before = pick(cells, arm="none")
    if before and statistics.fmean(one[f"prefers_{one['old']}"] for one in before) < ALIVE:
        why = "the decoder finds no first sentences at its own length"
        found = [Finding(one.claim, None, hours=hours, why=why) if one.claim is RETRIEVAL else one for one in found]
    return found


if __name__ == "__main__":
    main()
