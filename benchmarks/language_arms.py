"""What `weak_teacher.py` and `co_distillation.py` share: language models trained by recipes, scored on held-out text.

A cell is a recipe's run, kept under `.cache/benchmarks`, so that a cell that was stopped goes on. A model that is
trained alone is trained once for both scripts and all arms of its seed. Arms of a seed start from the same weights and
read the same rows under the same masks.

A test bed is alive where a model alone guesses masked tokens better than their shares of the text do. A BERT does no
more than that in its first few thousand steps, in which there is nothing to teach; models in the form of ModernBERT
(norms in front of layers, rotary positions) leave that behind in their first hundred, so `small` takes that form.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import harness
import numpy as np
from evidence import Differences, hours_of
from tables import Cells, pick

import luthier

PLACE = Path(".cache/benchmarks")
TEXT = ".cache/text/brown-{}.txt"
MASKS = 4  # of every block of the held-out text
ALIVE = 0.3  # nats that a model alone has to be better than the shares of tokens


@dataclass(frozen=True)
class Scale:
    """Sizes of everything.

    Attributes:
        model: whose tokenizer is taken; None trains one of `vocabulary` tokens on the text.
        corpus: to train on; `test` is the text that arms are compared on.
        sizes: of every model, beside its number of layers.
        steps, batch, length: of the training.
        seeds: of the main comparisons; the other arms have the first three.
        tune: the `tune` stage that gives a fine-tuned score; None leaves it out.
        vocabulary: of a new tokenizer.
        accumulation, rate, masked: of the training; `masked` is the share of tokens that are guessed.
    """

    model: str | None
    corpus: dict[str, Any]
    test: str
    sizes: dict[str, int]
    steps: int
    batch: int
    length: int
    seeds: int
    vocabulary: int = 8192
    accumulation: int = 1
    rate: float = 1e-3
    masked: float = 0.15
    tune: dict[str, Any] | None = None


REVIEWS = {
    "method": "full",
    "data": {
        "train": ".cache/demo/train.tsv",
        "validation": ".cache/demo/validation.tsv",
        "test": ".cache/demo/test.tsv",
        "task": "single_sentence",
        "max_length": 64,
        "too_long": "truncate",
    },
    "epochs": 3,
    "batch_size": 16,
    "learning_rate": 3e-4,
}
BROWN = {"train": TEXT.format("train"), "held_out": 0.02}
WIKIPEDIA = {"train": ["hub:wikimedia/wikipedia:20231101.en", "hub:bookcorpus/bookcorpus"], "held_out": 0.001}
TINY = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
# As many weights a layer as in a BERT of this width: the inner part is a product of two halves. At twice the width and
# 1,500 steps, which take as long, 6 layers are behind 4: they leave the shares of tokens later.
SMALL = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 170}
BASE = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
SCALES = {
    "quick": Scale(
        None, BROWN, TEXT.format("validation"), TINY, 6, 4, 32, 1, vocabulary=2048, tune=REVIEWS | {"epochs": 0.1}
    ),
    # 4,000 steps are two passes over the text, under other masks: models of this size don't learn it by heart.
    "small": Scale(
        None, BROWN, TEXT.format("validation"), SMALL, 4000, 16, 64, 8, vocabulary=1024, rate=3e-3, masked=0.3
    ),
    "paper": Scale(
        "google-bert/bert-base-uncased",
        WIKIPEDIA,
        TEXT.format("validation"),
        BASE,
        940_000,
        16,
        128,
        3,
        accumulation=8,
        rate=5e-4,
        tune={"method": "full", "data": {"source": "glue/mnli"}, "epochs": 3, "batch_size": 32, "learning_rate": 3e-5},
    ),
}


def arguments(description: str) -> argparse.Namespace:
    """The benchmarks' command line, with the scale."""
    return harness.arguments(
        description,
        scale={"choices": [*SCALES], "default": "small", "help": "`quick` shows in a minute that the script works"},
        pilot={"action": "store_true", "help": "only three seeds of the arms of the main comparisons"},
    )


def claim_of(name: str, scale: str) -> str:
    """The name of a results file."""
    return name if scale == "small" else f"{name}-{scale}"


