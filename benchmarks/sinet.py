"""SINET (Luo et al., LREC-COLING 2024): does cross-task attention extract more than SpERT under equal settings?

SINET projects the encoder's output for each task and lets each task's sentence vector attend to the other task's
tokens; without both it is SpERT (`interaction: none`), the same code otherwise.

The claim as one number, `gain`: how much higher the strict F1 of relations (Rel+, micro, CoNLL04's test rows) is with
cross-task attention than without. The authors' tables were not at hand, so half of what joint models with some
interaction report over SpERT there stands for the least effect that counts: 0.9 (TriMF) to 3.5 (PFN) points of F1,
2.2 in the mean, and half of it is 0.011. The claim holds where the 95 % interval, seeds and sentences redrawn, is above
0; it does not hold where the interval is below 0.011; else it is not told, with the seeds that would tell. That is the
one main comparison; NER, Rel, the other sets and the other variants are exploratory.

Each arm has its learning rate chosen on the validation rows, by the strict F1 of the first seed at every rate. The
weights of the best epoch and the thresholds of relations are chosen on the validation rows, too; test rows are only
scored, and training rows never hold the validation ones. `--explore` adds the other variants.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import harness
import numpy as np
from tables import Cells, pick, spread, table

from luthier.report.intervals import DRAWS, interval_over_seeds, redrawn_rows

LEVELS = {"entity": "NER", "relation": "Rel", "relation_strict": "Rel+"}
ARMS = {"sinet": {"interaction": "cls_cross"}, "spert": {"interaction": "none"}}
MORE = {
    "cls_self": {"interaction": "cls_self"},
    "token_cross": {"interaction": "token_cross"},
    "pfn": {"interaction": "partition", "heads": "table"},
}
MAIN_SET, LEAST = "conll04", 0.011


@dataclass(frozen=True)
class Scale:
    """Sizes of everything.

    Attributes:
        models: set -> encoder.
        epochs: set -> passes over its training rows.
        head: set -> settings of the head that all arms have.
        tune: settings of the training that all share.
        rates: of which each arm takes the best.
        seeds: how many.
    """

    models: dict[str, str]
    epochs: dict[str, int]
    head: dict[str, dict[str, Any]]
    tune: dict[str, Any]
    rates: tuple[float, ...]
    seeds: int


SOURCES = {"conll04": "data:conll04/relations", "scierc": "data:scierc/relations", "webnlg_re": "data:webnlg_re"}
_NO_LIMIT = {"webnlg_re": {"max_span_size": 1}, "scierc": {"max_span_size": 8}, "conll04": {}}
SCALES = {
    "local": Scale(
        dict.fromkeys(SOURCES, harness.MINILM),
        {"conll04": 10, "scierc": 6, "webnlg_re": 3},
        _NO_LIMIT,
        {"method": "full", "batch_size": 16},
        (3e-4, 1e-3),
        3,
    ),
    "paper": Scale(
        {
            "conll04": "google-bert/bert-base-cased",
            "scierc": "allenai/scibert_scivocab_cased",
            "webnlg_re": "google-bert/bert-base-cased",
        },
        {"conll04": 20, "scierc": 100, "webnlg_re": 20},
        _NO_LIMIT,
        {"method": "full", "batch_size": 2, "correct_bias": False, "warmup_ratio": 0.1},
        (1e-5, 5e-5),
        10,
    ),
}


def main() -> None:
    options = harness.arguments(
        __doc__,
        scale={"choices": [*SCALES], "default": "local"},
        sets={"nargs": "+", "choices": [*SOURCES], "default": [MAIN_SET]},
        explore={"action": "store_true", "help": "the other variants, too"},
    )
    scale = SCALES[options.scale]
    run = partial(
        harness.run_cells,
        "sinet" if options.scale == "local" else f"sinet-{options.scale}",
        {"scale": vars(scale), "arms": ARMS | MORE},
        measure=partial(measured, scale, {}),
        options=options,
    )
    arms = [*ARMS, *(MORE if options.explore else ())]
    for name in options.sets:
        trials = [{"set": name, "arm": arm, "rate": rate, "seed": 1} for rate in scale.rates for arm in arms]
        done = run(cells=trials)["cells"]
        run(cells=chosen_cells(list(done.values()), name, arms, scale))


def chosen_cells(done: Cells, name: str, arms: list[str], scale: Scale) -> Iterator[dict[str, Any]]:
    """The cells of the other seeds, at the rate that is best for each arm; none while trials are missing."""
    for seed in range(2, scale.seeds + 1):
        for arm in arms:
            if len(pick(done, set=name, arm=arm, seed=1)) == len(scale.rates):
                yield {"set": name, "arm": arm, "rate": best_rate(done, name, arm), "seed": seed}


def best_rate(cells: Cells, name: str, arm: str) -> float:
    """The rate with the highest score on the validation rows, of the first seed."""
    trials = pick(cells, set=name, arm=arm, seed=1)
    return float(max(trials, key=lambda e: e["validation_relation_strict_f1"])["cell"]["rate"])


def measured(scale: Scale, benches: dict[str, harness.Bench], cell: dict[str, Any]) -> dict[str, Any]:
    """Scores of one model, and what was counted in every test sentence."""
    name = cell["set"]
    bench = benches.setdefault(scale.models[name], harness.Bench(scale.models[name]))
    tune = scale.tune | {
        "data": {"source": SOURCES[name]},
        "head": scale.head[name] | (ARMS | MORE)[cell["arm"]],
        "learning_rate": cell["rate"],
        "epochs": scale.epochs[name],
    }
    return bench.tune(tune, cell["seed"], keep=counted)


def counted(judged: Any) -> dict[str, Any]:
    """Level -> [in gold, told, right] of every sentence."""
    sums = np.concatenate([judged.gold.sum(2)[..., None], judged.guess.sum(2)], axis=-1)
    return {"sentences": {level: sums[:, place].tolist() for place, level in enumerate(LEVELS)}}


# -- the page ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gain:
    """How much higher the F1 of one arm is than that of another, over the seeds that both have.

    Attributes:
        seeds: the differences, one a seed.
        drawn: (S, D), the same in draws of sentences.
    """

    seeds: list[float]
    drawn: np.ndarray

    @classmethod
    def of(cls, arm: Cells, other: Cells, level: str) -> Gain | None:
        mine, theirs = ({e["cell"]["seed"]: np.array(e["sentences"][level]) for e in part} for part in (arm, other))
        both = sorted(mine.keys() & theirs.keys())
        if not both:
            return None
        once = np.ones((1, len(mine[both[0]])))
        draws = np.stack([np.bincount(one, minlength=once.size) for one in redrawn_rows(once.size, DRAWS)])
        plain, drawn = ([f1(mine[s], by) - f1(theirs[s], by) for s in both] for by in (once, draws))
        return cls([float(one[0]) for one in plain], np.stack(drawn))

    @property
    def mean(self) -> float:
        return statistics.fmean(self.seeds)

    @property
    def interval(self) -> tuple[float, float]:
        return interval_over_seeds(self.drawn)

    @property
    def deviation(self) -> float:
        return statistics.stdev(self.seeds) if len(self.seeds) > 1 else math.nan

    @property
    def needed(self) -> int:
        """Seeds that see `LEAST` with 80 % power: (1.96 + 0.84)^2 (deviation / effect)^2, and two for the t
        distribution."""
        return math.ceil(2.8**2 * (self.deviation / LEAST) ** 2) + 2

    def verdict(self) -> str:
        low, high = self.interval
        if len(self.seeds) < 3:
            return f"not told with {len(self.seeds)} seeds"
        if low > 0:
            return "holds"
        return "does not hold" if high < LEAST else f"not told, {self.needed} seeds would tell"

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.mean:+.3f} [{low:+.3f}, {high:+.3f}], {len(self.seeds)} seeds"


def f1(counts: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """(N, 3) counts and (D, N) how often each sentence is drawn -> (D,) micro F1."""
    gold, told, right = (draws @ counts).T
    found: np.ndarray = 2 * right / np.maximum(gold + told, 1)
    return found


def of_arm(cells: Cells, name: str, arm: str) -> Cells:
    """An arm's cells at its rate."""
    if not pick(cells, set=name, arm=arm, seed=1):
        return []
    return pick(cells, set=name, arm=arm, rate=best_rate(cells, name, arm))


