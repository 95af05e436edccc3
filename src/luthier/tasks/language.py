"""Tasks in which the text itself is learned, by a language model's own head."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.errors import DataError
from luthier.tasks.base import Row, Task
from luthier.tasks.heads import LANGUAGE_HEADS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from luthier.data.batches.collating import Padding
    from luthier.data.task_data import TaskData
    from luthier.models.card import ModelCard
    from luthier.models.head_kinds import Head
    from luthier.tasks.running.judged import Judged
    from luthier.tasks.running.predicting import Predictions

_LEAST_WRITTEN, _MOST_WRITTEN = 16, 256
logger = logging.getLogger(__name__)


class LanguageTask(Task):
    """What language tasks share."""

    metrics: ClassVar[tuple[str, ...]] = ("perplexity",)
    language: ClassVar[bool] = True
    one_output: ClassVar[bool] = False

    def head_on(self, config: Any) -> Head:
        return LANGUAGE_HEADS[bool(getattr(config, "is_encoder_decoder", False))]

    def head_arguments(self, labels: Sequence[str]) -> dict[str, Any]:
        return {}

    def predicts_next_token(self, config: Any) -> bool:
        from luthier.tasks.running.next_token import config_shifts

        return config_shifts(config)

    def collate(self, rows: Sequence[Mapping[str, Any]], padding: Padding) -> dict[str, Tensor]:
        return super().collate(rows, padding.behind())

    def outputs(self, out: Any, batch: Mapping[str, Any], *, shifted: bool) -> Iterator[dict[str, Any]]:
        from luthier.tasks.running.predicting import token_scores

        labels = batch["labels"]
        logits = out.logits.float()[:, -labels.shape[1] :]
        if shifted:
            logits, labels = logits[:, :-1], labels[:, 1:]
        for i in range(len(labels)):
            yield {"logits": None} | token_scores(logits[i], labels[i])

    def judge(self, predictions: Predictions, data: TaskData, examples: Any, rows: Any) -> Judged | None:
        return None

    def answer_rows(
        self, model: nn.Module, tokenizer: Any, card: ModelCard, rows: list[Row], *, longest: int, batch_size: int = 64
    ) -> list[Row]:
        """What the model writes after each row, greedily."""
        return self.written(model, tokenizer, card, rows, longest=longest, batch_size=batch_size)

    def written(
        self,
        model: nn.Module,
        tokenizer: Any,
        card: ModelCard,
        rows: list[Row],
        *,
        longest: int,
        most: int = _MOST_WRITTEN,
        batch_size: int = 64,
    ) -> list[Row]:
        """What the model writes after each row, greedily: at most `most` tokens."""
        from luthier.data.batches.encoders import Encoder, opening_tokens
        from luthier.data.batches.notes import Notes, tell
        from luthier.models.inspect import is_encoder_decoder, model_max_length
        from luthier.progress import track
        from luthier.tasks.running.writing import written_after

        if not rows:
            raise DataError("there are no rows to predict")
        two_sided, reserved = is_encoder_decoder(model.config), card.reserved_tokens
        encoder = Encoder(tokenizer, longest, reserved, "truncate", two_sided, "rows")
        openings = opening_tokens(rows, encoder, _LEAST_WRITTEN)
        if encoder.cut:
            notes, room = Notes(), max(map(len, openings))  # so that a response finds room
            notes.take(encoder)
            tell(notes, encoder.where, len(rows), room)
        rooms = [longest - reserved - (0 if two_sided else len(ids)) for ids in openings]
        positions = model_max_length(model.config, tokenizer)
        with track("predicting", len(rows)) as bar:
            written = written_after(
                model,
                tokenizer,
                openings,
                [min(most, max(_LEAST_WRITTEN, room)) for room in rooms],
                limit=None if positions is None else positions - reserved,
                batch_size=batch_size,
                on_prompt=bar.update,
            )
        responses = tokenizer.batch_decode(written, skip_special_tokens=True)
        return [
            {"text": row.get("prompt", row.get("text")), "response": response}
            for row, response in zip(rows, responses, strict=True)
        ]
