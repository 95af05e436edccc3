"""A search over recipe keys with Optuna, one trial after another, that goes on exactly where it was stopped.

What a trial tries is written down before it runs. After a restart the trials of before are told to a new study in
their order, and the sampler is seeded by the trial's number, so that the next trial is the one that a search which was
never stopped would have tried. A trial that was ended early is ended again by the evaluations that it left, as long as
its data and code are as they were.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from luthier.errors import RecipeError
from luthier.metric_names import higher_is_better
from luthier.recipe.comparison import Range, SearchSettings
from luthier.recipe.recipe import RecipeBase
from luthier.report.results import TRIALS
from luthier.report.text import number_text
from luthier.runs.runner import RunRecord, walk
from luthier.storage.jsonlines import JsonLog, read_log
from luthier.storage.keys import digest_of
from luthier.storage.steps import REPLACED, RESULT, first_free, key_in
from luthier.training.watch import EndedEarlyError, watching

# Random trials before the model of the sampler counts, and trials before any is ended early.
FIRST_TRIALS, LEAST_PRUNING = 10, 5
_PLAIN = (str, int, float, bool, type(None))


class Search:
    """The trials of one search.

    Args:
        recipe: with a `compare.search` block.
        folder: of the run; `trials.jsonl` in it holds what was tried.

    Raises:
        RecipeError: Optuna is not installed.
    """

    def __init__(self, recipe: RecipeBase, folder: Path) -> None:
        assert recipe.compare is not None
        assert recipe.compare.search is not None
        self.settings: SearchSettings = recipe.compare.search
        self._optuna = import_optuna()
        self._distributions = {key: self._distribution(among) for key, among in self.settings.space.items()}
        self._log = JsonLog(folder / TRIALS)
        self._asked = self._earlier(recipe, folder)
        scored = [f"{n:02d}-{stage.name}" for n, stage in enumerate(recipe.stage_list()) if stage.scores_by_step]
        # Steps of several such stages would be taken for those of one.
        follows = self.settings.pruner == "median" and len(scored) == 1
        pruners = self._optuna.pruners
        pruner = pruners.MedianPruner(n_startup_trials=LEAST_PRUNING) if follows else pruners.NopPruner()
        self._follows, self._scored = follows, scored[-1] if follows else ""
        self._study = self._optuna.create_study(direction="maximize", pruner=pruner)
        # What came of every cell so far, by its name: a sampler may ask for the same one again.
        self.ended: dict[str, RunRecord] = {}
        self._trial: Any = None
        self._score_name: str | None = None
        self._reported: set[int] = set()

    def ask(self, number: int) -> dict[str, Any]:
        """The factors of the next trial, written down; those of before where it was begun already."""
        known = self._asked.get(number)
        if known is not None:
            self._study.enqueue_trial({key: self._to_optuna(key, value) for key, value in known.items()})
        self._study.sampler = self._sampler(number)
        self._trial, self._reported = self._study.ask(self._distributions), set()
        factors = {key: self._from_optuna(key, value) for key, value in self._trial.params.items()}
        if known is None:
            self._log.write("ask", trial=number, factors=factors)
        return factors

    @contextmanager
    def following(self, recipe: RecipeBase, place: Path) -> Iterator[None]:
        """Watch the trial that runs in this block, in a folder where it may have begun before; end it if it is poor."""
        with watching(self._watch if self._follows else None):
            if self._follows and self._score_name is not None and has_begun(recipe, place, self._scored):
                for step, score in evaluations(place / self._scored, self._score_name):
                    self._watch(step, self._score_name, score)
            yield

    def finish(self, place: Path, score: tuple[str, float] | None, *, pruned: bool = False) -> None:
        """Tell the study how the trial ended: with a score, pruned, or failed."""
        states = self._optuna.trial.TrialState
        if self._score_name is None and self._follows:
            self._score_name = primary_of(place / self._scored)
        # Of a finished stage; the others told theirs while they ran, and an earlier one may be back in their place.
        if self._follows and self._score_name is not None and score is not None:
            for step, value in evaluations(place / self._scored, self._score_name):
                self._report(step, self._score_name, value)
        if pruned:
            self._study.tell(self._trial, state=states.PRUNED)
        elif score is None:
            self._study.tell(self._trial, state=states.FAIL)
        else:
            self._study.tell(self._trial, self._signed(*score))

    def _watch(self, step: int, name: str, score: float) -> None:
        self._score_name = self._score_name or name
        self._report(step, name, score)
        if self._trial.should_prune():
            told = f"{name} {number_text(score)} is {'below' if higher_is_better(name) else 'above'}"
            raise EndedEarlyError(f"ended by the search at step {step}: {told} the median of earlier trials there")

    def _report(self, step: int, name: str, score: float) -> None:
        if step not in self._reported:
            self._reported.add(step)
            self._trial.report(self._signed(name, score), step)

    def _signed(self, name: str, score: float) -> float:
        return score if higher_is_better(name) else -score

    def _sampler(self, number: int) -> Any:
        samplers, seed = self._optuna.samplers, _seed_of_trial(self.settings.seed, number)
        if self.settings.sampler == "random":
            return samplers.RandomSampler(seed=seed)
        return samplers.TPESampler(n_startup_trials=min(FIRST_TRIALS, max(1, self.settings.trials // 3)), seed=seed)

    # -- values --------------------------------------------------------------------------------------------

    def _distribution(self, among: list[Any] | Range) -> Any:
        kinds = self._optuna.distributions
        if isinstance(among, list):
            return kinds.CategoricalDistribution([_choice(value) for value in among])
        if among.whole:
            return kinds.IntDistribution(int(among.low), int(among.top), log=among.log, step=int(among.step or 1))
        return kinds.FloatDistribution(float(among.low), float(among.top), log=among.log, step=among.step)

    def _to_optuna(self, key: str, value: Any) -> Any:
        return _choice(value) if isinstance(self.settings.space[key], list) else value

    def _from_optuna(self, key: str, value: Any) -> Any:
        among = self.settings.space[key]
        if not isinstance(among, list):
            return value
        return next(one for one in among if _choice(one) == value and type(_choice(one)) is type(value))

    # -- what was tried before -----------------------------------------------------------------------------

    def _earlier(self, recipe: RecipeBase, folder: Path) -> dict[int, dict[str, Any]]:
        """Factors by trial of the same search; another one's are put aside."""
        identity, place = identity_of(recipe), folder / TRIALS
        records = read_log(place) if place.exists() else []
        if records and records[0].get("search") != identity:
            aside = first_free(folder / REPLACED, f"trials-{str(records[0].get('search'))[:8]}", ".jsonl")
            aside.parent.mkdir(exist_ok=True)
            place.replace(aside)
            records = []
        if not records:
            self._log.write("search", search=identity)
        return {r["trial"]: r["factors"] for r in records if r.get("event") == "ask"}


