"""Texts from vLLM in this process. It batches and shares prefixes itself; prompts reach it as the same token ids that
the local back end reads."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from luthier.errors import ModelError
from luthier.extras import how_to_install, is_installed
from luthier.generation.rollout import prompt_ids
from luthier.generation.settings import VllmSettings
from luthier.generation.writing import Request, Written
from luthier.models.adapters import ADAPTER_CONFIG, base_settings, is_adapter
from luthier.models.card import read_card
from luthier.models.inspect import model_max_length
from luthier.models.loading import load_config, load_tokenizer, local_folder
from luthier.models.references import resolve
from luthier.models.settings import ModelSettings
from luthier.models.tensors import read_json

_PART = 256


class VllmWriter:
    """Writes with vLLM; see `luthier.generation.writing.Writer`.

    Args:
        model: a model or a LoRA adapter on one.
        settings: how much memory it may take.

    Raises:
        ModelError: vLLM is not installed, or the adapter is of a kind that it can't serve.
    """

    def __init__(self, model: ModelSettings, settings: VllmSettings) -> None:
        if not is_installed("vllm"):
            raise ModelError("`kind: vllm` needs vLLM", fix=how_to_install("vllm"))
        from vllm import LLM
        from vllm.lora.request import LoRARequest

        source, adapter = resolve(model), None
        if source.path is not None and is_adapter(source.path):
            adapter = source.path
            kind = str(read_json(adapter / ADAPTER_CONFIG).get("peft_type"))
            if kind != "LORA":
                raise ModelError(
                    f"vLLM serves LoRA adapters, and this is {kind}", where=str(adapter), fix="use `kind: local`"
                )
            base = base_settings(read_card(adapter), model)
            source, model = resolve(base), base
        self._tokenizer = load_tokenizer(model)
        options: dict[str, Any] = {"enable_lora": True, "max_lora_rank": _rank(adapter)} if adapter else {}
        self._llm: Any = LLM(
            model=str(local_folder(source, model)),
            dtype=model.dtype,
            gpu_memory_utilization=settings.gpu_memory,
            **options,
        )
        self._limit = model_max_length(load_config(model), self._tokenizer) or 1 << 20
        self._adapter = LoRARequest("side", 1, str(adapter)) if adapter else None

    def write(
        self, requests: Sequence[Request], max_new_tokens: int, skip: frozenset[str] = frozenset()
    ) -> Iterator[list[Written]]:
        """Texts in parts of 256; then the accelerator's memory is free again, since each phase has a writer of its
        own."""
        try:
            for start in range(0, len(requests), _PART):
                part = requests[start : start + _PART]
                if not all(one.id in skip for one in part):
                    yield self._part(part, max_new_tokens)
        finally:
            self._llm = None
            gc.collect()

    def _part(self, part: Sequence[Request], max_new_tokens: int) -> list[Written]:
        from vllm import SamplingParams, TokensPrompt

        sampling = [
            SamplingParams(
                temperature=one.temperature, top_p=one.top_p, max_tokens=max_new_tokens, seed=one.seed % (1 << 31)
            )
            for one in part
        ]
        prompts = prompt_ids(part, self._tokenizer, self._limit, max_new_tokens)
        asked = [TokensPrompt(prompt_token_ids=ids) for ids in prompts]
        found = self._llm.generate(asked, sampling, use_tqdm=False, lora_request=self._adapter)
        return [
            Written(
                one.id,
                said.outputs[0].text,
                said.outputs[0].finish_reason == "length",
                len(said.outputs[0].token_ids),
                len(ids),
            )
            for one, said, ids in zip(part, found, prompts, strict=True)
        ]


def _rank(adapter: Path | None) -> int:
    """The least rank that vLLM takes which the adapter fits in."""
    rank = int(read_json(Path(str(adapter)) / ADAPTER_CONFIG).get("r", 16))
    return next((one for one in (8, 16, 32, 64, 128, 256, 320, 512) if one >= rank), rank)
