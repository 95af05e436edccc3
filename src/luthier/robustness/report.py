"""The robustness report: one classifier, five scores (RoAST, section 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from luthier.evaluation.calibration import Binning, expected_calibration_error, reliability_bins
from luthier.evaluation.metrics import bootstrap_interval
from luthier.report.intervals import never_exact
from luthier.report.sections import Bars, Radar, Reliability, Section, SectionTable
from luthier.report.text import interval_text
from luthier.robustness.metrics import (
    ACCURACIES,
    AGGREGATES,
    BEST,
    PERSPECTIVES,
    Aggregate,
    Judged,
    Resampled,
    aggregate_improvement,
    anomaly_scores,
    average_rank,
    cross_validated_ece,
    judge,
    mean_interval,
    softmax,
)

EceTemperature = Literal["none", "cv", "release"]
Score = Callable[[Sequence[Any]], np.ndarray]
_TITLES = {
    "accuracy": "in-distribution accuracy",
    "shift": "accuracy under distribution shift",
    "adversarial": "accuracy on adversarial sets",
    "calibration": "expected calibration error",
    "anomaly": "anomaly detection AUROC",
}


@dataclass(frozen=True)
class EvaluationSet:
    """Texts with labels, or without for anomalies.

    Attributes:
        name: shown in the report; unique within it.
        texts: whatever the scorer takes: strings, or pairs of them.
        labels: (N,) class ids; None for anomalies.
        two_way: an entailment set without a neutral class; see `metrics.judge`.
        made_from: name of the rows that it is a version of, row by row, as under an attack; intervals take versions
            of the same rows together.
        before: accuracy on those rows as they were.
    """

    name: str
    texts: Sequence[Any]
    labels: np.ndarray | None = None
    two_way: bool = False
    made_from: str | None = None
    before: float | None = None

    def group(self, rows: int) -> tuple[str, int]:
        """What its rows are called when they are redrawn."""
        return self.made_from or self.name, rows


@dataclass
class RobustnessReport:
    """Scores a classifier on given sets from five sides.

    A perspective without sets is left out. Calibration is the mean over all labelled sets; anomalies are told
    from the rows of the last in-distribution set, or of `inside`.

    Attributes:
        in_distribution, shift, adversarial: labelled sets.
        anomalies: sets whose rows don't belong to the task.
        inside: the set that anomalies are told from; None takes the last of `in_distribution`.
        bins, binning: of the calibration error; bins are right-closed.
        ece_temperature: `none`; `cv` chooses a temperature by cross-validation; `release` repeats the released code's
            error in doing so.
        entailment: id of the class that two-way sets keep apart.
        draws: bootstrap draws behind the intervals; 0 leaves them out.
        seed: of folds and draws.
    """

    in_distribution: Sequence[EvaluationSet]
    shift: Sequence[EvaluationSet] = ()
    adversarial: Sequence[EvaluationSet] = ()
    anomalies: Sequence[EvaluationSet] = ()
    inside: EvaluationSet | None = None
    bins: int = 10
    binning: Binning = "equal_width"
    ece_temperature: EceTemperature = "none"
    entailment: int = 0
    draws: int = 1000
    seed: int = 0
    _logits: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        labelled = [*self.in_distribution, *self.shift, *self.adversarial]
        names = [s.name for s in [*labelled, *self.anomalies]]
        if not self.in_distribution:
            raise ValueError("the report needs at least one in-distribution set")
        if len(set(names)) != len(names):
            raise ValueError(f"two sets have the same name: {sorted(n for n in names if names.count(n) > 1)[0]!r}")
        if unlabelled := [s.name for s in labelled if s.labels is None]:
            raise ValueError(f"the set {unlabelled[0]!r} has no labels, which only anomalies may lack")

    def run(self, scorer: Score) -> dict[str, Any]:
        """Score everything.

        Args:
            scorer: texts -> (N, C) logits, `Scorer` for one.

        Returns:
            JSON: `perspectives` (name -> score), `intervals` (name -> [low, high]), `sets` and `anomalies` (one
            record a set), `settings`, and `sections` (tables and plots for a page).
        """
        self._logits = {}
        groups = {"accuracy": self.in_distribution, "shift": self.shift, "adversarial": self.adversarial}
        perspectives: dict[str, float] = {}
        intervals: dict[str, list[float]] = {}
        records: list[dict[str, Any]] = []
        everything: list[Resampled] = []
        for name, sets in groups.items():
            judged = [self._judge(scorer, s) for s in sets]
            records += [self._record(name, s, j) for s, j in zip(sets, judged, strict=True)]
            groups_of = [(s.group(len(j.correct)),) for s, j in zip(sets, judged, strict=True)]
            everything += [Resampled(self._ece_on(j), g) for j, g in zip(judged, groups_of, strict=True)]
            if judged:
                perspectives[name] = float(np.mean([j.accuracy for j in judged]))
                accuracies = [Resampled(_accuracy_on(j), g) for j, g in zip(judged, groups_of, strict=True)]
                self._add_interval(intervals, name, accuracies)
        perspectives["calibration"] = float(np.mean([r["ece"] for r in records]))
        if self.ece_temperature == "none":
            self._add_interval(intervals, "calibration", everything, centre=perspectives["calibration"])
        anomalies = self._anomalies(scorer, perspectives, intervals)
        return {
            "perspectives": {p: perspectives[p] for p in PERSPECTIVES if p in perspectives},
            "intervals": intervals,
            "sets": records,
            "anomalies": anomalies,
            "settings": {
                "bins": self.bins,
                "binning": self.binning,
                "ece_temperature": self.ece_temperature,
                "entailment": self.entailment,
                "seed": self.seed,
            },
            "sections": [one.to_json() for one in sections(perspectives, records, anomalies)],
        }

    def _scored(self, scorer: Score, one: EvaluationSet) -> np.ndarray:
        if one.name not in self._logits:
            self._logits[one.name] = np.asarray(scorer(one.texts))
        return self._logits[one.name]

    def _judge(self, scorer: Score, one: EvaluationSet, temperature: float = 1.0) -> Judged:
        assert one.labels is not None
        logits = self._scored(scorer, one)
        return judge(logits, one.labels, temperature=temperature, two_way=one.two_way, entailment=self.entailment)

    def _record(self, perspective: str, one: EvaluationSet, judged: Judged) -> dict[str, Any]:
        record: dict[str, Any] = {
            "perspective": perspective,
            "name": one.name,
            "rows": len(judged.correct),
            "two_way": one.two_way,
            "accuracy": judged.accuracy,
        }
        if one.before is not None:
            record["accuracy_before"] = one.before
        interval = self._accuracy_interval(judged)
        if interval:
            record["accuracy_interval"] = list(interval)
        if self.ece_temperature == "none":
            record["ece"] = expected_calibration_error(judged.confidence, judged.correct, self.bins, self.binning)
        else:
            record["ece"], record["temperatures"] = cross_validated_ece(
                lambda t: self._judge(lambda _: self._logits[one.name], one, t),
                bins=self.bins,
                binning=self.binning,
                seed=self.seed,
                release_compatible=self.ece_temperature == "release",
            )
        record["reliability"] = [
            asdict(b) for b in reliability_bins(judged.confidence, judged.correct, self.bins, self.binning)
        ]
        return record

    def _anomalies(
        self, scorer: Score, perspectives: dict[str, float], intervals: dict[str, list[float]]
    ) -> list[dict[str, Any]]:
        if not self.anomalies:
            return []
        home = self.inside or self.in_distribution[-1]
        inside = softmax(self._scored(scorer, home)).max(axis=1)
        records, statistics = [], []
        for one in self.anomalies:
            outside = softmax(self._scored(scorer, one)).max(axis=1)
            found = anomaly_scores(inside, outside)
            records.append({"name": one.name, "inside": home.name, "rows": len(outside)} | asdict(found))
            groups = (home.group(len(inside)), one.group(len(outside)))
            statistics.append(Resampled(_auroc_on(inside, outside), groups))
        perspectives["anomaly"] = float(np.mean([r["auroc"] for r in records]))
        self._add_interval(intervals, "anomaly", statistics)
        return records

    def _ece_on(self, judged: Judged) -> Callable[[np.ndarray], float]:
        return lambda i: expected_calibration_error(judged.confidence[i], judged.correct[i], self.bins, self.binning)

    def _accuracy_interval(self, judged: Judged) -> tuple[float, float] | None:
        rows = len(judged.correct)
        found = bootstrap_interval(_accuracy_on(judged), rows, draws=self.draws, seed=self.seed) if self.draws else None
        return None if found is None else never_exact(found, rows)

    def _add_interval(
        self, intervals: dict[str, list[float]], name: str, scores: list[Resampled], centre: float | None = None
    ) -> None:
        found = mean_interval(scores, draws=self.draws, seed=self.seed, centre=centre) if self.draws else None
        # Sets may share their rows, so that the fewest rows of a set are all that bounds a mean of accuracies.
        alike = min(n for one in scores for _, n in one.groups) if name in ACCURACIES and scores else None
        kept = never_exact(found, alike) if found else None
        if kept:
            intervals[name] = list(kept)


def _accuracy_on(judged: Judged) -> Callable[[np.ndarray], float]:
    return lambda i: float(judged.correct[i].mean())


def _auroc_on(inside: np.ndarray, outside: np.ndarray) -> Callable[[np.ndarray, np.ndarray], float]:
    """The area over redrawn rows of both groups."""
    from scipy.stats import rankdata

    def auroc(home: np.ndarray, away: np.ndarray) -> float:
        ranks = rankdata(-np.r_[inside[home], outside[away]])[len(home) :]
        return float((ranks.sum() - len(away) * (len(away) + 1) / 2) / (len(away) * len(home)))

    return auroc


def compare(reports: Mapping[str, Mapping[str, Any]], vanilla: str = "vanilla") -> dict[str, Any]:
    """Set several methods' reports beside each other.

    Args:
        reports: method -> what `RobustnessReport.run` gave, or anything with its `perspectives`.
        vanilla: the method that the others are measured against.

    Returns:
        JSON: `rows` (method, perspectives, `average_rank`, and `gap_closed` and `ratio`, the two forms of
        `aggregate_improvement`, None where a form is not defined), and `sections`.

    Raises:
        ValueError: there is no such method, or the perspectives differ.
    """
    if vanilla not in reports:
        raise ValueError(f"there is no method {vanilla!r} among {', '.join(reports)}")
    table = {m: dict(r["perspectives"]) for m, r in reports.items()}
    if any(set(scores) != set(table[vanilla]) for scores in table.values()):
        raise ValueError("the methods were not judged from the same sides")
    ranks = average_rank(table)
    rows = [
        {"method": m, **scores, **{form: _aggregate(scores, table[vanilla], form) for form in AGGREGATES}}
        | {"average_rank": ranks[m]}
        for m, scores in table.items()
    ]
    return {"rows": rows, "sections": [compared_section(rows, vanilla).to_json()]}


def compared_section(rows: Sequence[Mapping[str, Any]], vanilla: str) -> Section:
    """The rows of `compare` as a table, and the sides of every method as a plot."""
    axes = [p for p in PERSPECTIVES if p in rows[0]]
    shown = ("method", *axes, *AGGREGATES, "average_rank")
    return Section(
        f"Robustness against {vanilla}",
        text="The aggregates are means over the sides: of the share closed of the gap to a perfect score "
        "(gap closed), and of the relative change (ratio). On the same numbers they can differ by more than a "
        "factor of two. Calibration is an error; on the plot it is shown as 1 minus the error.",
        table=SectionTable(
            [name.replace("_", " ") for name in shown], [_shown([row[name] for name in shown]) for row in rows]
        ),
        plot=_radar({row["method"]: {axis: row[axis] for axis in axes} for row in rows}),
    )


def _aggregate(scores: Mapping[str, float], vanilla: Mapping[str, float], form: Aggregate) -> float | None:
    try:
        return aggregate_improvement(scores, vanilla, form)
    except ValueError:
        return None


def sections(
    perspectives: Mapping[str, float], records: Sequence[Mapping[str, Any]], anomalies: Sequence[Mapping[str, Any]]
) -> list[Section]:
    """Tables and plots of one report."""
    sides = [
        _shown([_TITLES[p], perspectives[p], *_over_all_rows(p, records, anomalies)])
        for p in PERSPECTIVES
        if p in perspectives
    ]
    attacked = any("accuracy_before" in r for r in records)
    sets = [
        _shown([r["perspective"], r["name"], r["rows"], *([r.get("accuracy_before")] if attacked else [])])
        + _shown([r["accuracy"], interval_text(r.get("accuracy_interval")), r["ece"]])
        for r in records
    ]
    made = [
        Section(
            "Robustness: five sides",
            text="A score is the plain mean over its sets; over all rows, a set counts as often as it has rows. On the "
            "plot calibration is shown as 1 minus the error, so that further out is better everywhere."
            + _before_after(records),
            table=SectionTable(["side", "score", "sets", "rows", "over all rows"], sides),
            plot=_radar({"this model": perspectives}),
        ),
        Section(
            "Robustness: accuracy by set",
            table=SectionTable(
                ["side", "set", "rows", *(["same rows before"] if attacked else []), "accuracy", "95 %", "ECE"], sets
            ),
            plot=_bars({r["name"]: r["accuracy"] for r in records}, "accuracy"),
        ),
    ]
    if anomalies:
        keys = ("name", "inside", "rows", "auroc", "aupr", "fpr95")
        columns = ["anomalies", "told from", "rows", "AUROC", "AUPR", "FPR95"]
        made.append(
            Section(
                "Robustness: anomaly detection",
                table=SectionTable(columns, [_shown([r[k] for k in keys]) for r in anomalies]),
                plot=_bars({r["name"]: r["auroc"] for r in anomalies}, "AUROC"),
            )
        )
    return made + [Section(f"Reliability on {r['name']}", plot=Reliability(r["reliability"])) for r in records]


def _bars(values: Mapping[str, float], label: str) -> Bars | None:
    """A plot, where there are two values to compare."""
    return Bars({name: [value] for name, value in values.items()}, x_label=label) if len(values) > 1 else None


def _over_all_rows(
    side: str, records: Sequence[Mapping[str, Any]], anomalies: Sequence[Mapping[str, Any]]
) -> tuple[int, int, float]:
    """How many sets and rows a side has, and its score with sets weighted by their rows."""
    if side == "anomaly":
        found = [(one["rows"], one["auroc"]) for one in anomalies]
    elif side == "calibration":
        found = [(one["rows"], one["ece"]) for one in records]
    else:
        found = [(one["rows"], one["accuracy"]) for one in records if one["perspective"] == side]
    rows = sum(count for count, _ in found)
    return len(found), rows, sum(count * score for count, score in found) / rows


def _before_after(records: Sequence[Mapping[str, Any]]) -> str:
    """What attacks did to accuracy, on the rows that they changed and over all of them."""
    found = [(r["rows"], r["accuracy_before"], r["accuracy"]) for r in records if "accuracy_before" in r]
    if not found:
        return ""
    rows = sum(count for count, _, _ in found)
    before, after = (sum(one[0] * one[n] for one in found) / rows for n in (1, 2))
    return f" Under attack accuracy goes from {before:.3f} to {after:.3f} on the same {rows} rows."


def _shown(values: list[Any]) -> list[Any]:
    return [round(v, 4) if isinstance(v, float) else v for v in values]


def _radar(series: Mapping[str, Mapping[str, float]]) -> Radar | None:
    """A plot, where there are sides enough for one."""
    axes = [p for p in PERSPECTIVES if all(p in scores for scores in series.values())]
    if len(axes) < 3:
        return None
    return Radar({name: {a: 1 - s[a] if BEST[a] == 0 else s[a] for a in axes} for name, s in series.items()})
