"""The predictor of masked language models: words for the masks of a text, or how likely a text is."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.models.predictor import Answer, RowPredictor
from luthier.registry import PREDICTORS

if TYPE_CHECKING:
    from luthier.models.settings import Danger


@PREDICTORS.register
class MaskedModelPredictor(RowPredictor):
    """Asks a masked language model that a `pretrain` stage made.

    A text with the tokenizer's mask token, or with `[MASK]`, is completed: `fills` has for every mask the five
    likeliest tokens with their probabilities. Any other text is scored: `pseudo_log_likelihood` is the sum of the
    log-probabilities of its tokens, each given all others, in nats, and `pseudo_perplexity` the exponential of minus
    their mean (Salazar et al., “Masked Language Model Scoring”, ACL 2020).
    """

    name = "masked_lm"
    made_by = "a pretrain stage with a masked language model"
    example = "… [MASK] …"

    def __init__(self, run: str | Path, allow: Collection[Danger] = ()) -> None:
        from luthier.models.artifacts import saved_artifact
        from luthier.models.inspect import model_max_length
        from luthier.models.placing import on_accelerator

        super().__init__(run, allow)
        model, self.tokenizer, self.card = saved_artifact(run, self.allow).load()
        self.model = on_accelerator(model)
        self.longest = self.card.max_length or model_max_length(model.config, self.tokenizer)

    @property
    def one_by_one(self) -> bool:
        return True

    def predict_texts(
        self, texts: list[str] | str, pairs: list[str] | str | None = None, *, batch_size: int = 64
    ) -> list[Answer]:
        from luthier.data.texts import paired
        from luthier.errors import DataError

        if pairs is not None:
            raise DataError("a masked language model reads one text a row", fix="leave the second texts out")
        return self.answers(paired(texts, None), batch_size)

    def rows_of_file(self, file: str | Path) -> Any:
        from luthier.data.texts import texts_of_file
        from luthier.pretraining.answering import check_texts

        texts = texts_of_file(file, text=str((self.card.columns or {}).get("text", "text")))
        check_texts(texts, self.tokenizer, self.longest, str(file))
        return texts

    def answers(self, texts: list[str], batch_size: int) -> list[Answer]:
        from luthier.pretraining.answering import answer

        return [answer(self.model, self.tokenizer, text, self.longest, batch_size) for text in texts]
