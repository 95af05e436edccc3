"""The predictor of shared encoders: every head's answer to a text, and its vector."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.models.predictor import Answer, RowPredictor
from luthier.registry import PREDICTORS

if TYPE_CHECKING:
    import numpy as np

    from luthier.models.settings import Danger


@PREDICTORS.register
class SharedEncoderPredictor(RowPredictor):
    """Asks all heads of an encoder that a `represent` stage, or `SharedEncoder.save`, made; on the accelerator where
    there is one.

    The columns of a file are those of the first head whose training file's it has; else `text`, and `text_pair` where
    every head reads pairs.
    """

    name = "shared_encoder"
    made_by = "a represent stage"
    embeds = True
    why_not_exported = (
        "a shared encoder can't be exported as one prompt or prefix: it combines the prefixes of its tasks"
    )
    instead_of_export = (
        "use `luthier embed` or `luthier predict` on the run, or luthier.tuning.SharedEncoder.load(folder)"
    )

    def __init__(self, run: str | Path, allow: Collection[Danger] = ()) -> None:
        from luthier.models.placing import device
        from luthier.representing.shared_encoder import SharedEncoder

        super().__init__(run, allow)
        encoder = SharedEncoder.load(run, allow=self.allow)
        self.encoder = encoder.to(device())

    def predict_texts(
        self, texts: list[str] | str, pairs: list[str] | str | None = None, *, batch_size: int = 64
    ) -> list[Answer]:
        from luthier.data.texts import paired

        return self.answers(paired(texts, pairs), batch_size)

    def embed(self, texts: Any, *, batch_size: int = 64, dtype: str = "float32") -> np.ndarray:
        return self.encoder.encode(texts, batch_size=batch_size, dtype=dtype)

    def rows_of_file(self, file: str | Path) -> Any:
        """The texts, or pairs where all heads read pairs, from the columns that a head's training file had, or from
        `text` and `text_pair`."""
        from luthier.data.rows.canonical import MissingColumnsError
        from luthier.data.texts import texts_of_file

        heads = self.encoder.heads.values()
        usual = ("text", "text_pair") if heads and all(head.pairs for head in heads) else ("text",)
        known = [head.columns for head in heads if len(head.columns) == len(usual)]
        missing: list[MissingColumnsError] = []
        for columns in dict.fromkeys([*known, usual]):
            try:
                return texts_of_file(file, *columns)
            except MissingColumnsError as error:
                missing.append(error)
        raise missing[0]

    def answers(self, texts: Any, batch_size: int) -> list[Answer]:
        predictions = self.encoder.predict(texts, batch_size=batch_size)
        rows: list[Answer] = [
            {"text": one} if isinstance(one, str) else {"text": one[0], "text_pair": one[1]} for one in texts
        ]
        for number, row in enumerate(rows):
            row["heads"] = {}
            for name, head in predictions.items():
                labels = self.encoder.heads[name].labels
                chances = dict(zip(labels, map(float, head.probabilities[number]), strict=True))
                label = head.labels[number]
                row["heads"][name] = {"label": label, "probability": chances[label], "probabilities": chances}
        return rows
