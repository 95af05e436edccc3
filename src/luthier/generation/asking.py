"""Asks models of any back end, and keeps every text as it comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.generation.loaded import LoadedModels
from luthier.generation.records import Appending, Record
from luthier.generation.settings import Backend, EndpointSettings, VllmSettings
from luthier.generation.writing import Request, Writer, Written, text_id, whole
from luthier.models.settings import ModelSettings


class Asking:
    """All that writes for a stage: models in memory, and one budget for each model behind an endpoint.

    Args:
        folder: where budgets are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.models = folder, LoadedModels()
        self._budgets: dict[tuple[str, str], Any] = {}

    def writer_of(self, backend: Backend, model: ModelSettings, about: str) -> Writer:
        """What writes with a model.

        Args:
            backend: what it runs on.
            model: not asked for behind an endpoint, which names its own.
            about: of the progress bar.

        Raises:
            ModelError: the model can't be loaded, or the back end is not installed.
        """
        if isinstance(backend, EndpointSettings):
            from luthier.generation.endpoint import Budget, Endpoint

            name = backend.address
            if name not in self._budgets:
                self._budgets[name] = Budget(backend, self.folder / "spent" / f"{text_id(*name)}.json")
            return Endpoint(backend, self._budgets[name])
        if isinstance(backend, VllmSettings):
            from luthier.generation.vllm_writer import VllmWriter

            self.models.release()
            return VllmWriter(model, backend)
        from luthier.generation.rollout import Rollout

        loaded, tokenizer, reserved = self.models.get(model)
        return Rollout(loaded, tokenizer, batch_size=backend.batch_size, reserved=reserved, description=about)

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
                kept.add([_record(one, by_id[one.id], extra.get(one.id, {})) for one in part])
        return kept.finish([one.id for one in requests])


def _record(one: Written, request: Request, extra: Mapping[str, Any]) -> Record:
    sampling = {"temperature": request.temperature, "top_p": request.top_p, "seed": request.seed}
    return {
        "id": one.id,
        **extra,
        "text": whole(one.text),
        "cut_off": one.cut_off,
        "tokens": one.tokens,
        "sampling": sampling,
    }
