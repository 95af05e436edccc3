"""A workplace for the command line: a tiny model on disk, labelled text, and a recipe."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from luthier.cli.arguments import main

GOOD_WORDS = "fine lovely bright warm clever funny".split()
BAD_WORDS = "dull cold poor tired clumsy grim".split()
PLAIN_WORDS = "the a film plot scene actor and with of was".split()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A BERT of a few thousand parameters with a word-level vocabulary, saved as any model is."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny") / "model"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD_WORDS, *BAD_WORDS, *PLAIN_WORDS]
    vocabulary = {word: index for index, word in enumerate(words)}
    BertTokenizerFast(vocab=vocabulary, model_max_length=64).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        good = draw.random() < 0.5
        words = draw.choices(PLAIN_WORDS, k=draw.randint(2, 6)) + draw.choices(GOOD_WORDS if good else BAD_WORDS, k=2)
        draw.shuffle(words)
        rows.append((" ".join(words), "positive" if good else "negative"))
    return rows


def write_tsv(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text("text\tlabel\n" + "".join(f"{a}\t{b}\n" for a, b in rows))
    return path


class Workplace:
    """A folder with data and a recipe, and the command line run inside it."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.ran_as = folder, "small"
        shutil.copytree(model, folder / "model")
        for split, count, seed in (("train", 128, 0), ("validation", 32, 1), ("test", 32, 2)):
            write_tsv(folder / f"{split}.tsv", sentences(count, seed))
        self.recipe = {
            "name": "small",
            "model": str(folder / "model"),
            "stages": [
                {
                    "tune": {
                        "method": "full",
                        "data": {s: str(folder / f"{s}.tsv") for s in ("train", "validation", "test")},
                        "epochs": 4,
                        "batch_size": 8,
                        "learning_rate": 5e-3,
                    }
                },
                {"evaluate": {"suites": ["task", "calibration"]}},
            ],
        }

    @property
    def tune(self) -> dict:
        return self.recipe["stages"][0]["tune"]

    @property
    def run_folder(self) -> Path:
        return self.folder / "runs" / self.ran_as

    def write(self) -> str:
        path = self.folder / "recipe.yaml"
        path.write_text(json.dumps(self.recipe, indent=1))
        return str(path)

    def luthier(self, verb: str, *arguments: str) -> int:
        return main([verb, *arguments])

    def run(self, *arguments: str) -> int:
        return main(["run", self.write(), "--output", str(self.folder / "runs"), "--quiet", *arguments])

    def metrics(self, stage: str = "00-tune") -> dict:
        return json.loads((self.run_folder / stage / "metrics.json").read_text())


@pytest.fixture
def workplace(tmp_path: Path, tiny_model: Path, monkeypatch) -> Workplace:
    monkeypatch.chdir(tmp_path)
    return Workplace(tmp_path, tiny_model)
