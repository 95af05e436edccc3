"""Does the model know when it is right?"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.data.schemas import LabelKind
from luthier.evaluation.subject import Subject, Suite, SuiteResult
from luthier.registry import SUITES
from luthier.report.sections import Reliability, Section, section_of
from luthier.settings import Paper

_DRAWS = 1000


@SUITES.register
class CalibrationSuite(Suite):
    """Expected calibration error, Brier score, and the bins of a reliability diagram."""

    name: Literal["calibration"] = "calibration"
    summary: ClassVar[str] = "expected calibration error, Brier score and a reliability diagram"
    paper: ClassVar[Paper | None] = Paper(
        title="On Calibration of Modern Neural Networks",
        authors="Guo, Pleiss, Sun, Weinberger",
        venue="ICML 2017",
        url="https://arxiv.org/abs/1706.04599",
    )
    label_kinds: ClassVar[tuple[LabelKind | None, ...] | None] = ("class", "choice")
    needs_probabilities: ClassVar[bool] = True

    bins: int = Field(10, ge=2, description="Bins of confidence.")
    binning: Literal["equal_width", "equal_mass"] = Field(
        "equal_width", description="Bins of equal width, or with equal numbers of rows."
    )

    def run(self, subject: Subject) -> SuiteResult:
        from dataclasses import asdict

        from luthier.evaluation.calibration import (
            brier_score,
            error_of_draws,
            expected_calibration_error,
            reliability_bins,
        )
        from luthier.evaluation.metrics import percentiles
        from luthier.evaluation.resampling import resampled
        from luthier.report.intervals import ROW_SEED, never_exact

        probabilities, labels = subject.predictions.probabilities, subject.predictions.labels.astype(int)
        confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
        error = expected_calibration_error(confidence, correct, self.bins, self.binning)
        statistic = {"error": error_of_draws(confidence, correct, self.bins, self.binning)}
        drawn = resampled(statistic, len(labels), draws=_DRAWS, seed=ROW_SEED)
        interval = never_exact(percentiles(drawn["error"], centre=error), None) if drawn else None
        bins = reliability_bins(confidence, correct, self.bins, self.binning)
        return SuiteResult(
            scores={
                "expected_calibration_error": error,
                "brier_score": brier_score(probabilities, labels),
            },
            intervals={"expected_calibration_error": interval} if interval else {},
            details={"calibration": {"binning": self.binning, "bins": [asdict(b) for b in bins]}},
        )

    @classmethod
    def shown(cls, details: Any) -> list[Section]:
        plot = {"kind": Reliability.kind, "bins": details.get("bins")}
        return [section_of({"title": "Reliability: accuracy against confidence", "plot": plot})] if plot["bins"] else []
