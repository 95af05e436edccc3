"""How arms are compared on labelled sets: each is tuned on validation, a pilot tells the seeds, whole test sets score.

1. Trials: every arm tries its rates (and lengths) on every set with two seeds that are used for nothing else, as many
   trials for each arm; the best mean validation score is chosen. Nothing is scored on test.
2. Pilot: three seeds of every arm of the main comparisons, at the chosen settings, on the whole test sets.
3. From the pilot, the seeds that see half of the published effect with 80 % power; so many are run, at most
   `most_seeds`. Arms of exploratory comparisons have three.

Runs end where validation has been flat for `patience` evaluations, or after `max_steps`. Every cell keeps which test
rows were right, so that the interval redraws rows and seeds.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import harness
from evidence import Claim, Differences, Finding, compared, findings_of, hours_of
from tables import Cells, grouped, pick, spread, table, test_scores

from luthier.errors import ModelError, TrainingError

TRIAL_SEEDS = (101, 102)
# Seeds of the pilot, and those that are run where no number of them would tell.
PILOT, WITHOUT_END = 3, 5
MASKED_LM = Path("runs/masked-lm/00-pretrain/model")
TINY_LM = Path("runs/masked-lm-tiny/00-pretrain/model")
MADE_BY = {
    MASKED_LM: "`luthier run recipes/local/masked_lm.yaml`",
    TINY_LM: "`python benchmarks/bert_tiny.py`, then `luthier run benchmarks/masked_lm_tiny.yaml`",
}


@dataclass(frozen=True)
class Arm:
    """A method with what is tried on validation.

    Attributes:
        method: as in a recipe.
        trials: settings of the `tune` stage or, under `method`, of the method; one is chosen for each set.
    """

    method: dict[str, Any]
    trials: tuple[dict[str, Any], ...]

    def block(self, trial: dict[str, Any]) -> dict[str, Any]:
        """What it adds to the `tune` stage."""
        return {**trial, "method": self.method | trial.get("method", {})}


def at_rates(method: dict[str, Any], *rates: float) -> Arm:
    """A method that tries learning rates."""
    return Arm(method, tuple({"learning_rate": rate} for rate in rates))


@dataclass(frozen=True)
class Comparison:
    """A claim about two arms.

    Attributes:
        claim: as one number.
        first: the arm that is claimed to be above.
        second: the other one; of several the one that validation likes best is meant, by set.
        sets: that it is about; None takes all.
    """

    claim: Claim
    first: str
    second: tuple[str, ...]
    sets: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Study:
    """One benchmark.

    Attributes:
        name: of the results file.
        title, about: of its part of the page.
        model: a reference, or a folder that a recipe of the project writes.
        sets: unit -> `data` block; `subset_seed` is added.
        tune: other settings of the stage.
        arms: by name.
        comparisons: main ones decide on the seeds.
        most_seeds: however many the pilot asks for.
        judge: model, prepared data and the name of a set -> more to keep of a final cell.
        score: what of it is compared, better when higher; None compares the outcomes of test rows.
        columns: what of it the page shows, beside the test score.
    """

    name: str
    title: str
    about: str
    model: str
    sets: dict[str, dict[str, Any]]
    tune: dict[str, Any]
    arms: dict[str, Arm]
    comparisons: tuple[Comparison, ...]
    most_seeds: int = 10
    judge: Callable[[Any, Any, str], dict[str, Any]] | None = None
    score: str | None = None
    columns: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """What a result counts under."""
        arms = {name: asdict(arm) for name, arm in self.arms.items()}
        return {"model": self.model, "sets": self.sets, "tune": self.tune, "arms": arms}

    def at(self, scale: str) -> Study:
        """`small` as it is; `quick` shows in minutes that the script works, and says nothing."""
        if scale == "small":
            return self
        sets = {name: {**block, "evaluation_limit": 16, "examples": 24} for name, block in list(self.sets.items())[:1]}
        sets = {name: {k: v for k, v in block.items() if k != "per_class"} for name, block in sets.items()}
        tune = {**self.tune, "max_steps": 4, "evaluate_every": 2, "batch_size": 4}
        arms = {name: replace(arm, trials=arm.trials[:2]) for name, arm in self.arms.items()}
        return replace(self, name=f"{self.name}-quick", sets=sets, tune=tune, arms=arms, most_seeds=PILOT)


def arguments(description: str | None) -> argparse.Namespace:
    return harness.arguments(
        description,
        scale={"choices": ["quick", "small"], "default": "small", "help": "`quick` shows that the script works"},
        model={"help": "another model than the study's: a reference or a folder"},
    )


def run(study: Study, options: argparse.Namespace) -> None:
    """Trials, pilot, and as many seeds as it asks for."""
    study = study.at(options.scale)
    if options.model:
        study = replace(study, model=options.model)
    bed_exists(study.model)
    bench = harness.Bench(study.model)

    def measure(cell: dict[str, Any]) -> dict[str, Any]:
        trial = study.arms[cell["arm"]].trials[cell["trial"]]
        final = cell["phase"] == "final"
        judge = partial(study.judge, name=cell["set"]) if final and study.judge else None
        try:
            return bench.tune(block(study, cell, trial), cell["seed"], test="test" if final else None, judge=judge)
        except TrainingError as error:  # a rate at which training breaks down is an answer
            return {"failed": str(error)}

    def cells(found: list[dict[str, Any]]) -> dict[str, Any]:
        return harness.run_cells(study.name, study.settings(), found, measure, options)

    done = cells(trials(study))
    if not _all_done(done, trials(study)):
        return
    chosen = choices(study, list(done["cells"].values()))
    pilot = list(finals(study, chosen, {(name, arm): PILOT for name in study.sets for arm in study.arms}))
    done = cells(pilot)
    if _all_done(done, pilot):
        cells(list(finals(study, chosen, seeds_of(study, list(done["cells"].values())))))


def bed_exists(model: str) -> None:
    """Say how to make a masked LM that is meant and not there."""
    for bed, how in MADE_BY.items():
        if model == str(bed) and not bed.exists():
            raise ModelError(
                f"the test bed {bed} is not there", fix=f"make it first: {how}; it can be stopped and goes on"
            )


def _all_done(done: Mapping[str, Any], cells: list[dict[str, Any]]) -> bool:
    return all(harness.cell_name(cell) in done["cells"] for cell in cells)


def block(study: Study, cell: dict[str, Any], trial: dict[str, Any]) -> dict[str, Any]:
    """The `tune` block of a cell."""
    data = {**study.sets[cell["set"]], "subset_seed": cell["seed"]}
    return {**study.tune, **study.arms[cell["arm"]].block(trial), "data": data}


def trials(study: Study) -> list[dict[str, Any]]:
    return [
        {"phase": "trial", "set": name, "arm": arm, "trial": trial, "seed": seed}
        for seed in TRIAL_SEEDS
        for name in study.sets
        for arm in study.arms
        for trial in range(len(study.arms[arm].trials))
    ]


def choices(study: Study, cells: Cells) -> dict[tuple[str, str], int]:
    """(set, arm) -> the trial with the best mean validation score, of those that have both seeds."""
    chosen = {}
    for (name, arm), found in grouped(pick(cells, phase="trial"), "set", "arm").items():
        means = {
            trial: statistics.fmean(map(validation_score, own))
            for (trial,), own in grouped(found, "trial").items()
            if len(own) == len(TRIAL_SEEDS)
        }
        if len(means) == len(study.arms[arm].trials):
            chosen[name, arm] = max(means, key=lambda trial: means[trial])
    return chosen


def validation_score(entry: dict[str, Any]) -> float:
    return 0.0 if "failed" in entry else float(entry["validation_" + entry["primary"]])


def finals(
    study: Study, chosen: Mapping[tuple[str, str], int], seeds: Mapping[tuple[str, str], int]
) -> Iterator[dict[str, Any]]:
    """Cells of every arm with its chosen trial, by seed so that a stop leaves whole seeds."""
    for seed in range(1, max(seeds.values()) + 1):
        for name in study.sets:
            for arm in study.arms:
                if seed <= seeds[name, arm] and (name, arm) in chosen:
                    yield {"phase": "final", "set": name, "arm": arm, "trial": chosen[name, arm], "seed": seed}


def seeds_of(study: Study, cells: Cells) -> dict[tuple[str, str], int]:
    """(set, arm) -> seeds, by the main comparisons that it takes part in; three where it is in none."""
    needed = {(name, arm): PILOT for name in study.sets for arm in study.arms}
    for one in study.comparisons:
        found = differences(study, one, pilot_of(cells))
        if not one.claim.main or found is None:
            continue
        published = one.claim.published
        # Where rows or sets decide, more seeds than these would be thrown away; without a figure all are run.
        enough = (found.seeds_for(published / 2) or WITHOUT_END) if published else study.most_seeds
        for name in one.sets or study.sets:
            second = best_of(pick(pick(cells, phase="final"), set=name), one.second)
            for arm in (one.first, second):
                if arm is not None:
                    needed[name, arm] = max(needed[name, arm], min(study.most_seeds, enough))
    return needed


def pilot_of(cells: Cells) -> Cells:
    return [e for e in cells if e["cell"]["phase"] == "final" and e["cell"]["seed"] <= PILOT]


def differences(study: Study, comparison: Comparison, cells: Cells) -> Differences | None:
    """The first arm less the second, by set."""
    finals_of = [e for e in pick(cells, phase="final") if "failed" not in e]
    arms = {}
    for name in comparison.sets or study.sets:
        own = pick(finals_of, set=name)
        second = best_of(own, comparison.second)
        if second is not None:
            arms[name] = (pick(own, arm=comparison.first), pick(own, arm=second))
    return compared(arms, study.score)


def best_of(cells: Cells, arms: tuple[str, ...]) -> str | None:
    """The arm with the best mean validation score over the pilot's seeds; None where one of them has no cell."""
    found = {arm: [validation_score(e) for e in pilot_of(pick(cells, arm=arm))] for arm in arms}
    return max(found, key=lambda arm: statistics.fmean(found[arm])) if all(found.values()) else None


