"""Tiny models on disk: random weights, a real tokenizer, everything that a downloaded folder has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .builders import BERT_TOKENS, bert_config, llama_config, save_tiny


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A bare BERT with its tokenizer."""
    return save_tiny("BertModel", bert_config(), tmp_path / "bert", **BERT_TOKENS)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A Llama language model whose tokenizer has no padding token."""
    return save_tiny("LlamaForCausalLM", llama_config(), tmp_path / "llama", bos_token="<s>", eos_token="</s>")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes an importable package folder whose code must never run."""

    def make(name: str) -> Path:
        root = tmp_path / "site" / name
        root.mkdir(parents=True)
        (root / "__init__.py").write_text("raise SystemExit('the package was imported')\n")
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        return root

    return make


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path_factory.mktemp("cache")))