class Arms:
    """Trains graphs of language models at one scale.

    Args:
        name: of the benchmark; its runs lie in a folder of that name.
        scale: of `SCALES`.
    """

    def __init__(self, name: str, scale: str) -> None:
        self.scale, self.folder = SCALES[scale], PLACE / claim_of(name, scale)
        self.shared = PLACE / claim_of("language_arms", scale)

    def sizes(self, layers: int) -> dict[str, int]:
        return {**self.scale.sizes, "num_hidden_layers": layers}

    def new(self, layers: int, **more: Any) -> dict[str, Any]:
        """A node with random weights."""
        return {"model": self.tokenizer(), "sizes": self.sizes(layers), "init": "random", **more}

    def trained(
        self,
        arm: str,
        seed: int,
        nodes: dict[str, Any],
        edges: list[dict[str, Any]] = (),
        *,
        give: str,
        factor: float = 1.0,
        folder: Path | None = None,
    ) -> Path:
        """The folder of the stage that trained a graph; the same call again trains nothing.

        Args:
            arm: names the run.
            seed: of it.
            nodes, edges, give: of the `distil` stage.
            factor: of the steps.
            folder: of the run; default that of the script.
        """
        scale, steps = self.scale, max(1, round(self.scale.steps * factor))
        stage = {
            "text": {
                "corpus": scale.corpus,
                "objective": "masked",
                "length": scale.length,
                "masking": {"rate": scale.masked},
                "held_out_rows": 64,
                "pseudo_perplexity_tokens": 0,
            },
            "nodes": nodes,
            "edges": list(edges),
            "give": give,
            "max_steps": steps,
            "batch_size": scale.batch,
            "accumulation": scale.accumulation,
            "learning_rate": scale.rate,
            "warmup_ratio": 0.05,
            "evaluate_every": max(1, steps // 10),
            "checkpoint_every": max(1, steps // 10),
        }
        recipe = {"name": f"{arm}-{seed}", "seed": seed, "stages": [{"distil": stage}]}
        record = luthier.run(recipe, output=folder or self.folder)
        return record.folder / "00-distil"

    def alone(self, layers: int, seed: int, factor: float = 1.0) -> Path:
        """A model that learns from labels alone, of both scripts."""
        arm = f"{layers}-layers" + (f"-{factor:.2f}-times" if factor != 1 else "")
        nodes = {"alone": self.new(layers)}
        return self.trained(arm, seed, nodes, give="alone", factor=factor, folder=self.shared) / "model"

    @cache  # noqa: B019
    def tokenizer(self) -> str:
        """A model whose tokenizer all nodes have."""
        if self.scale.model is not None:
            return self.scale.model
        stage = {
            "architecture": {"model_type": "modernbert", **self.sizes(1)},
            "tokenizer": {"kind": "wordpiece", "vocabulary": self.scale.vocabulary},
            "corpus": self.scale.corpus,
            "length": self.scale.length,
            "max_steps": 1,
            "batch_size": 1,
            "evaluate_every": "never",
        }
        record = luthier.run({"name": "tokenizer", "seed": 0, "stages": [{"pretrain": stage}]}, output=self.shared)
        return str((record.folder / "00-pretrain" / "model").resolve())

    def scored(self, model: Path, seed: int) -> dict[str, Any]:
        """The held-out loss of every block under its masks, and the fine-tuned score of the test rows."""
        nll, items = held_out(model, self.scale.test, self.scale.length)
        found: dict[str, Any] = {"loss": round(float(nll.sum() / items.sum()), 5), "shares": self.loss_of_shares()}
        found["nll"] = [round(float(x), 3) for x in nll]
        found["items"] = [int(x) for x in items]
        if self.scale.tune is None:
            return found
        with tempfile.TemporaryDirectory(prefix="luthier-benchmark-") as folder:
            stages = [{"tune": self.scale.tune}, {"evaluate": {"suites": ["task"]}}]
            recipe = {"name": "tuned", "seed": seed, "model": str(model.resolve()), "stages": stages}
            metrics = luthier.run(recipe, output=folder).stages[-1].metrics
        return found | {"tuned": round(metrics["scores"][metrics["primary"]], 5)}

    @cache  # noqa: B019
    def loss_of_shares(self) -> float | None:
        """What the held-out text comes to by the shares of tokens in the training text; None where that is no file."""
        from luthier.evaluation.unigram import log_shares
        from luthier.language_modeling import Masking
        from luthier.language_modeling.masked_text import rows_by_share, text_blocks
        from luthier.models.loading import load_tokenizer

        source = self.scale.corpus["train"]
        if not isinstance(source, str):
            return None
        tokenizer = load_tokenizer(self.tokenizer())
        train, test = (
            list(text_blocks(Path(text).read_text(encoding="utf8").splitlines(), tokenizer, self.scale.length))
            for text in (source, self.scale.test)
        )
        masking = Masking.of(tokenizer)
        learned = (np.where(np.isin(block.ids, list(masking.never)), -100, block.ids) for block in train)
        shares = log_shares(learned, len(tokenizer))
        masks = [Masking.of(tokenizer, seed=seed) for seed in range(MASKS)]
        labels = np.concatenate([row["labels"] for one in masks for row in rows_by_share(test, one)])
        return round(float(-shares[labels[labels != -100]].mean()), 5)

    def operations(self, layers: int) -> float:
        """Floating-point operations of a forward pass for each token."""
        from luthier.language_modeling import token_cost
        from luthier.models.loading import empty_model

        model: Any = empty_model(self.tokenizer(), "masked_lm", config_overrides=self.sizes(layers))
        return token_cost(model, self.scale.length, self.scale.masked).forward


def held_out(model: Path, text: str, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Of every block of a text: the sum of the losses of its masked tokens in nats, over several masks, and how many
    they are. Masks are BERT's, and the same for all models with one tokenizer."""
    from luthier.language_modeling import Masking
    from luthier.language_modeling.masked_text import likelihoods, rows_by_share, text_blocks
    from luthier.models.artifacts import load_artifact

    loaded, tokenizer, _ = load_artifact(model)
    blocks = list(text_blocks(Path(text).read_text(encoding="utf8").splitlines(), tokenizer, length))
    found = []
    for seed in range(MASKS):
        rows = list(rows_by_share(blocks, Masking.of(tokenizer, seed=seed)))
        found.append(likelihoods(loaded, rows, len(blocks)))
    return np.sum([nll for nll, _ in found], axis=0), np.sum([items for _, items in found], axis=0)


# -- what the cells say ----------------------------------------------------------------------------------------------


def gain(arm: Cells, other: Cells) -> Differences | None:
    """How much lower the held-out loss of one arm is than that of another, in nats a token, by seed and block."""
    mine, theirs = ({e["cell"]["seed"]: e for e in cells} for cells in (arm, other))
    seeds = sorted(mine.keys() & theirs.keys())
    # A block counts by its masked tokens, which are the same in both arms.
    rows = [(np.array(theirs[s]["nll"]) - np.array(mine[s]["nll"])) / np.mean(mine[s]["items"]) for s in seeds]
    return Differences({"held-out text": rows}) if rows else None


def lifeless(alone: Cells) -> str:
    """Why nothing can be told where models alone do no better than the shares of tokens; empty where they do."""
    gains = [e["shares"] - e["loss"] for e in alone if e.get("shares") is not None]
    if not gains or statistics.fmean(gains) > ALIVE:
        return ""
    return f"a model alone is only {statistics.fmean(gains):.2f} nats better than the shares of tokens"


def power(found: Differences, effect: float) -> str:
    """What the pilot says of the seeds that are needed."""
    return f"paired seeds deviate by {found.deviation:.4f}, {found.seeds_for(effect)} seeds see"


def of_arm(cells: Cells, arm: str, role: str) -> Cells:
    """The entries of a model of an arm, as cells of their own."""
    return [{"cell": e["cell"], **e["models"][role]} for e in pick(cells, arm=arm) if role in e["models"]]


def line(cells: Cells, arm: str, role: str, beside: Cells) -> list[str]:
    """Columns of the table of arms: loss, its gain over another model, the fine-tuned score."""
    own = of_arm(cells, arm, role)
    losses = [e["loss"] for e in own]
    tuned = [e["tuned"] for e in own if "tuned" in e]
    found = gain(own, beside)
    return [
        f"{statistics.fmean(losses):.4f}",
        "" if found is None else str(found),
        f"{statistics.fmean(tuned):.3f}" if tuned else "",
        str(len(losses)),
    ]


def spent(cells: Cells) -> str:
    """What the cells took."""
    minutes = [e["wall_seconds"] / 60 for e in cells]
    return f"{hours_of(cells):.1f} hours in all, median cell {statistics.median(minutes):.1f} minutes."


__all__ = ["Arms", "Scale", "arguments", "claim_of", "gain", "lifeless", "line", "of_arm", "power", "spent"]
