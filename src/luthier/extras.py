"""Optional dependencies: what an extra of Luthier brings, and whether it is there. None of them is imported."""

from __future__ import annotations

import importlib.util

# Extra, as in `pip install 'luthier[EXTRA]'` -> the module that it brings.
EXTRAS = {
    "gguf": "gguf",
    "spacy": "spacy",
    "search": "optuna",
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
    "trackio": "trackio",
    "wandb": "wandb",
    "vllm": "vllm",
    "lm-eval": "lm_eval",
    "ray": "ray",
}


def is_installed(extra: str) -> bool:
    """Whether what an extra brings can be imported; a folder of its name, without code, is none."""
    spec = importlib.util.find_spec(EXTRAS[extra])
    return spec is not None and spec.origin is not None


def how_to_install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'luthier[{extra}]'"
