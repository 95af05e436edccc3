"""Models that are asked: one base in memory, and the adapters of both sides on it."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from luthier.models.adapters import ADAPTER_CONFIG, base_settings, is_adapter
from luthier.models.artifacts import load_artifact, load_model
from luthier.models.card import read_card
from luthier.models.loading import load_tokenizer
from luthier.models.placing import on_accelerator
from luthier.models.references import resolve
from luthier.models.settings import ModelSettings
from luthier.models.tensors import read_json

# Adapters that several of which may stand on one base, and be switched.
_SWITCHED = ("LORA", "IA3", "LOHA", "LOKR", "OFT", "BOFT", "VERA")


# Parameters from which on it pays to look for memory at once.
_LARGE = 10_000_000


class LoadedModels:
    """Loads models when they are asked, and keeps one base in memory.

    An adapter whose base is there already is put beside others of its kind; another model takes the place of what is
    there.
    """

    def __init__(self) -> None:
        self._model: Any = None
        self._tokenizer: Any = None
        self._reserved = 0
        self._base: ModelSettings | None = None
        self._names: dict[str, str] = {}
        self._kind = ""
        self.bases_loaded = 0

    def get(self, settings: ModelSettings) -> tuple[Any, Any, int]:
        """The model in eval mode, its tokenizer, and the positions that its tuning method fills.

        Raises:
            ModelError: it can't be loaded.
        """
        folder = _adapter_folder(settings)
        if folder is None:
            if self._base != settings or self._names or self._model is None:
                self.release()
                self._put(load_model(settings, "causal_lm"), load_tokenizer(settings), settings)
            return self._ready()
        card = read_card(folder)
        base = base_settings(card, settings)
        config = read_json(folder / ADAPTER_CONFIG)
        kind = str(config.get("peft_type"))
        # Of adapters that train biases PEFT takes one.
        switched = kind in _SWITCHED and config.get("bias", "none") == "none"
        if not (self._names and switched and self._base == base and self._kind == kind):
            self.release()
            model, tokenizer, _ = load_artifact(folder, settings=settings)
            # Other adapters stay on the model: it can't be asked as the base.
            self._put(model, tokenizer, base if switched else None)
            self._names, self._kind = ({str(folder): model.active_adapter}, kind) if switched else ({}, "")
        elif str(folder) not in self._names:
            self._add(folder)
        if switched:
            self._model.set_adapter(self._names[str(folder)])
            self._model.requires_grad_(False)
        self._reserved = card.reserved_tokens
        return self._ready()

    def _add(self, folder: Path) -> None:
        if len(self._names) > 1:
            oldest = next(iter(self._names))
            self._model.delete_adapter(self._names.pop(oldest))
        name = next(f"side{i}" for i in range(3) if f"side{i}" not in self._names.values())
        self._model.load_adapter(str(folder), adapter_name=name, is_trainable=False)
        self._names[str(folder)] = name

    def _put(self, model: Any, tokenizer: Any, base: ModelSettings | None) -> None:
        self._model, self._tokenizer, self._base = on_accelerator(model), tokenizer, base
        self.bases_loaded += 1

    def _ready(self) -> tuple[Any, Any, int]:
        self._model.eval()
        return self._model, self._tokenizer, self._reserved

    def release(self) -> None:
        """Let go of all, so that training has the memory."""
        large = self._model is not None and sum(p.numel() for p in self._model.parameters()) > _LARGE
        self._model = self._tokenizer = None
        self._names, self._kind, self._base, self._reserved = {}, "", None, 0
        if large:
            gc.collect()  # PEFT's wrappers refer to one another


def _adapter_folder(settings: ModelSettings) -> Path | None:
    source = resolve(settings)
    if source.kind != "artifact" or source.path is None or not is_adapter(source.path):
        return None
    return source.path
