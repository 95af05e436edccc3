"""Prompts that a language model learns to respond to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from luthier.data.batches.encoders import Encoded, Encoder, encode_replies
from luthier.registry import TASKS
from luthier.tasks.language import LanguageTask


@TASKS.register
class PromptResponse(LanguageTask):
    """Prompts with responses; only the response is learned."""

    name: ClassVar[str] = "prompt_response"
    summary: ClassVar[str] = "prompts with the response to each"
    columns: ClassVar[tuple[str, ...]] = ("prompt", "response")
    learned: ClassVar[tuple[str, ...]] = ("response",)
    guess_rank: ClassVar[int | None] = 40
    streamed: ClassVar[bool] = True

    def encode(self, columns: Mapping[str, Sequence[Any]], encoder: Encoder) -> Encoded:
        return encode_replies(columns, encoder)
