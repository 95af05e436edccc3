"""Asks models and judges, and keeps every answer as it comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.errors import WorkspaceError
from luthier.models.settings import ModelSettings
from luthier.redteaming.judges.base import Judge, Judgement
from luthier.redteaming.loaded import LoadedModels
from luthier.redteaming.records import Appending, Record
from luthier.redteaming.seeds import text_id
from luthier.redteaming.settings import EndpointSettings, MartSettings, Side, VllmSettings
from luthier.redteaming.wording import whole
from luthier.redteaming.writing import Request, Writer

# Answers that are judged before they are written down.
_TOGETHER = 256


class Asking:
    """All that writes in a loop: models in memory, endpoints with one budget each, and a count of what was written.

    Args:
        settings: of the loop.
        folder: of the loop, where budgets are kept.
    """

    def __init__(self, settings: MartSettings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.models = LoadedModels()
        self.generations = 0
        self._budgets: dict[str, Any] = {}

    def writer(self, side: Side, model: ModelSettings, about: str) -> Writer:
        """What writes for a side."""
        backend = side.backend
        if isinstance(backend, EndpointSettings):
            from luthier.redteaming.endpoint import Budget, Endpoint

            if backend.url not in self._budgets:
                place = self.folder / "spent" / f"{text_id(backend.url)}.json"
                self._budgets[backend.url] = Budget(backend, place)
            return Endpoint(backend, self._budgets[backend.url])
        if isinstance(backend, VllmSettings):
            from luthier.redteaming.vllm_writer import VllmWriter

            self.models.release()
            return VllmWriter(model, backend)
        from luthier.redteaming.rollout import Rollout

        loaded, tokenizer, reserved = self.models.get(model)
        return Rollout(loaded, tokenizer, batch_size=backend.batch_size, reserved=reserved, description=about)

    def make_room(self, judges: Mapping[str, Judge]) -> None:
        """Let go of the models that write where a judge has a model of its own."""
        if any(judge.uses_model for judge in judges.values()):
            self.models.release()

    def write(
        self,
        path: Path,
        requests: Sequence[Request],
        writer: Callable[[], Writer],
        max_new_tokens: int,
        extra: Mapping[str, Mapping[str, Any]],
    ) -> list[Record]:
        """Records of all requests, in their order; those that a stopped run left there are not asked again.

        Args:
            path: of the records.
            requests: what is asked.
            writer: makes the back end, if there is anything to ask.
            max_new_tokens: of each text.
            extra: id -> more fields of its record.

        Raises:
            WorkspaceError: the stage may not write as much.
        """
        kept = Appending(path)
        by_id = {one.id: one for one in requests}
        if any(one not in kept.ids for one in by_id):
            for part in writer().write(requests, max_new_tokens, kept.ids):
                kept.add([self._record(one, by_id[one.id], extra.get(one.id, {})) for one in part])
        return kept.finish([one.id for one in requests])

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

    @staticmethod
    def _record(one: Any, request: Request, extra: Mapping[str, Any]) -> Record:
        sampling = {"temperature": request.temperature, "top_p": request.top_p, "seed": request.seed}
        return {
            "id": one.id,
            **extra,
            "text": whole(one.text),
            "cut_off": one.cut_off,
            "tokens": one.tokens,
            "sampling": sampling,
        }


def judged(
    path: Path, judges: Mapping[str, Judge], answers: Sequence[Record], prompts: Mapping[str, str]
) -> list[Record]:
    """What judges say of answers, kept as it comes: one record an answer, with a mapping for each judge.

    Args:
        path: of the records.
        judges: role -> judge.
        answers: records with `id`, `prompt` (an id), `text` and `cut_off`.
        prompts: id of a prompt -> its text.
    """
    kept = Appending(path)
    for start in range(0, len(answers), _TOGETHER):
        part = answers[start : start + _TOGETHER]
        if all(one["id"] in kept.ids for one in part):
            continue
        asked, said = [prompts[one["prompt"]] for one in part], [one["text"] for one in part]
        cut = [bool(one["cut_off"]) for one in part]
        found = {role: judge.score(asked, said, cut) for role, judge in judges.items()}
        kept.add(
            [
                {"id": one["id"], "prompt": one["prompt"], **{role: _plain(rows[i]) for role, rows in found.items()}}
                for i, one in enumerate(part)
            ]
        )
    return kept.finish([one["id"] for one in answers])


def _plain(one: Judgement) -> dict[str, Any]:
    score = None if one.score is None else round(one.score, 6)
    raw = None if one.raw is None else round(one.raw, 6)
    return {"score": score, "status": one.status, "raw": raw, "judge": one.judge, "version": one.version}
