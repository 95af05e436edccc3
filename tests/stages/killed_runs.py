"""Runs many recipes twice in forked children, once undisturbed and once killed at random moments and continued.

A process of its own, so that forking is safe and imports are paid once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import torch

from luthier.cli.arguments import main
from tests.cli.fork_runs import run_killed


def command(recipe: str, how: str) -> list[str]:
    """Each way to run has a cache of its own, so that none finds what another one made."""
    os.environ["LUTHIER_CACHE"] = f"{recipe}.{how}-cache"
    return ["run", recipe, "--quiet", "--no-report", "--output", f"{recipe}.{how}"]


def outcome_of(recipe: str, kills: int, seed: int) -> dict[str, Any]:
    """How both runs of a recipe ended. The undisturbed one, in this process, imports what the forked ones need."""
    started = time.perf_counter()
    straight = main(command(recipe, "straight"))
    seconds = time.perf_counter() - started
    return {"straight": straight, **run_killed(command(recipe, "killed"), kills, 0.5 * seconds, seed)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    recipes = json.loads(sys.argv[1])
    main(command(recipes[0], "warm"))
    told = {recipe: outcome_of(recipe, 3, 11 + seed) for seed, recipe in enumerate(recipes)}
    print(json.dumps(told))