def import_optuna() -> Any:
    """Optuna, without its messages.

    Raises:
        RecipeError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise RecipeError(
            "compare.search needs Optuna, which is not installed", fix="pip install 'luthier[search]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def identity_of(recipe: RecipeBase) -> str:
    """Hash of all that a search depends on but the number of its trials, so that more can be added later."""
    data = recipe.model_dump(mode="json")
    del data["compare"]["search"]["trials"]
    return digest_of(data)


def _seed_of_trial(seed: int, number: int) -> int:
    """One for every trial of every search, so that two searches with neighbouring seeds share no draws."""
    import numpy as np

    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def has_begun(recipe: RecipeBase, folder: Path, stage: str) -> bool:
    """Whether what a stage left in the folder of a run was made by the recipe with its data and code as they are."""
    left = key_in(folder / stage)
    return left is not None and any(v.key == left for v in walk(recipe, folder) if v.place.name == stage)


def primary_of(stage: Path) -> str | None:
    """The score that a finished stage was trained by, which trials tell step by step; that of a later stage may be
    another."""
    try:
        found = json.loads((stage / RESULT).read_text(encoding="utf8")).get("primary")
    except (OSError, ValueError):
        return None
    return found if isinstance(found, str) else None


def evaluations(stage: Path, name: str) -> list[tuple[int, float]]:
    """(step, score) of every evaluation that a stage has logged in its folder, the later of two at one step."""
    found: dict[int, float] = {}
    for record in read_log(stage / "log.jsonl") if (stage / "log.jsonl").is_file() else ():
        if record.get("event") == "evaluate" and isinstance(record.get(name), float | int):
            found[record["step"]] = record[name]
    return sorted(found.items())


def _choice(value: Any) -> Any:
    """A choice as Optuna takes it: lists and mappings as JSON."""
    return value if isinstance(value, _PLAIN) else json.dumps(value, sort_keys=True)
