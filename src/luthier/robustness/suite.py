"""The `robustness` suite of the evaluate stage."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from luthier.data.schemas import SCHEMAS, LabelKind
from luthier.data.settings import DataSettings
from luthier.errors import DataError, RecipeError
from luthier.evaluation.subject import Subject, Suite, SuiteResult
from luthier.registry import SUITES
from luthier.report.intervals import ROW_SEED
from luthier.report.sections import Section, SectionTable
from luthier.robustness.settings import ROAST_PAPER
from luthier.settings import Paper, Settings

if TYPE_CHECKING:
    from luthier.data.schemas import TaskSchema, TrainedOn
    from luthier.data.task_data import TaskData
    from luthier.robustness.report import EvaluationSet

logger = logging.getLogger(__name__)

Split = Literal["train", "validation", "test"]
_FEWEST_DRAWS = 100
SCORE_NAMES = {
    "accuracy": "robustness/accuracy",
    "shift": "robustness/shift_accuracy",
    "adversarial": "robustness/adversarial_accuracy",
    "calibration": "robustness/expected_calibration_error",
    "anomaly": "robustness/anomaly_auroc",
}


class RobustnessSet(Settings):
    """One data set of the report."""

    name: str = Field(min_length=1, description="What the report calls it.")
    data: DataSettings = Field(
        description="Where the rows come from; `label_map` takes its labels to the model's. Rows are encoded at the "
        "model's length; `too_long` says what happens to longer ones."
    )
    split: Split | None = Field(
        None, description="Which split is scored; null is test where there is one, else validation, else train."
    )
    two_way: bool = Field(
        False, description="An entailment set without a neutral class: all classes but `entailment` count as one."
    )

    @model_validator(mode="after")
    def _data_have_effect(self) -> Self:
        if self.data.max_length is not None:
            raise ValueError("data.max_length would have no effect: rows are encoded at the model's length")
        if self.data.labels is not None:
            raise ValueError("data.labels would have no effect: the labels are the model's; translate by `label_map`")
        if self.data.streaming:
            raise ValueError("data.streaming is for training rows: a set is read whole, or cut by data.limit")
        if self.data.as_text:
            raise ValueError("data.as_text is not for sets: their rows are put to the model as the evaluated ones are")
        return self


class AttackSettings(Settings):
    """Changes the evaluated split itself, at run time, into one more adversarial set."""

    kind: Literal["characters", "rewrites", "substitution"] = Field(
        description="Typing errors, rewrites by rule that keep the meaning, or word substitutions chosen "
        "against the model."
    )
    rows: int = Field(200, gt=0, description="Rows to change, drawn from the split.")
    seed: int = Field(
        0,
        ge=0,
        description="Seed of the draw of rows, the same for all runs, so that all are attacked on the same rows.",
    )
    rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of words with a typing error (null: 0.1), or most words to substitute (null: 0.4); at least "
        "one word.",
    )
    order: Literal["delete", "mask", "weighted"] = Field(
        "delete", description="Which words are substituted first: as in TextFooler, BERT-Attack or PWWS."
    )

    @model_validator(mode="after")
    def _options_have_effect(self) -> Self:
        if self.order != "delete" and self.kind != "substitution":
            raise ValueError(f"order would have no effect on {self.kind}: leave it out")
        if self.rate is not None and self.kind == "rewrites":
            raise ValueError("rate would have no effect on rewrites: leave it out")
        return self

    @property
    def title(self) -> str:
        """Kind and settings, in words."""
        told = [f"rate {self.rate:g}"] if self.rate is not None else []
        told += [f"order {self.order}"] if self.order != "delete" else []
        told += [f"seed {self.seed}"] if self.seed else []
        told += [f"{self.rows} rows"] if self.changed("rows") else []
        return f"{self.kind} ({', '.join(told)})" if told else self.kind


@SUITES.register
class RobustnessSuite(Suite):
    """Accuracy, distribution shift, adversarial sets, calibration and anomaly detection, side by side."""

    name: Literal["robustness"] = "robustness"
    summary: ClassVar[str] = "five scores: accuracy, shift, adversarial, calibration, anomaly detection"
    paper: ClassVar[Paper | None] = ROAST_PAPER
    label_kinds: ClassVar[tuple[LabelKind | None, ...] | None] = ("class",)
    needs_probabilities: ClassVar[bool] = True

    in_distribution: list[RobustnessSet] = Field(
        default_factory=list, description="Further sets like the evaluated split, which always comes first."
    )
    shift: list[RobustnessSet] = Field(default_factory=list, description="Sets of the same task from elsewhere.")
    adversarial: list[RobustnessSet] = Field(default_factory=list, description="Static attacked or adversarial sets.")
    attacks: list[AttackSettings] = Field(
        default_factory=list, description="Attacks made on the evaluated split at run time."
    )
    anomalies: list[RobustnessSet] = Field(
        default_factory=list, description="Sets whose rows don't belong to the task."
    )
    bins: int = Field(10, ge=2, description="Bins of confidence, right-closed.")
    binning: Literal["equal_width", "equal_mass"] = Field(
        "equal_width", description="Bins of equal width, or with equal numbers of rows."
    )
    ece_temperature: Literal["none", "cv", "release"] = Field(
        "none",
        description="Temperature before the calibration error: none; `cv` chooses one by 10-fold "
        "cross-validation; `release` "
        "repeats the published code, which takes the position of the chosen temperature for the temperature.",
    )
    entailment: str = Field("entailment", description="Label of the class that two-way sets keep apart.")
    draws: int = Field(
        1000, ge=0, description="Bootstrap draws behind the intervals, 100 or more; 0 leaves intervals out."
    )
    select_on: Literal["held_out", "reported"] = Field(
        "held_out",
        description="Whether the checkpoint was chosen on rows outside this report or, as in the paper, on rows in it; "
        "recorded with the scores.",
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [one.name for one in self._sets()] + [attack.title for attack in self.attacks]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"there are two sets called {twice!r}: rename one, or leave one of the attacks out")
        splits = get_args(Split)
        taken = {*splits, *(_attacked_name(split, attack) for split in splits for attack in self.attacks)}
        if (name := next((name for name in names if name in taken), None)) is not None:
            raise ValueError(
                f"a set can't be called {name!r}: the report calls the evaluated split or an attack on it so"
            )
        if any(one.two_way for one in self.anomalies):
            raise ValueError("two_way would have no effect on anomalies, which have no labels")
        if self.changed("entailment") and not any(one.two_way for one in self._sets()):
            raise ValueError("entailment would have no effect: no set is `two_way`")
        if 0 < self.draws < _FEWEST_DRAWS:
            raise ValueError(f"draws is 0, which leaves intervals out, or at least {_FEWEST_DRAWS}")
        return self

    def _sets(self) -> list[RobustnessSet]:
        return [*self.in_distribution, *self.shift, *self.adversarial, *self.anomalies]

    def sources(self) -> list[DataSettings]:
        """Everything the suite reads beside the evaluated split."""
        return [one.data for one in self._sets()]

    def check(self, data: DataSettings) -> None:
        from luthier.data.loading import load_data
        from luthier.data.stated import stated_task

        self._check_attacks(as_text=data.as_text)
        known = None if data.labels else load_data(data)
        labels, task = data.labels or (known.labels if known else []), known.schema.name if known else stated_task(data)
        if not labels:
            return  # no task of classes, which `schemas` refuses
        self._entailment_of(labels)
        for one in self._sets():
            self._read(one, labels, task, labelled=one not in self.anomalies)

    def run(self, subject: Subject) -> SuiteResult:
        from luthier.robustness.report import EvaluationSet, RobustnessReport, sections

        self._check_attacks(as_text=subject.task.form is not None)
        inside, shift, adversarial = (
            [self._load(subject, one) for one in sets] for sets in (self.in_distribution, self.shift, self.adversarial)
        )
        anomalies = [self._load(subject, one, labelled=False) for one in self.anomalies]
        # Only now, since it takes time and a row of a set may be too long.
        self.check_count(f"the split {subject.split!r}", len(subject.predictions.labels))
        evaluated = EvaluationSet(subject.split, subject.rows, subject.predictions.labels)
        attacked = [self._attacked(subject, attack) for attack in self.attacks]
        report = RobustnessReport(
            in_distribution=[*inside, evaluated],
            shift=shift,
            adversarial=[*adversarial, *(one.after for one in attacked)],
            anomalies=anomalies,
            bins=self.bins,
            binning=self.binning,
            ece_temperature=self.ece_temperature,
            entailment=self._entailment_of(subject.task.labels),
            draws=self.draws,
            seed=ROW_SEED,
        )
        found = report.run(lambda rows: _logits(subject, rows))
        found["settings"] |= {"select_on": self.select_on, "entailment": self.entailment}
        shown = sections(found["perspectives"], found["sets"], found["anomalies"])
        if attacked:
            found["attacks"] = [one.record(found["sets"]) for one in attacked]
            shown.append(attack_section(attacked, found["attacks"]))
        return SuiteResult(
            scores={SCORE_NAMES[p]: v for p, v in found["perspectives"].items()},
            intervals={SCORE_NAMES[p]: (v[0], v[1]) for p, v in found["intervals"].items()},
            details={"robustness": {k: v for k, v in found.items() if k != "sections"}},
            sections=shown,
        )

    def _entailment_of(self, labels: Sequence[str]) -> int:
        """Id of the class that two-way sets keep apart; 0 where no set is two-way."""
        if self.entailment in labels:
            return list(labels).index(self.entailment)
        if any(one.two_way for one in self._sets()):
            raise RecipeError(
                f"a set is two-way, and the model has no class {self.entailment!r}",
                fix=f"name the class with `entailment`; the model's are: {', '.join(labels)}",
            )
        return 0

    @classmethod
    def across(cls, found: Mapping[str, Sequence[Any]], baseline: str) -> list[Section]:
        """The five scores of every line, means over seeds, with both aggregates and the mean rank."""
        from luthier.robustness.report import compare, compared_section

        means = {
            line: {
                side: sum(one["perspectives"][side] for one in seeds) / len(seeds) for side in seeds[0]["perspectives"]
            }
            for line, seeds in found.items()
        }
        rows = compare({line: {"perspectives": m} for line, m in means.items()}, baseline)["rows"]
        return [compared_section(rows, baseline)]

    def _read(
        self,
        one: RobustnessSet,
        labels: Sequence[str],
        judged: str | None,
        *,
        labelled: bool,
        trained: TrainedOn | None = None,
    ) -> tuple[TaskData, str]:
        """The data of a set, and the split that counts; `judged` is the task of the evaluated split, where it is
        known."""
        from luthier.data.loading import load_data

        changes: dict[str, Any] = {"labels": list(labels)} if labelled else {"labelled": False}
        task = load_data(one.data.model_copy(update=changes), trained=trained)
        wanted = [one.split] if one.split else ["test", "validation", "train"]
        split = next((s for s in wanted if s in task.splits and len(task.splits[s])), None)
        if split is None:
            asked = f"no {one.split} split" if one.split else "no rows"
            raise DataError(f"the set {one.name!r} has {asked}; it has {', '.join(task.splits)}")
        if labelled and "label" not in task.splits[split].column_names:
            raise DataError(
                f"the set {one.name!r} has no labels",
                fix="name the column with `label: COLUMN` in its `data`; rows without labels go under `anomalies`",
            )
        if labelled and judged is not None and task.schema.name != judged:
            raise DataError(
                f"the set {one.name!r} is read as task {task.schema.name}, and the model is judged on {judged}",
                fix=f"set `task: {judged}` in its `data`, and name its columns, as in `text: COLUMN`",
            )
        if not labelled and judged is not None and not _same_texts(task.schema, SCHEMAS[judged]):
            raise DataError(
                f"the set {one.name!r} is read as task {task.schema.name}, whose rows are not what a model for "
                f"{judged} is shown",
                fix=f"set `task: {judged}` in its `data`, and name its columns, as in `text: COLUMN`",
            )
        if labelled:
            self.check_count(f"the set {one.name!r}", len(task.splits[split]))
        return task, split

    def _check_attacks(self, *, as_text: bool) -> None:
        if self.attacks and as_text:
            raise RecipeError(
                "attacks at run time read a classification head, and the model answers in text",
                fix="leave `attacks` out of the robustness suite; sets under `adversarial` work",
            )
        for attack in self.attacks:
            self.check_count(f"the attack {attack.title!r}", attack.rows)

    def fewest_rows(self) -> tuple[int, str]:
        from luthier.robustness.metrics import FOLDS

        return (0, "") if self.ece_temperature == "none" else (FOLDS, f"ece_temperature: {self.ece_temperature}")

    def _load(self, subject: Subject, one: RobustnessSet, *, labelled: bool = True) -> EvaluationSet:
        import numpy as np

        from luthier.models.trained_columns import trained_on
        from luthier.robustness.report import EvaluationSet

        trained = trained_on(subject.card)
        task, split = self._read(one, subject.task.labels, subject.task.schema.name, labelled=labelled, trained=trained)
        rows = subject.encode(task, split, named=f"set {one.name!r}", too_long=one.data.too_long)
        labels = np.asarray(task.splits[split]["label"], dtype=int) if labelled else None
        return EvaluationSet(one.name, rows, labels, one.two_way)

    def _attacked(self, subject: Subject, attack: AttackSettings) -> Attacked:
        import numpy as np

        from luthier.robustness.attacks.run import attacked_texts
        from luthier.robustness.report import EvaluationSet

        everything = subject.task.splits[subject.split]
        chosen = drawn_rows(len(everything), attack.rows, attack.seed)
        rows = everything.select(chosen)
        columns = [rows[c] for c in ("text", "text_pair") if c in rows.column_names]
        texts = [t[0] if len(t) == 1 else t for t in zip(*columns, strict=True)]
        labels = np.asarray(rows["label"], dtype=int)
        scorer = _scorer(subject)
        changed = attacked_texts(
            texts, labels, scorer, kind=attack.kind, rate=attack.rate, order=attack.order, seed=subject.seed
        )
        tried, cut = scorer.truncated, scorer.count_too_long(changed)
        if cut or tried:
            logger.warning(
                "%s: %d of %d changed texts, and %d that were tried, are longer than %d tokens and are scored cut",
                *(_attacked_name(subject.split, attack), cut, len(changed), tried, scorer.max_length),
            )
        right = np.asarray(subject.predictions.logits)[chosen].argmax(axis=1) == labels
        before = float(right.mean())
        drawn = "" if len(chosen) == len(everything) else f", rows drawn by seed {attack.seed}"
        after = EvaluationSet(
            _attacked_name(subject.split, attack),
            changed,
            labels,
            made_from=f"{subject.split}{drawn}",
            before=before,
        )
        return Attacked(after, texts, before, cut, tried)


def _same_texts(schema: TaskSchema, judged: TaskSchema) -> bool:
    """Whether rows of a task can be put to a model for another, a row each: single texts and pairs can, either way."""
    return schema.name == judged.name or (not schema.packed and "text" in schema.columns and "text" in judged.columns)


def _attacked_name(split: str, attack: AttackSettings) -> str:
    return f"{split} under {attack.title}"


def drawn_rows(rows: int, wanted: int, seed: int) -> list[int]:
    """Numbers of so many rows, drawn without replacement, in the order of the split; all where there are no more."""
    import numpy as np

    if wanted >= rows:
        return list(range(rows))
    return sorted(np.random.default_rng(seed).choice(rows, wanted, replace=False).tolist())


@dataclass(frozen=True)
class Attacked:
    """What an attack made of some rows of the evaluated split.

    Attributes:
        after: the changed rows.
        before: the same rows as they were.
        clean_accuracy: on these.
        cut: how many changed rows are longer than the model takes, and are scored without their ends.
        tried_cut: how often that befell a text that the attack tried on its way.
    """

    after: EvaluationSet
    before: Sequence[Any]
    clean_accuracy: float
    cut: int = 0
    tried_cut: int = 0

    def record(self, sets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Rows, how many of them changed, and accuracy before and after."""
        changed = sum(a != b for a, b in zip(self.before, self.after.texts, strict=True))
        scored = next(one for one in sets if one["name"] == self.after.name)
        return {
            "name": self.after.name,
            "rows": len(self.before),
            "changed": changed,
            "clean_accuracy": self.clean_accuracy,
            "accuracy": scored["accuracy"],
            "cut": self.cut,
            "tried_cut": self.tried_cut,
        }


