"""Texts from vLLM in this process. It batches and shares prefixes itself; prompts reach it as the same token ids that
the local back end reads.

Written for vLLM from 0.11 on; `tests/generation/test_vllm_calls.py` holds every call against the source of the version
that is installed.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from typing import Any

from luthier.data.batches.encoders import turn_end
from luthier.errors import ModelError
from luthier.extras import how_to_install, is_installed
from luthier.generation.rollout import prompt_ids
from luthier.generation.served import served_rank
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
        ModelError: vLLM is not installed, or the model is of a kind that it can't serve.
    """

    def __init__(self, model: ModelSettings, settings: VllmSettings) -> None:
        if not is_installed("vllm"):
            raise ModelError("`kind: vllm` needs vLLM", fix=how_to_install("vllm"))
        source, self._adapter = resolve(model), None
        self._options: dict[str, Any] = {}
        if source.path is not None and is_adapter(source.path):
            self._adapter, config = source.path, read_json(source.path / ADAPTER_CONFIG)
            self._options = {"enable_lora": True, "max_lora_rank": served_rank(config, str(source.path))}
            model = base_settings(read_card(source.path), model)
            source = resolve(model)
        if source.gguf_file is not None:
            raise ModelError("vLLM is given no GGUF files here", where=model.reference, fix="use `kind: local`")
        self._tokenizer = load_tokenizer(model)
        self._limit = model_max_length(load_config(model), self._tokenizer) or 1 << 20
        self._model, self._settings = model, settings
        self._folder = str(local_folder(source, model))

    def write(
        self, requests: Sequence[Request], max_new_tokens: int, skip: frozenset[str] = frozenset()
    ) -> Iterator[list[Written]]:
        """Texts in parts of 256; then the accelerator's memory is free again, since each phase has a writer of its
        own.

        Raises:
            ModelError: vLLM can't load the model, or can't answer.
        """
        prompts = prompt_ids(requests, self._tokenizer, self._limit, max_new_tokens)
        llm: Any = None
        try:
            for start in range(0, len(requests), _PART):
                part = requests[start : start + _PART]
                if all(one.id in skip for one in part):
                    continue
                # vLLM reports what it can't do by errors of many kinds.
                try:
                    llm = llm or self._loaded(max(map(len, prompts)) + max_new_tokens)
                    found = self._part(llm, part, prompts[start : start + _PART], max_new_tokens)
                except Exception as error:
                    why = (str(error).splitlines() or [type(error).__name__])[0]
                    raise ModelError(
                        f"vLLM can't write with it: {why}", where=self._folder, fix="use `kind: local`"
                    ) from error
                yield found
        finally:
            llm = None
            gc.collect()

    def _loaded(self, longest: int) -> Any:
        # Nothing of a run is told to anybody; vLLM reports how it is used unless it is told not to.
        os.environ["VLLM_NO_USAGE_STATS"] = "1"
        from vllm import LLM

        free_accelerator()
        return LLM(
            model=self._folder,
            dtype=self._model.dtype,
            gpu_memory_utilization=self._settings.gpu_memory,
            max_model_len=min(self._limit, rounded_up(longest)),
            trust_remote_code="remote_code" in self._model.allow,
            **self._options,
        )

    def _part(
        self, llm: Any, part: Sequence[Request], prompts: Sequence[list[int]], max_new_tokens: int
    ) -> list[Written]:
        from vllm import SamplingParams, TokensPrompt
        from vllm.lora.request import LoRARequest

        end = turn_end(self._tokenizer)
        sampling = [
            SamplingParams(
                temperature=one.temperature,
                top_p=one.top_p,
                max_tokens=max_new_tokens,
                seed=one.seed % (1 << 31),
                stop_token_ids=None if end is None else [end],
            )
            for one in part
        ]
        asked = [TokensPrompt(prompt_token_ids=ids) for ids in prompts]
        adapter = LoRARequest("side", 1, str(self._adapter)) if self._adapter else None
        found = llm.generate(asked, sampling, use_tqdm=False, lora_request=adapter)
        return [written(one, said.outputs[0], len(ids)) for one, said, ids in zip(part, found, prompts, strict=True)]


def written(request: Request, said: Any, read: int) -> Written:
    """One of vLLM's outputs, of a prompt with so many tokens."""
    return Written(request.id, request.begins + said.text, said.finish_reason == "length", len(said.token_ids), read)


def rounded_up(longest: int) -> int:
    """The next power of two: a model for long texts may have no room for its whole length, and what vLLM compiles is
    used again where the length is the same."""
    return 1 << (longest - 1).bit_length()


def free_accelerator() -> None:
    """Give memory that nothing uses back to the accelerator: vLLM takes its share in a process of its own."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
