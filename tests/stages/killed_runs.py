"""Runs many recipes twice in forked children, once undisturbed and once killed at random moments and continued.

A process of its own, so that forking is safe and imports are paid once.
"""

from __future__ import annotations

import json
import os
import shutil
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
    longest = 0.5 * (time.perf_counter() - started)
    killed: dict[str, Any] = {}
    while not killed.get("died") and killed.get("code", 0) == 0 and longest > 0.02:
        # One that ended before the first kill, as imports were paid by the undisturbed one, says nothing.
        for made in (f"{recipe}.killed", f"{recipe}.killed-cache"):
            shutil.rmtree(made, ignore_errors=True)
        killed = run_killed(command(recipe, "killed"), kills, longest, seed)
        longest /= 3
    return {"straight": straight, **killed}


if __name__ == "__main__":
    torch.set_num_threads(1)
    recipes = json.loads(sys.argv[1])
    main(command(recipes[0], "warm"))
    told = {recipe: outcome_of(recipe, 3, 11 + seed) for seed, recipe in enumerate(recipes)}
    print(json.dumps(told))