def attack_section(attacked: Sequence[Attacked], records: Sequence[Mapping[str, Any]]) -> Section:
    """Accuracy before and after, and some rows as they were and as they became."""
    samples = [
        {"attack": one.after.name, "before": _text(before), "after": _text(after)}
        for one in attacked
        for before, after in [(b, a) for b, a in zip(one.before, one.after.texts, strict=True) if a != b][:5]
    ]
    text = "The same rows of the evaluated split before and after each attack; below, the first ones it changed."
    for r in records:
        if r["cut"] or r["tried_cut"]:
            text += f" {r['name']}: {r['cut']} changed texts, and {r['tried_cut']} that the attack tried, are longer "
            text += "than the model takes and were scored without their ends."
    return Section(
        "Robustness: attacks",
        text=text,
        table=SectionTable(
            ["attack", "rows", "changed", "accuracy before", "accuracy after"],
            [[r["name"], r["rows"], r["changed"], r["clean_accuracy"], r["accuracy"]] for r in records],
        ),
        samples=samples,
    )


def _text(row: Any) -> str:
    return row if isinstance(row, str) else " / ".join(row)


def _scorer(subject: Subject) -> Any:
    from luthier.robustness.scoring import Scorer

    return Scorer(
        subject.model,
        subject.tokenizer,
        batch_size=subject.batch_size,
        max_length=subject.card.max_length,
        reserved=subject.card.reserved_tokens,
    )


def _logits(subject: Subject, rows: Any) -> Any:
    if rows is subject.rows:
        return subject.predictions.logits
    return _scorer(subject)(rows) if isinstance(rows, list) else subject.predict(rows).logits