# -- the page ------------------------------------------------------------------------------------------------


def findings(study: Study, cells: Cells) -> list[Finding]:
    measured = [(one.claim, differences(study, one, cells)) for one in study.comparisons]
    return findings_of(measured, hours_of(cells))


def page(study: Study, cells: Cells) -> str:
    """Scores at the chosen settings, what was chosen, and the seeds that the pilot asked for."""
    from evidence import plot
    from tables import plot_file

    told = findings(study, cells)
    plots = [plot(found, f"{study.name}-{n}", plot_file) for n, found in enumerate(told)]
    scores, chosen = [], choices(study, cells)
    broken = sum("failed" in e for e in cells)
    cells = [e for e in cells if "failed" not in e or e["cell"]["phase"] == "trial"]
    for (arm,), found in grouped(pick(cells, phase="final"), "arm").items():
        per_set = [test_scores(pick(found, set=name)) for name in study.sets]
        shown = [spread(values) if values else "" for values in per_set]
        scores.append([arm, f"{found[0]['trainable']:,}", *shown])
    more = [
        [name, arm, *(spread([entry[key] for entry in found]) for key in study.columns)]
        for (name, arm), found in grouped(pick(cells, phase="final"), "set", "arm").items()
        if study.columns
    ]
    settings = [
        [name, arm, _shown(study.arms[arm].trials[trial]), f"{len(study.arms[arm].trials)}"]
        for (name, arm), trial in chosen.items()
    ]
    power = [_power(study, one, cells) for one in study.comparisons if one.claim.main]
    parts = [
        f"## {study.title}\n\n{study.about} Test score on whole test sets, mean ± sample standard deviation over "
        f"seeds. {' '.join(p for p in power if p)}\n",
        *(p for p in plots if p),
        "",
        table(["arm", "trained", *study.sets], scores) if scores else "Trials have begun.\n",
        *([table(["set", "arm", *study.columns], more)] if more else []),
        "Chosen on validation, of as many trials with two seeds each:\n",
        table(["set", "arm", "settings", "of"], settings),
        *([f"Training broke down in {broken} cells, which count as the worst of trials.\n"] if broken else []),
    ]
    return "\n".join(parts)


def _shown(trial: dict[str, Any]) -> str:
    flat = {k: v for k, v in trial.items() if k != "method"} | trial.get("method", {})
    return ", ".join(f"{name} {value}" for name, value in flat.items())


def _power(study: Study, comparison: Comparison, cells: Cells) -> str:
    pilot = differences(study, comparison, pilot_of(cells))
    if pilot is None or not comparison.claim.published:
        return ""
    half = comparison.claim.published / 2
    needed = pilot.seeds_for(half)
    seeds = "more seeds alone can't see" if needed is None else f"{needed} seeds see"
    return f"Pilot: paired seeds deviate by {pilot.deviation:.3f}, {seeds} {half:.3f}."


__all__ = [
    "MASKED_LM",
    "TINY_LM",
    "Arm",
    "Comparison",
    "Study",
    "arguments",
    "at_rates",
    "bed_exists",
    "findings",
    "page",
    "run",
]
