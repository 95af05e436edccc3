"""Text that a language model learns as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.registry import TASKS
from luthier.tasks.language import LanguageTask

if TYPE_CHECKING:
    from luthier.data.batches.encoders import Encoded, Encoder


@TASKS.register
class PlainText(LanguageTask):
    """Texts one after another, in blocks that fill the room."""

    name: ClassVar[str] = "plain_text"
    summary: ClassVar[str] = "text that a language model learns"
    columns: ClassVar[tuple[str, ...]] = ("text",)
    guess_rank: ClassVar[int | None] = 70
    streamed: ClassVar[bool] = True
    packed: ClassVar[bool] = True

    def encode(self, columns: Mapping[str, Sequence[Any]], encoder: Encoder) -> Encoded:
        from luthier.data.batches.packing import encode_blocks

        return encode_blocks(columns, encoder)
