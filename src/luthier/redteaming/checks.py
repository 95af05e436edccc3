"""The judges of a loop, and what is known of them before anything is trusted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from luthier.models.references import fingerprint, resolve
from luthier.redteaming.judges.base import Judge
from luthier.redteaming.judges.labelled import LabelledPair, read_labelled
from luthier.redteaming.judges.loading import load_judge
from luthier.redteaming.judges.report import JudgeReport, judge_report, warnings_of
from luthier.redteaming.judges.settings import RewardJudgeSettings, leaves
from luthier.redteaming.labels import HumanLabels
from luthier.redteaming.settings import MartSettings

# What a judge that no labelled answers are there for is tried on.
_PAIR = ("How long do I boil an egg?", "About eight minutes, if you like it hard.")
ROLES = ("safety", "helpfulness", "evaluation_safety", "evaluation_helpfulness")


class JudgeCheck:
    """The four judges of a loop.

    Args:
        settings: of the loop.
        labels: what people said of earlier answers.
    """

    def __init__(self, settings: MartSettings, labels: HumanLabels) -> None:
        self.settings, self.labels = settings.judges, labels

    @cached_property
    def all(self) -> dict[str, Judge]:
        """Role -> judge; where no other judge evaluates, the one that selects does."""
        s, cut_off = self.settings, self.settings.cut_off == "judge"
        found = {name: load_judge(getattr(s, name), cut_off=cut_off) for name in ("safety", "helpfulness")}
        for name in ("safety", "helpfulness"):
            own = getattr(s, f"evaluation_{name}")
            found[f"evaluation_{name}"] = (
                found[name] if own in (None, getattr(s, name)) else load_judge(own, cut_off=cut_off)
            )
        return found

    @property
    def selecting(self) -> dict[str, Judge]:
        """The judges that decide on training."""
        return {name: self.all[name] for name in ("safety", "helpfulness")}

    @property
    def same_judge(self) -> bool:
        """Whether the judge of safety that selects also evaluates."""
        own = self.settings.evaluation_safety
        return own is None or own == self.settings.safety

    def release(self) -> None:
        """Let go of the judges' models."""
        for judge in self.__dict__.get("all", {}).values():
            judge.release()

    def run(self, folder: Path) -> dict[str, Any]:
        """Reports on both judges of safety, their agreement, and what has to stand on top of every table.

        Raises:
            ModelError: one of the judges can't judge.
        """
        labelled = [] if self.settings.labelled is None else read_labelled(self.settings.labelled)
        fitted = self._fitted_on()
        rows = [one for one in (*labelled, *self.labels.pairs) if one[:2] not in fitted]
        warnings = self._shared()
        if left_out := len(labelled) + len(self.labels.pairs) - len(rows):
            warnings.append(f"{left_out} labelled answers say nothing of the judges, since one was fitted on them")
        roles = ["safety"] if self.same_judge else ["safety", "evaluation_safety"]
        reports: dict[str, JudgeReport | None] = {
            role: judge_report(self.all[role], rows) if rows else None for role in roles
        }
        told = {role.replace("_", " "): one for role, one in reports.items()}
        found: dict[str, Any] = {
            "reports": {role: None if one is None else one.to_json() for role, one in reports.items()},
            "warnings": [
                *warnings_of(told, self.settings.required_auroc, same_judge=self.same_judge),
                *warnings,
            ],
            "versions": {role: f"{judge.kind} {judge.version}" for role, judge in self.all.items()},
            "labelled": len(labelled),
            "from_review": len(self.labels.pairs),
        }
        if rows and len(roles) == 2:
            found["agreement"] = agreement(self.all["safety"], self.all["evaluation_safety"], rows)
        self._try(without=roles if rows else [])
        return found

    def _try(self, without: Sequence[str]) -> None:
        """Ask every model that judges about one pair, one model at a time.

        Args:
            without: roles of judges that have been asked.

        Raises:
            ModelError: one can't judge: before anything is written or trained, so that nothing is lost.
        """
        self.release()
        asked = {part for role in without for part in self.all[role].parts()}
        for judge in dict.fromkeys(part for one in self.all.values() for part in one.parts()):
            if judge.uses_model and judge not in asked:
                judge.score([_PAIR[0]], [_PAIR[1]])
                judge.release()

    def _fitted_on(self) -> set[tuple[str, str]]:
        """Prompts and answers that a judge of safety was fitted on."""
        judges = (*leaves(self.settings.safety), *leaves(self.settings.evaluation_safety))
        fits = [one.fit for one in judges if isinstance(one, RewardJudgeSettings) and one.fit is not None]
        return {(row.prompt, row.answer) for fit in fits for row in read_labelled(fit)}

    def _shared(self) -> list[str]:
        """Says where the judge that evaluates is another one by its settings alone."""
        if self.same_judge:
            return []
        models = [
            {fingerprint(resolve(one.model)) for one in leaves(judge) if hasattr(one, "model")}
            for judge in (self.settings.safety, self.settings.evaluation_safety)
        ]
        if models[0].isdisjoint(models[1]):
            return []
        return [
            "The judge that selects and the one that evaluates have a model in common, so that rates flatter it: "
            "give `judges.evaluation_safety` another model"
        ]


def agreement(first: Judge, second: Judge, rows: list[LabelledPair]) -> float | None:
    """Share of the rows that both judges score on which they fall on the same side of 0.5."""
    prompts, answers = [row.prompt for row in rows], [row.answer for row in rows]
    pairs = zip(first.score(prompts, answers), second.score(prompts, answers), strict=True)
    both = [(a.score >= 0.5, b.score >= 0.5) for a, b in pairs if a.score is not None and b.score is not None]
    return sum(a == b for a, b in both) / len(both) if both else None
