"""Texts and one built vocabulary for all tests of the room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luthier.vocabulary import build_vocabulary, merge_vocabularies
from luthier.vocabulary.settings import TrainerSettings
from luthier.vocabulary.unigram import train_unigram
from tests.vocabulary.texts import FAMILIES, TEXTS, UNSPACED, lines_of, write_texts


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts") / "text")


def settings(text: Path, **more: Any) -> dict[str, Any]:
    return {
        "text": str(text),
        "size": 420,
        "language_pieces": 120,
        "cluster": {"count": 3},
        "capacity": {"step": 20, "least": 60, "most": 160},
        "trainer": {"seed_pieces": 10_000, "character_coverage": 1.0},
        **more,
    }


@pytest.fixture(scope="session")
def built(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(folder / "cache"))
        yield build_vocabulary(settings(text), folder / "tokenizer", seed=3)


@pytest.fixture(scope="session")
def merged() -> bytes:
    trainer = TrainerSettings(seed_pieces=50_000, character_coverage=0.98)
    made_up = [
        train_unigram([(line, 1) for line in lines_of(name, 200)], 150, trainer) for name in (*FAMILIES, UNSPACED)
    ]
    real = [train_unigram([(text, 3)] + [(w, 1) for w in text.split()], 120, trainer) for text in TEXTS]
    return merge_vocabularies([*made_up, *real]).content
