"""What a judge is: it scores answers, and says so where it can't."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

Status = Literal["ok", "empty", "truncated", "error"]


@dataclass(frozen=True)
class Judgement:
    """What a judge says of one answer.

    Attributes:
        score: in [0, 1], higher is better; None unless the status is `ok`.
        status: `empty` and `truncated` answers look safe and are not scored; `error` is the judge's own failure.
        raw: what the judge's model gave before it became a score.
        judge, version: who said it; thresholds hold for one version.
    """

    score: float | None
    status: Status
    raw: float | None = None
    judge: str = ""
    version: str = ""


class Judge:
    """Scores (prompt, answer) pairs. A subclass defines `rate`, `kind` and `version`.

    Attributes:
        kind: of judge, as recipes call it.
        version: a digest of the settings, of the weights, of how they are asked and of what the scores are fitted on.
        judges_cut_off: whether answers that were cut off are scored like others.
        uses_model: whether it needs memory for a model.
    """

    kind: ClassVar[str] = ""
    version: str = ""
    judges_cut_off: bool = False
    uses_model: bool = False

    def rate(self, prompts: Sequence[str], answers: Sequence[str]) -> list[tuple[float, float]]:
        """(score, raw value) of N pairs; a score that is not finite means that the judge failed on the pair."""
        raise TypeError(f"{type(self).__name__} does not define rate()")

    def score(
        self, prompts: Sequence[str], answers: Sequence[str], cut_off: Sequence[bool] | None = None
    ) -> list[Judgement]:
        """Judge N pairs.

        Args:
            prompts, answers: the pairs.
            cut_off: of each answer, whether it ended because no more tokens were allowed; null is none of them.
        """
        cut = list(cut_off) if cut_off is not None else [False] * len(answers)
        status: list[Status] = [self._status(answer, ends) for answer, ends in zip(answers, cut, strict=True)]
        places = [i for i, one in enumerate(status) if one == "ok"]
        found = self.rate([prompts[i] for i in places], [answers[i] for i in places]) if places else []
        rated = dict(zip(places, found, strict=True))
        return [self._judgement(one, rated.get(i)) for i, one in enumerate(status)]

    def _status(self, answer: str, cut_off: bool) -> Status:
        if not answer.strip():
            return "empty"
        return "truncated" if cut_off and not self.judges_cut_off else "ok"

    def _judgement(self, status: Status, rated: tuple[float, float] | None) -> Judgement:
        if rated is None:
            return Judgement(None, status, None, self.kind, self.version)
        score, raw = rated
        if not math.isfinite(score):
            return Judgement(None, "error", None, self.kind, self.version)
        return Judgement(min(1.0, max(0.0, score)), "ok", raw, self.kind, self.version)

    def parts(self) -> Iterator[Judge]:
        """The judges that it asks: itself, where it does not combine others."""
        yield self

    def release(self) -> None:
        """Let go of models in memory; the next call loads them again."""
