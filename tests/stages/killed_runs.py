"""Runs many recipes twice in forked children, once undisturbed and once killed at random moments and continued.

A process of its own, so that forking is safe and imports are paid once.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch

import luthier.representing.run
from tests.cli.fork_runs import run, run_killed

PAID_ONCE = luthier.representing.run


def outcome_of(recipe: str, kills: int, seed: int) -> dict[str, Any]:
    """How both runs of a recipe ended; each has a cache of its own, so that neither finds what the other made."""
    common = ["run", recipe, "--quiet", "--no-report", "--output"]
    os.environ["LUTHIER_CACHE"] = f"{recipe}.straight-cache"
    straight, seconds = run([*common, f"{recipe}.straight"])
    os.environ["LUTHIER_CACHE"] = f"{recipe}.killed-cache"
    return {"straight": straight, **run_killed([*common, f"{recipe}.killed"], kills, 0.8 * seconds, seed)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    told = {recipe: outcome_of(recipe, 3, 11 + seed) for seed, recipe in enumerate(json.loads(sys.argv[1]))}
    print(json.dumps(told))
