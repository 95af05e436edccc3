"""Task prefixes with source tasks of the targets' kinds, against multi-task tuning, on a language model.

Claim as one number: accuracy of a linear head on the representations of tasks that no prefix has seen, prefixes less
multi-task tuning, both read by the mean over tokens; mean over six targets. The authors' tables were not at hand, so no
figure is held against it: it holds where the 95 % interval, seeds and test rows redrawn, is above 0, does not hold
where it is below, and else is not told. What counts as seen is 0.01.

Sources and targets are of the same kinds, on other texts: sentiment (sst2; `mr`, films, and `cad_sentiment`, reviews),
topics (agnews; reuters_r8, newsgroups_mini), pairs of sentences (sick, qnli; cad_nli, mrpc). `frozen`, without any
prefix, shows that source tasks are worth something here.

Trials, of another seed: each way tries three rates, and of each two forms: how prefixes are combined, into vectors as
wide as those of the other ways, and after which part of its steps multi-task tuning stops. Heads are fitted on 300
training rows of a target and the form is chosen on 300 others; test rows are only scored, at most 2,000 a target. Then
a pilot of three seeds, and as many more as half of what counts asks for, at most five: beyond that test rows decide.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from collections.abc import Iterator
from functools import cache
from typing import Any

import harness
from evidence import COLUMNS, Claim, Differences, Finding, findings_of, hours_of
from protocol import TINY_LM, bed_exists
from tables import Cells, pick, table
from task_prefixes import encoder_of, labelled, source, trained_together

from luthier.errors import DataError

SOURCES = ("sst2", "agnews", "sick", "qnli")
TARGETS = ("mr", "cad_sentiment", "reuters_r8", "newsgroups_mini/coarse", "cad_nli", "mrpc")
FIT, TEST, LENGTH, STEPS, BATCH, PARTS = 300, 2000, 64, 300, 16, 2
COMBINED = ("joint", "mean")
PREFIX = {"name": "task_prefix", "prefix_length": 5}
SOURCE = {"examples": 4000, "max_length": LENGTH, "too_long": "truncate", "evaluation_limit": 300}
RATES = {"prefixes": (1e-2, 3e-2, 1e-1), "multi_task": (1e-4, 3e-4, 1e-3)}
TRIAL_SEED, PILOT, MOST, LEAST = 101, 3, 5, 0.01
ARMS = ("prefixes", "multi_task")
SETTINGS = {
    "sources": SOURCES,
    "targets": TARGETS,
    "fit": FIT,
    "test": TEST,
    "steps": STEPS,
    "batch": BATCH,
    "prefix": PREFIX,
    "source": SOURCE,
    "rates": RATES,
    "model": str(TINY_LM),
}
CLAIM = Claim(
    "Representations from prefixes serve unseen tasks of the sources' kinds better than multi-task tuning",
    "accuracy on target tasks, both read by the mean",
    None,
    "",
    "BERT-tiny LM",
)
ALIVE, LEARNED = (
    Claim(
        f"Source tasks help at all on this bed, by {way}",
        f"accuracy on target tasks, {way} less the frozen model",
        None,
        "no claim of the paper",
        "BERT-tiny LM",
        main=False,
    )
    for way in ("prefixes", "multi-task tuning")
)


def main() -> None:
    options = harness.arguments(__doc__)
    bed_exists(str(TINY_LM))
    bench = harness.Bench(str(TINY_LM))

    def cells(wanted: list[dict[str, Any]]) -> Cells:
        found = harness.run_cells("task_prefixes_near", SETTINGS, wanted, lambda cell: measured(bench, cell), options)
        return list(found["cells"].values())

    done = cells(
        [{"phase": "trial", "arm": arm, "rate": rate, "seed": TRIAL_SEED} for arm in ARMS for rate in RATES[arm]]
    )
    if len(chosen := choices(done)) < len(ARMS):
        return
    done = cells(finals(chosen, PILOT))
    if (needed := seeds_needed(done)) > PILOT:
        cells(finals(chosen, needed))


def finals(chosen: dict[str, tuple[float, str]], seeds: int) -> list[dict[str, Any]]:
    return [
        {"phase": "final", "arm": arm, "rate": chosen[arm][0], "form": chosen[arm][1], "seed": seed}
        for seed in range(1, seeds + 1)
        for arm in ARMS
    ] + [{"phase": "final", "arm": "frozen", "seed": seed} for seed in range(1, seeds + 1)]


def choices(cells: Cells) -> dict[str, tuple[float, str]]:
    """Way -> its rate and form with the best mean over the targets, where all rates were tried."""
    chosen = {}
    for arm in ARMS:
        trials = pick(cells, phase="trial", arm=arm)
        if len(trials) == len(RATES[arm]):
            _, rate, form = max(
                (statistics.fmean(own.values()), entry["cell"]["rate"], form)
                for entry in trials
                for form, own in entry["scores"].items()
            )
            chosen[arm] = rate, form
    return chosen


def seeds_needed(cells: Cells) -> int:
    found = gain(cells, "prefixes", "multi_task")
    return PILOT if found is None else min(MOST, max(PILOT, found.seeds_for(LEAST / 2) or MOST))


def measured(bench: harness.Bench, cell: dict[str, Any]) -> dict[str, Any]:
    """Of a trial the scores of every form, by target; of a final cell which test rows are right."""
    with tempfile.TemporaryDirectory() as folder:
        if cell["arm"] == "frozen":
            encoders = iter([("frozen", encoder_of(bench, {}, pooling="mean"))])
        elif cell["arm"] == "prefixes":
            encoders = prefixed(bench, cell)
        else:
            encoders = tuned_together(bench, cell, folder)
        found: dict[str, Any] = {}
        for form, encoder in encoders:
            if cell.get("form", form) != form:
                continue
            if cell["phase"] == "trial":
                found[form] = {name: share(on_target(encoder, name, cell, "validation")) for name in TARGETS}
            else:
                found = {name: on_target(encoder, name, cell, "test") for name in TARGETS}
                break  # what comes behind the chosen form need not be trained
    if cell["phase"] == "trial":
        return {"scores": found}
    return {"right": found, "accuracy": statistics.fmean(share(right) for right in found.values())}


def share(right: str) -> float:
    return round(right.count("1") / len(right), 5)


def prefixed(bench: harness.Bench, cell: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """A shared encoder with a prefix of every source, combined in every way."""
    models = {}
    for name in SOURCES:
        tune = {
            "method": PREFIX,
            "learning_rate": cell["rate"],
            "data": source(name, cell["seed"], SOURCE),
            "max_steps": STEPS,
            "batch_size": BATCH,
            "evaluate_every": STEPS,
        }
        models[name] = bench.tune(tune, cell["seed"], test=None, judge=lambda model, _: {"model": model})["model"]
    for combine in COMBINED:
        yield combine, encoder_of(bench, models, combine=combine, pooling="mean")


def tuned_together(bench: harness.Bench, cell: dict[str, Any], folder: str) -> Iterator[tuple[str, Any]]:
    """The encoder of the model that learned all sources at once, after every part of its steps."""
    from luthier.tuning import SharedEncoder

    data = {name: source(name, cell["seed"], SOURCE) for name in SOURCES}
    tuned = trained_together(bench.model, data, cell["rate"], cell["seed"], steps=STEPS, batch=BATCH, parts=PARTS)
    for number, (model, tokenizer) in enumerate(tuned, 1):
        place = f"{folder}/{number}"
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
        yield f"{number}/{PARTS} of the steps", SharedEncoder(place, pooling="mean", max_length=LENGTH)


def on_target(encoder: Any, name: str, cell: dict[str, Any], split: str) -> str:
    """`1` for every row of a split that a linear head is right on, `0` for the others."""
    from luthier.representing.heads import LinearHead

    texts, labels = rows_of(name, "train", cell["seed"])
    vectors = encoder.encode(texts[:FIT], batch_size=32)
    head = LinearHead.fit(vectors, labels[:FIT], representation=encoder.representation)
    asked, gold = (texts[FIT:], labels[FIT:]) if split == "validation" else rows_of(name, "test", cell["seed"])
    told = head.predict(encoder.encode(asked, batch_size=32)).labels
    return "".join("1" if one == other else "0" for one, other in zip(told, gold, strict=True))


@cache
def rows_of(name: str, split: str, seed: int) -> tuple[list[Any], list[str]]:
    """Texts, or pairs, and labels: of the training rows those that a seed draws, of the test rows the same for all."""
    data = {"source": f"data:{name}", "evaluation_limit": TEST}
    data |= {"examples": 2 * FIT, "subset_seed": seed} if split == "train" else {}
    texts, ids = labelled(data, split)
    if split == "train" and len(texts) < 2 * FIT:
        raise DataError(f"{name} has {len(texts)} training rows, {2 * FIT} are needed")
    rows = [(one[0] if len(one) == 1 else one, str(label)) for one, label in zip(texts, ids, strict=True)]
    if split == "train":
        random.Random(seed).shuffle(rows)  # drawn rows keep the order of their file, which may be that of its labels
    return [text for text, _ in rows], [label for _, label in rows]


# -- the page ----------------------------------------------------------------------------------------------------------


def gain(cells: Cells, first: str, second: str) -> Differences | None:
    """By target, seed and test row: whether one way is right, less whether another is."""
    sides = ({e["cell"]["seed"]: e["right"] for e in pick(cells, phase="final", arm=arm)} for arm in (first, second))
    one, other = (
        {name: {seed: [int(c) for c in right[name]] for seed, right in side.items()} for name in TARGETS}
        for side in sides
    )
    return Differences.paired({name: (one[name], other[name]) for name in TARGETS})


def findings(cells: Cells) -> list[Finding]:
    measured = [
        (CLAIM, gain(cells, "prefixes", "multi_task")),
        (ALIVE, gain(cells, "prefixes", "frozen")),
        (LEARNED, gain(cells, "multi_task", "frozen")),
    ]
    return findings_of(measured, hours_of(cells))


def page(cells: Cells) -> str:
    rows = []
    for arm in (*ARMS, "frozen"):
        own = pick(cells, phase="final", arm=arm)
        if own:
            rate, form = (own[0]["cell"].get(key, "") for key in ("rate", "form"))
            scores = [statistics.fmean(share(e["right"][name]) for e in own) for name in TARGETS]
            highest = ", the highest tried" if arm in RATES and rate == max(RATES[arm]) else ""
            rows.append(
                [arm, f"{rate}{highest}", form, *(f"{one:.3f}" for one in scores), f"{statistics.fmean(scores):.3f}"]
            )
    about = (
        f"## Task prefixes with sources near the targets\n\nSources {', '.join(SOURCES)}, {STEPS} steps of {BATCH} a "
        f"task; accuracy of a linear head fitted on {FIT} rows of each target, on its test rows, mean over seeds. Rate "
        "and form were chosen on other training rows of the targets, with another seed.\n\n"
    )
    told = table(list(COLUMNS), [one.line() for one in findings(cells)])
    return about + told + "\n" + table(["way", "rate", "form", *TARGETS, "mean"], rows)


if __name__ == "__main__":
    main()