def answers(cells: Cells) -> list[list[str]]:
    gain = Gain.of(of_arm(cells, MAIN_SET, "sinet"), of_arm(cells, MAIN_SET, "spert"), "relation_strict")
    if gain is None:
        return []
    return [["Cross-task attention extracts more relations than SpERT (SINET)", f"{gain.verdict()}: {gain} in Rel+ F1"]]


def page(cells: Cells) -> str:
    """Scores of every arm, and what each gains over SpERT."""
    rows, trials, power = [], [], ""
    for name in SOURCES:
        base = of_arm(cells, name, "spert")
        for arm in ARMS | MORE:
            own = of_arm(cells, name, arm)
            if not own:
                continue
            scores = [spread([e[f"test_{level}_f1"] for e in own]) for level in LEVELS]
            gains = [Gain.of(own, base, level) if arm != "spert" else None for level in LEVELS]
            shown = "" if gains[-1] is None else str(gains[-1])
            rows.append([name, arm, f"{own[0]['cell']['rate']:g}", *scores, shown])
            if (name, arm) == (MAIN_SET, "sinet") and gains[-1] is not None:
                power = f"Paired seeds deviate by {gains[-1].deviation:.4f} in Rel+; {gains[-1].needed} seeds see "
                power += f"{LEAST} with 80 % power. "
            trials += [
                f"{name} {arm} {e['cell']['rate']:g}: {e['validation_relation_strict_f1']:.3f}"
                for e in pick(cells, set=name, arm=arm, seed=1)
            ]
    minutes = sum(e["wall_seconds"] for e in cells) / 60
    about = (
        "## SINET against SpERT\n\nMiniLM, all weights trained, whole test sets, mean ± sample standard deviation over "
        f"seeds; intervals redraw seeds and sentences. {power}Rates were chosen on the validation rows (strict F1 of "
        f"seed 1: {'; '.join(trials)}). {minutes:.0f} minutes in all.\n"
    )
    return about + "\n" + table(["set", "arm", "rate", *LEVELS.values(), "Rel+ over SpERT (95 %)"], rows)


if __name__ == "__main__":
    main()
