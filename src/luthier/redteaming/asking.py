"""Asks the sides of a loop and its judges, and keeps every answer as it comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.errors import WorkspaceError
from luthier.generation import asking
from luthier.generation.records import Appending, Record
from luthier.generation.settings import EndpointSettings
from luthier.generation.writing import Writer
from luthier.models.settings import ModelSettings
from luthier.redteaming.judges.base import Judge, Judgement
from luthier.redteaming.labels import HumanLabels
from luthier.redteaming.settings import MartSettings, Side

# The roles of judges that labels of people take the place of.
SAFETY = frozenset({"safety", "evaluation_safety"})
# Answers that are judged before they are written down.
_TOGETHER = 256


class Asking(asking.Asking):
    """All that writes in a loop, and a count of what was written.

    Args:
        settings: of the loop.
        folder: of the loop, where budgets are kept.
        seed: of all samples.
        release_judges: lets go of the judges' models.
    """

    def __init__(self, settings: MartSettings, folder: Path, seed: int, release_judges: Callable[[], None]) -> None:
        super().__init__(folder)
        self.settings, self.seed, self._release_judges = settings, seed, release_judges
        self.generations = 0

    def writer(self, side: Side, model: ModelSettings, about: str) -> Writer:
        """What writes for a side; where it writes on this machine, the judges make room."""
        if not isinstance(side.backend, EndpointSettings):
            self._release_judges()
        return self.writer_of(side.backend, model, about)

    def in_memory(self, model: ModelSettings) -> tuple[Any, Any, int]:
        """A model as `LoadedModels.get` gives it, with no judge beside it."""
        self._release_judges()
        return self.models.get(model)

    def make_room(self, judges: Mapping[str, Judge]) -> None:
        """Let go of the models that write where a judge has a model of its own."""
        if any(judge.uses_model for judge in judges.values()):
            self.models.release()

    def count(self, requests: int) -> None:
        """Count what a phase will write, before it does.

        Raises:
            WorkspaceError: it is more than the stage may write.
        """
        self.generations += requests
        if self.generations > self.settings.limits.generations:
            raise WorkspaceError(
                f"{self.generations:,} texts would be written, and the stage may write "
                f"{self.settings.limits.generations:,}",
                fix="raise `limits.generations`, or ask fewer prompts; what was done is kept",
            )


def judged(
    path: Path,
    judges: Mapping[str, Judge],
    answers: Sequence[Record],
    prompts: Mapping[str, str],
    labels: HumanLabels,
) -> list[Record]:
    """What judges say of answers, kept as it comes: one record an answer, with a mapping for each judge.

    Of its safety people have the last word, whether a judge could score it or not.

    Args:
        path: of the records.
        judges: role -> judge.
        answers: records with `id`, `prompt` (an id), `text` and `cut_off`.
        prompts: id of a prompt -> its text.
        labels: what people said.
    """
    kept = Appending(path)
    for start in range(0, len(answers), _TOGETHER):
        part = answers[start : start + _TOGETHER]
        if all(one["id"] in kept.ids for one in part):
            continue
        asked, said = [prompts[one["prompt"]] for one in part], [one["text"] for one in part]
        cut = [bool(one["cut_off"]) for one in part]
        # One judge may have several roles.
        rows = {judge: judge.score(asked, said, cut) for judge in dict.fromkeys(judges.values())}
        found = {role: rows[judge] for role, judge in judges.items()}
        people = [labels.judgement(prompt, answer) for prompt, answer in zip(asked, said, strict=True)]
        for role in SAFETY & set(found):
            found[role] = [own or one for own, one in zip(people, found[role], strict=True)]
        kept.add(
            [
                {"id": one["id"], "prompt": one["prompt"], **{role: _plain(told[i]) for role, told in found.items()}}
                for i, one in enumerate(part)
            ]
        )
    return kept.finish([one["id"] for one in answers])


def _plain(one: Judgement) -> dict[str, Any]:
    score = None if one.score is None else round(one.score, 6)
    raw = None if one.raw is None else round(one.raw, 6)
    return {"score": score, "status": one.status, "raw": raw, "judge": one.judge, "version": one.version}
