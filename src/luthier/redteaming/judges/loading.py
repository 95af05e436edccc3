"""From a recipe's words to a judge."""

from __future__ import annotations

from typing import Any

from luthier.redteaming.judges.base import Judge
from luthier.redteaming.judges.labelled import read_labelled
from luthier.redteaming.judges.settings import (
    ClassifierJudgeSettings,
    EnsembleJudgeSettings,
    GuardJudgeSettings,
    RewardJudgeSettings,
    RuleJudgeSettings,
)


def load_judge(settings: Any, *, cut_off: bool = False) -> Judge:
    """The judge that settings name. Its model is loaded when it is first asked.

    Args:
        settings: one of the kinds of `luthier.redteaming.judges.settings`, or a mapping of one.
        cut_off: whether it scores answers that were cut off.

    Raises:
        ModelError: its model can't be found.
        DataError: the rows that it is fitted on can't be read.
    """
    if isinstance(settings, str | dict):
        from pydantic import TypeAdapter

        from luthier.redteaming.judges.settings import JudgeSettings

        settings = TypeAdapter(JudgeSettings).validate_python(settings)
    judge = _made(settings)
    for one in (judge, *getattr(judge, "members", ())):
        one.judges_cut_off = cut_off
    return judge


def _made(settings: Any) -> Judge:
    if isinstance(settings, RuleJudgeSettings):
        from luthier.redteaming.judges.rules import RuleJudge

        return RuleJudge(settings)
    if isinstance(settings, EnsembleJudgeSettings):
        from luthier.redteaming.judges.ensemble import EnsembleJudge

        return EnsembleJudge([_made(one) for one in settings.members], settings.combine)
    from luthier.redteaming.judges.models import ClassifierJudge, GuardJudge, RewardJudge

    if isinstance(settings, ClassifierJudgeSettings):
        return ClassifierJudge(settings)
    if isinstance(settings, GuardJudgeSettings):
        return GuardJudge(settings)
    assert isinstance(settings, RewardJudgeSettings)
    judge = RewardJudge(settings)
    if settings.fit is not None:
        rows = read_labelled(settings.fit)
        judge.fit([r.prompt for r in rows], [r.answer for r in rows], [r.good for r in rows])
    return judge
