"""A classifier in the form that TextAttack's recipes and command attack.

TextAttack 0.3.11 imports flair, whose releases need transformers below 5, so the two don't fit into one environment
with this library as published. A model tuned whole is a folder that TextAttack's command reads from an environment of
its own: `textattack attack --model-from-huggingface FOLDER ...`. Where `import textattack` works beside this library, a
file like this serves the command for any model, `textattack attack --model-from-file model.py ...`:

    from luthier.robustness.attacks import as_textattack_wrapper
    model = as_textattack_wrapper(classifier, tokenizer)
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from luthier.errors import ModelError
from luthier.robustness.scoring import Scorer


def as_textattack_wrapper(
    model: nn.Module, tokenizer: Any, *, batch_size: int = 32, max_length: int | None = None
) -> Any:
    """A `textattack.models.wrappers.ModelWrapper` that returns (N, C) probabilities with attention masks respected.

    Args:
        model: a sequence classifier.
        tokenizer: its tokenizer.
        batch_size: texts in one forward pass.
        max_length: tokens of a text; longer ones are cut.

    Raises:
        ModelError: TextAttack can't be imported.
    """
    try:
        base: Any = importlib.import_module("textattack.models.wrappers").ModelWrapper
    except ImportError as error:
        raise ModelError(
            f"TextAttack can't be imported: {error}",
            fix="install textattack in an environment of its own, or use luthier.robustness.attacks.WordSubstitution",
        ) from error
    scorer = Scorer(model, tokenizer, batch_size=batch_size, max_length=max_length)

    class Wrapper(base):
        def __init__(self) -> None:
            self.model, self.tokenizer = model, tokenizer

        def __call__(self, texts: Sequence[Any]) -> np.ndarray:
            return scorer.probabilities([t if isinstance(t, str) else tuple(t) for t in texts])

        def get_grad(self, text: Any) -> Any:
            raise ModelError("this classifier gives no gradients to TextAttack", fix="choose a recipe that needs none")

    return Wrapper()
