"""The `robustness` suite of the evaluate stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.data.settings import DataSettings
from luthier.evaluation.subject import Subject, Suite, SuiteResult
from luthier.registry import SUITES
from luthier.robustness.settings import ROAST_PAPER
from luthier.settings import Paper, Settings

if TYPE_CHECKING:
    from luthier.robustness.report import EvaluationSet

SCORE_NAMES = {
    "accuracy": "robustness/accuracy",
    "shift": "robustness/shift_accuracy",
    "adversarial": "robustness/adversarial_accuracy",
    "calibration": "robustness/expected_calibration_error",
    "anomaly": "robustness/anomaly_auroc",
}


class RobustnessSet(Settings):
    """One data set of the report."""

    name: str = Field(description="What the report calls it.")
    data: DataSettings = Field(description="Where the rows come from; `label_map` takes its labels to the model's.")
    split: Literal["train", "validation", "test"] | None = Field(
        None, description="Which split is scored; null is test where there is one, else validation, else train."
    )
    two_way: bool = Field(
        False, description="An entailment set without a neutral class: all classes but `entailment` count as one."
    )


class AttackSettings(Settings):
    """Changes the evaluated split itself, at run time, into one more adversarial set."""

    kind: Literal["characters", "rewrites", "substitution"] = Field(
        description="Typing errors, rewrites by rule that keep the meaning, or word substitutions chosen "
        "against the model."
    )
    rows: int = Field(200, gt=0, description="Rows to change, from the start of the split.")
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


@SUITES.register
class RobustnessSuite(Suite):
    """Accuracy, distribution shift, adversarial sets, calibration and anomaly detection, side by side."""

    name: Literal["robustness"] = "robustness"
    summary: ClassVar[str] = "five scores: accuracy, shift, adversarial, calibration, anomaly detection"
    paper: ClassVar[Paper | None] = ROAST_PAPER
    schemas: ClassVar[tuple[str, ...] | None] = ("single_sentence", "pair")
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
    entailment: int = Field(0, ge=0, description="Id of the class that two-way sets keep apart.")
    draws: int = Field(1000, ge=0, description="Bootstrap draws behind the intervals; 0 leaves intervals out.")
    select_on: Literal["held_out", "reported"] = Field(
        "held_out",
        description="Whether the checkpoint was chosen on rows outside this report or, as in the paper, on rows in it; "
        "recorded with the scores.",
    )

    def sources(self) -> list[DataSettings]:
        """Everything the suite reads beside the evaluated split."""
        return [one.data for one in [*self.in_distribution, *self.shift, *self.adversarial, *self.anomalies]]

    def run(self, subject: Subject) -> SuiteResult:
        from luthier.robustness.report import EvaluationSet, RobustnessReport

        evaluated = EvaluationSet(subject.split, subject.rows, subject.predictions.labels)
        report = RobustnessReport(
            in_distribution=[*(self._load(subject, s) for s in self.in_distribution), evaluated],
            shift=[self._load(subject, s) for s in self.shift],
            adversarial=[
                *(self._load(subject, s) for s in self.adversarial),
                *(self._attacked(subject, a) for a in self.attacks),
            ],
            anomalies=[self._load(subject, s, labelled=False) for s in self.anomalies],
            bins=self.bins,
            binning=self.binning,
            ece_temperature=self.ece_temperature,
            entailment=self.entailment,
            draws=self.draws,
            seed=subject.seed,
        )
        found = report.run(lambda rows: _logits(subject, rows))
        found["settings"]["select_on"] = self.select_on
        return SuiteResult(
            scores={SCORE_NAMES[p]: v for p, v in found["perspectives"].items()},
            intervals={SCORE_NAMES[p]: (v[0], v[1]) for p, v in found["intervals"].items()},
            details={"robustness": {k: v for k, v in found.items() if k != "sections"}, "sections": found["sections"]},
        )

    @classmethod
    def across(cls, found: Mapping[str, Sequence[Any]], baseline: str) -> list[dict[str, Any]]:
        """The five scores of every line, means over seeds, with both aggregates and the mean rank."""
        from luthier.robustness.report import compare

        means = {
            line: {
                side: sum(one["perspectives"][side] for one in seeds) / len(seeds) for side in seeds[0]["perspectives"]
            }
            for line, seeds in found.items()
        }
        made: list[dict[str, Any]] = compare({line: {"perspectives": m} for line, m in means.items()}, baseline)[
            "sections"
        ]
        return made

    def _load(self, subject: Subject, one: RobustnessSet, *, labelled: bool = True) -> EvaluationSet:
        from luthier.data.loading import load_data
        from luthier.errors import DataError
        from luthier.robustness.report import EvaluationSet

        changes: dict[str, Any] = {"labels": list(subject.task.labels)} if labelled else {"labelled": False}
        task = load_data(one.data.model_copy(update=changes))
        wanted = [one.split] if one.split else ["test", "validation", "train"]
        split = next((s for s in wanted if s in task.splits), None)
        if split is None:
            raise DataError(f"the set {one.name!r} has no {one.split} split; it has {', '.join(task.splits)}")
        rows = subject.encode(task, split)
        labels = None
        if labelled:
            import numpy as np

            labels = np.asarray(task.splits[split]["label"], dtype=int)
        return EvaluationSet(one.name, rows, labels, one.two_way)

    def _attacked(self, subject: Subject, attack: AttackSettings) -> EvaluationSet:
        import numpy as np

        from luthier.errors import RecipeError
        from luthier.robustness.attacks.run import attacked_texts
        from luthier.robustness.report import EvaluationSet

        if subject.task.form is not None:
            raise RecipeError(
                "attacks at run time read a classification head, and the model answers in text",
                fix="leave `attacks` out of the robustness suite; sets under `adversarial` work",
            )
        rows = subject.task.splits[subject.split].select(
            range(min(attack.rows, len(subject.task.splits[subject.split])))
        )
        columns = [rows[c] for c in ("text", "text_pair") if c in rows.column_names]
        texts = [t[0] if len(t) == 1 else t for t in zip(*columns, strict=True)]
        labels = np.asarray(rows["label"], dtype=int)
        scorer = _scorer(subject)
        changed = attacked_texts(
            texts, labels, scorer, kind=attack.kind, rate=attack.rate, order=attack.order, seed=subject.seed
        )
        return EvaluationSet(f"{subject.split} under {attack.kind}", changed, labels)


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
