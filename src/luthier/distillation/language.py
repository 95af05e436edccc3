"""The terms of language models: from hidden vectors, so that logits of all positions are never held.

Shapes: B blocks, L tokens, N positions, H hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from luthier.data.schemas import IGNORED
from luthier.distillation.divergence import divergence_of_predictions
from luthier.distillation.edge import Edge
from luthier.distillation.parts import HardLoss, SoftLoss
from luthier.distillation.schedules import Schedule
from luthier.language_modeling.rows import PredictionRows, predicted_positions, prediction_rows
from luthier.objectives.step import Step


@dataclass(frozen=True)
class Positions:
    """What a model predicts from at some positions of a batch.

    Attributes:
        rows: of all positions that any term wants.
        labelled: (N,), which of them have a label; None where all do.
    """

    rows: PredictionRows
    labelled: Tensor | None

    def those_with_labels(self) -> PredictionRows:
        """The rows whose targets are learned."""
        if self.labelled is None:
            return self.rows
        return replace(self.rows, hidden=self.rows.hidden[self.labelled], targets=self.rows.targets[self.labelled])


class Passes:
    """One pass of each model in a step, however many terms ask for it.

    Args:
        shifted: whether the models predict the next token.
        everywhere: models of which every token is wanted, as the job calls them.
        dtype: of the product with the output embeddings; None is that of the model.
    """

    def __init__(self, *, shifted: bool, everywhere: Iterable[str] = (), dtype: torch.dtype | None = None) -> None:
        self.shifted, self.everywhere, self.dtype = shifted, frozenset(everywhere), dtype
        self._of: tuple[Step | None, dict[str, Positions]] = (None, {})

    def of(self, step: Step, place: str) -> Positions:
        """What a model of the job predicts from. A frozen one runs without gradients."""
        if self._of[0] is not step:
            self._of = (step, {})
        found = self._of[1]
        if place not in found:
            found[place] = self._run(step, place)
        return found[place]

    def _run(self, step: Step, place: str) -> Positions:
        labels = step.inputs["labels"]
        wanted = labels
        if place in self.everywhere:
            wanted = step.inputs["input_ids"].masked_fill(step.inputs["attention_mask"] == 0, IGNORED)
        model = step.models[place]

        def run() -> Tensor:
            logits: Tensor = step.trainer.logits_of(step.model, dict(step.inputs), place)
            return logits

        trained = any(p.requires_grad for p in model.parameters())
        with nullcontext() if trained else torch.no_grad():
            rows = prediction_rows(model, wanted, shifted=self.shifted, run=run)
        if wanted is labels:
            return Positions(rows, None)
        predicting = predicted_positions(wanted, shifted=self.shifted)
        labelled = predicted_positions(labels, shifted=self.shifted)[predicting]
        targets = labels[:, 1:][predicting[:, :-1]] if self.shifted else labels[predicting]
        return Positions(replace(rows, targets=targets), labelled)


class LanguageHardLoss(HardLoss):
    """The cross-entropy of a language model's predicted tokens.

    Args:
        passes: shared by all terms of the job.
        node, place, weight, edges: as of `HardLoss`.
    """

    def __init__(
        self, passes: Passes, node: str, place: str, weight: Schedule | None, edges: Iterable[Edge] = ()
    ) -> None:
        super().__init__(node, place, weight, edges)
        self.passes = passes

    def value(self, step: Step) -> Tensor:
        rows = self.passes.of(step, self.place).those_with_labels()
        return step.over_examples(rows.losses(self.passes.dtype).sum(), max(1, len(rows.targets)), "mean")


class LanguageSoftLoss(SoftLoss):
    """What a language model learns by an edge.

    Args:
        passes: shared by all terms of the job.
        edge, places: as of `SoftLoss`.
    """

    def __init__(self, passes: Passes, edge: Edge, places: Mapping[str, str]) -> None:
        super().__init__(edge, places)
        self.passes = passes

    def value(self, step: Step) -> Tensor:
        learner, teacher = self._predictions(step, self.student), self._predictions(step, self.teacher)
        total = divergence_of_predictions(
            learner,
            teacher,
            temperature=self.temperature,
            direction=self.edge.kl_direction,
            stop_gradient=self.edge.stop_gradient,
            dtype=self.passes.dtype,
        )
        return self.scaled(step, total, len(self.passes.of(step, self.student).those_with_labels().targets))

    def _predictions(self, step: Step, place: str) -> PredictionRows:
        found = self.passes.of(step, place)
        return found.rows if self.edge.positions == "non_pad" else found.those_with_labels()
