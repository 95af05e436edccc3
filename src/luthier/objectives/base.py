"""What a training objective is: settings that build the parts a trainer runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from luthier.settings import Paper, Settings

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from luthier.objectives.part import Part


class Objective(Settings):
    """One way to train a classifier. Subclasses are registered with `@OBJECTIVES.register`.

    A subclass gives `name` a literal type and default, sets the class variables, and defines `parts`.
    """

    name: str
    summary: ClassVar[str] = ""
    paper: ClassVar[Paper | None] = None
    needs_validation_logits: ClassVar[bool] = False

    def parts(self) -> list[Part]:
        """New parts for one run, in the order they act; exactly one of them gives the main loss."""
        raise TypeError(f"{type(self).__name__} does not define parts()")

    def relative_cost(self) -> float:
        """Operations of a step in those of a plain one: a forward pass counts 1, a backward pass 2, or 1 where it only
        reaches the embeddings."""
        return 1.0

    def check(self, *, schema: str, classes: int, validation: bool, streamed: bool) -> None:
        """Refuse a task before anything is trained.

        Args:
            schema: of the encoded rows.
            classes: how many labels the task has; 0 without labels.
            validation: whether there is a validation split.
            streamed: whether the training rows come as a stream that does not end.

        Raises:
            DataError, RecipeError: the data don't allow this objective.
        """

    def finish(self, model: nn.Module, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """What is done to the trained model, given its (N, C) logits and (N,) labels on the validation split.

        Only called where `needs_validation_logits`.

        Returns:
            Numbers for the report.
        """
        return {}
