"""A clustered vocabulary against a joint one of equal size, in what a model that was pretrained with it can do.

Claim as one number (XLM-V, EMNLP 2023, section 6, the comparison at a million pieces each): a masked language model
pretrained with a vocabulary of language clusters is better on a task in many languages than one with a joint
vocabulary of the same size: +1.34 points (73.12 against 71.78, XNLI validation). Here it is entity F1 on MasakhaNER's
eight languages, mean over languages, `clustered` (k-means on -log p of length 1, ALP capacities) less `joint` (k = 1).
It holds where the 95 % interval (seeds of a mixed model with languages as units) is above 0, and does not hold where
the interval excludes half of the published effect.

Test bed: a model in the form of ModernBERT, 4 layers of width 128, from random weights, on the raw sentences of
MasakhaNER's training rows and of Tatoeba, 101 languages in all, 12,000 pieces to within 2 %. (A BERT does no better
than shares of tokens after 1,200 steps, and its F1 was that of random weights: nothing could be told with it.)
`untrained`, the joint arm without pretraining, shows that the bed is alive: that pretraining is worth something here.
Arms of a seed see equal steps of equal size, and the same rows when they are tuned.

Trials: each arm tries two rates of the `tune` stage with a seed of its own, by validation F1. Then a pilot of three
seeds, and as many more as half of the published effect asks for, at most six.
"""

from __future__ import annotations

import itertools
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
from evidence import COLUMNS, Claim, Differences, Finding, findings_of, hours_of
from tables import Cells, pick, table

import luthier
from luthier.data.sources.base import data_folder
from luthier.errors import DataError

PLACE = Path(".cache/benchmarks/vocabulary-downstream")
LANGUAGES = ("amh", "hau", "kin", "luo", "pcm", "swa", "wol", "yor")
ARMS = ("joint", "clustered")
UNTRAINED = "untrained"
PIECES, CLUSTERS, LINES, RATES, TRIAL_SEED, PILOT, MOST = 12_000, 8, 400, (5e-4, 1e-3), 101, 3, 6
CAPACITY = {"rule": "alp", "curve": "pruned", "step": 100, "least": 100, "most": 2000}
# As many weights a layer as in a BERT of this width: the inner part is a product of two halves.
SIZES = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 340}
PRETRAIN = {
    "objective": "masked",
    "length": 64,
    "max_steps": 3000,
    "batch_size": 32,
    "learning_rate": 2e-3,
    "masking": {"rate": 0.3},
    "evaluate_every": 500,
    "held_out_rows": 128,
    "pseudo_perplexity_tokens": 0,
}
TUNE = {"method": "full", "max_steps": 800, "batch_size": 32, "evaluate_every": 200}
SETTINGS = {
    "pieces": PIECES,
    "clusters": CLUSTERS,
    "lines": LINES,
    "rates": RATES,
    "capacity": CAPACITY,
    "sizes": SIZES,
    "pretrain": PRETRAIN,
    "tune": TUNE,
}
CLAIM = Claim(
    "Models are better with vocabularies of language clusters than with a joint one of equal size (XLM-V)",
    "entity F1 on MasakhaNER",
    0.0134,
    "XNLI validation, a million pieces each",
    "new multilingual ModernBERT",
)
ALIVE = Claim(
    "Pretraining helps at all on this bed",
    "entity F1 on MasakhaNER",
    None,
    "no claim of the paper",
    "new multilingual ModernBERT",
    main=False,
)


