"""Prompts that a language model learns to respond to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.registry import TASKS
from luthier.tasks.language import LanguageTask

if TYPE_CHECKING:
    from luthier.data.batches.encoders import Encoded, Encoder


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
        from luthier.data.batches.encoders import encode_replies

        return encode_replies(columns, encoder)