def main() -> None:
    scale = {"choices": ["quick", "small"], "default": "small", "help": "`quick` shows that the script works"}
    options = harness.arguments(__doc__, scale=scale)
    bed = Bed(quick=options.scale == "quick")
    name = "vocabulary_downstream" + ("_quick" if bed.quick else "")

    def cells(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return list(harness.run_cells(name, bed.settings(), found, bed.measure, options)["cells"].values())

    trials = [
        {"phase": "trial", "arm": arm, "rate": rate, "seed": TRIAL_SEED} for arm in (*ARMS, UNTRAINED) for rate in RATES
    ]
    done = cells(trials)
    chosen = choices(done)
    if len(chosen) < len(ARMS) + 1:
        return
    done = cells(finals(chosen, PILOT))
    if (needed := seeds_needed(done)) > PILOT:
        cells(finals(chosen, needed))


def finals(chosen: dict[str, float], seeds: int) -> list[dict[str, Any]]:
    return [
        {"phase": "final", "arm": arm, "rate": chosen[arm], "seed": seed}
        for seed in range(1, seeds + 1)
        for arm in (*ARMS, UNTRAINED)
        if arm != UNTRAINED or seed <= PILOT
    ]


def choices(cells: Cells) -> dict[str, float]:
    """Arm -> its rate with the best validation F1, where both were tried."""
    chosen = {}
    for arm in (*ARMS, UNTRAINED):
        own = {c["cell"]["rate"]: float(c["validation_seqeval_f1"]) for c in pick(cells, phase="trial", arm=arm)}
        if len(own) == len(RATES):
            chosen[arm] = max(own, key=lambda rate: own[rate])
    return chosen


def gain(cells: Cells, first: str, second: str) -> Differences | None:
    """By language and seed: F1 of one arm less that of another."""
    own = {
        arm: {c["cell"]["seed"]: c["languages"] for c in pick(cells, phase="final", arm=arm)} for arm in (first, second)
    }
    units = {
        name: tuple({seed: found[name] for seed, found in own[arm].items()} for arm in (first, second))
        for name in LANGUAGES
    }
    return Differences.paired(units)


def seeds_needed(cells: Cells) -> int:
    found = gain(cells, "clustered", "joint")
    if found is None or CLAIM.published is None:
        return PILOT
    return min(MOST, max(PILOT, found.seeds_for(CLAIM.published / 2) or MOST))


class Bed:
    """Text, vocabularies, pretrained models and their scores; everything is kept, so that a stop loses a stage."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self.folder = PLACE / ("quick" if quick else "small")
        os.environ.setdefault("LUTHIER_CACHE", str((self.folder / "cache").resolve()))
        self.pretrain: dict[str, Any] = {**PRETRAIN, **({"max_steps": 4, "evaluate_every": 2} if quick else {})}
        self.tune: dict[str, Any] = {**TUNE, **({"max_steps": 4, "evaluate_every": 2} if quick else {})}
        self.pieces, self.lines = (2500, 60) if quick else (PIECES, LINES)

    def settings(self) -> dict[str, Any]:
        more = {"pieces": self.pieces, "lines": self.lines, "pretrain": self.pretrain, "tune": self.tune}
        return {**SETTINGS, **more}

    def measure(self, cell: dict[str, Any]) -> dict[str, Any]:
        arm = "joint" if cell["arm"] == UNTRAINED else cell["arm"]
        tokenizer, about = self.vocabulary(arm, cell["seed"])
        start = self.start(tokenizer, arm, cell["seed"])
        model, loss = (start, {}) if cell["arm"] == UNTRAINED else self.pretrained(start, arm, cell["seed"])
        rows = self.entities()
        data = {name: str(rows / f"{name}.txt") for name in ("train", "validation", "test")}
        tune = {**self.tune, "learning_rate": cell["rate"], "data": {**data, "format": "conll"}}
        languages = (rows / "languages.txt").read_text(encoding="utf8").split()
        bench = harness.Bench(str(model.resolve()))
        trial = cell["phase"] == "trial"
        found = bench.tune(
            tune, cell["seed"], test=None if trial else "test", keep=lambda judged: {"languages": f1(judged, languages)}
        )
        return {**about, **loss, **found}

    def text(self) -> Path:
        """A folder with one file a language."""
        place = self.folder / "text"
        if (place / "done").is_file():
            return place
        place.mkdir(parents=True, exist_ok=True)
        for path in sorted((data_folder("tatoeba") / "tatoeba").glob("*.tsv")):
            rows = [line.split("\t")[0] for line in path.read_text(encoding="utf8").splitlines()]
            if len(rows) >= LINES:
                write_lines(place / f"{path.stem}.txt", rows[: self.lines])
        for language in LANGUAGES:
            sentences = [" ".join(word for word, _ in rows) for rows in conll(language, "train")]
            write_lines(place / f"{language}.txt", sentences[: 10 * self.lines])
        (place / "done").write_text("", encoding="utf8")
        return place

    def entities(self) -> Path:
        """A folder with the rows of all languages one after another, and the languages of the test rows."""
        place = self.folder / "entities"
        if (place / "languages.txt").is_file():
            return place
        place.mkdir(parents=True, exist_ok=True)
        of_test: list[str] = []
        for name, split in (("train", "train"), ("validation", "dev"), ("test", "test")):
            parts = []
            for language in LANGUAGES:
                sentences = conll(language, split)[: 40 if self.quick else None]
                parts += ["\n".join(f"{word} {tag}" for word, tag in rows) + "\n" for rows in sentences]
                of_test += [language] * len(sentences) if split == "test" else []
            write_lines(place / f"{name}.txt", parts)
        write_lines(place / "languages.txt", of_test)
        return place

    def vocabulary(self, arm: str, seed: int) -> tuple[Path, dict[str, Any]]:
        """The tokenizer of an arm, and what is told of it; its size is met to within 2 %."""
        from luthier.vocabulary import build_vocabulary

        asked = self.pieces
        for _ in range(5):
            settings = {
                "text": str(self.text()),
                "size": asked,
                "language_pieces": 1000,
                "cluster": {"count": 1 if arm == "joint" else CLUSTERS},
                "capacity": {"rule": "uniform"} if arm == "joint" else CAPACITY,
            }
            built = build_vocabulary(settings, self.folder / f"{arm}-{seed}" / "tokenizer", seed=seed)
            pieces = int(built.about["merged"]["pieces"])
            if abs(pieces - self.pieces) <= 0.02 * self.pieces:
                break
            asked = round(asked * self.pieces / pieces)
        tokens = statistics.fmean(one["tokens"] for one in built.about["merged"]["languages"].values())
        return built.folder, {"pieces": pieces, "tokens_a_line": round(tokens, 3)}

    def start(self, tokenizer: Path, arm: str, seed: int) -> Path:
        """A model with random weights; those of its layers are equal in all arms of a seed."""
        import torch
        from transformers import ModernBertConfig, ModernBertForMaskedLM

        from luthier.models.loading import tokenizer_in

        place = self.folder / f"{arm}-{seed}" / "start"
        if not (place / "config.json").is_file():
            found = tokenizer_in(tokenizer)
            marks = {
                f"{name}_token_id": getattr(found, f"{name}_token_id") for name in ("pad", "bos", "eos", "cls", "sep")
            }
            torch.manual_seed(seed)
            model = ModernBertForMaskedLM(ModernBertConfig(vocab_size=len(found), **marks, **SIZES))
            torch.manual_seed(seed)
            for part in (model.model.layers, model.head):
                part.apply(model._init_weights)
            found.save_pretrained(place)
            model.save_pretrained(place)
        return place

    def pretrained(self, start: Path, arm: str, seed: int) -> tuple[Path, dict[str, Any]]:
        """The model after pretraining, and its held-out loss."""
        stage = {"corpus": {"train": f"{self.text()}/*.txt"}, **self.pretrain}
        recipe = {"name": f"{arm}-{seed}", "seed": seed, "model": str(start.resolve()), "stages": [{"pretrain": stage}]}
        record = luthier.run(recipe, output=self.folder / "runs")
        loss = record.stages[-1].metrics["scores"]["validation/loss"]
        return record.folder / "00-pretrain" / "model", {"held_out_loss": round(float(loss), 4)}


def conll(language: str, split: str) -> list[list[tuple[str, str]]]:
    """Words and tags of the sentences of a file."""
    path = data_folder("masakhaner") / "masakhaner" / language / f"{split}.txt"
    if not path.is_file():
        raise DataError("needs the sets masakhaner and tatoeba under LUTHIER_DATA", where=str(path))
    lines = [line.split() for line in path.read_text(encoding="utf8").splitlines()]
    groups = (list(rows) for full, rows in itertools.groupby(lines, bool) if full)
    return [[(row[0], row[-1]) for row in rows] for rows in groups]


def write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf8")


def f1(judged: Any, languages: list[str]) -> dict[str, float]:
    """Entity F1 of each language."""
    from seqeval.metrics import f1_score

    found = {}
    for name in LANGUAGES:
        rows = [place for place, one in enumerate(languages) if one == name]
        gold, guess = ([side[place] for place in rows] for side in (judged.gold, judged.guess))
        found[name] = round(float(f1_score(gold, guess, zero_division=0)), 5)
    return found


# -- the page ----------------------------------------------------------------------------------------------------------


def findings(cells: Cells) -> list[Finding]:
    measured = [(CLAIM, gain(cells, "clustered", "joint")), (ALIVE, gain(cells, "joint", UNTRAINED))]
    return findings_of(measured, hours_of(cells))


def page(cells: Cells) -> str:
    rows = []
    for arm in (*ARMS, UNTRAINED):
        own = pick(cells, phase="final", arm=arm)
        if own:
            scores = [statistics.fmean(c["languages"][name] for c in own) for name in LANGUAGES]
            losses = [c["held_out_loss"] for c in own if "held_out_loss" in c]
            told = [f"{statistics.fmean(c['pieces'] for c in own):,.0f}"]
            told.append(f"{statistics.fmean(c['tokens_a_line'] for c in own):.2f}")
            told.append(f"{statistics.fmean(losses):.3f}" if losses else "")
            rows.append([arm, *told, f"{statistics.fmean(scores):.4f}", *(f"{s:.3f}" for s in scores), str(len(own))])
    columns = ["arm", "pieces", "tokens a line", "held-out loss", "mean F1", *LANGUAGES, "seeds"]
    text = (
        "## Models with clustered and joint vocabularies\n\nEntity F1 on MasakhaNER of small models pretrained from "
        "random weights, equal steps, vocabularies of equal size. Losses are nats a token of different tokens: they "
        "can't be compared across arms.\n\n"
    )
    return text + table(list(COLUMNS), [one.line() for one in findings(cells)]) + "\n" + table(columns, rows) + "\n"


if __name__ == "__main__":
    main()
