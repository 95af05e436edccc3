"""The terms of language models: from hidden vectors, so that logits of all positions are never held.

Shapes: B blocks, L tokens, N positions, H hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from luthier.data.schemas import IGNORED
from luthier.distillation.divergence import divergence_term, stored_term
from luthier.distillation.edge import Edge
from luthier.distillation.parts import HardLoss, SoftLoss, Term
from luthier.distillation.schedules import Schedule
from luthier.distillation.store import StoredTeacher
from luthier.distillation.together import Values, summed_together
from luthier.language_modeling.rows import PredictionRows, predicted_positions, prediction_rows
from luthier.objectives.part import Part
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

    def __init__(self, shifted: bool, everywhere: Iterable[str] = (), dtype: torch.dtype | None = None) -> None:
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


class LanguageTerm(Term):
    """A term of language models, as part of `LanguageLosses`.

    Attributes:
        everywhere: whether it looks at every token, and not at the labelled positions alone.
        places: what the job calls the models that it looks at.
    """

    everywhere: bool
    places: tuple[str, ...]

    def values(self, step: Step, rows: Mapping[str, PredictionRows]) -> Values:
        """What it makes of the logits of these models; the term is the sum over rows."""
        raise TypeError(f"{type(self).__name__} does not define values()")

    def factor(self) -> float:
        """What the sum is multiplied with, beside the weight."""
        return 1.0

    def loss(self, step: Step) -> Tensor | None:
        raise TypeError(f"{type(self).__name__} is computed by LanguageLosses")


class LanguageHardLoss(HardLoss, LanguageTerm):
    """The cross-entropy of a language model's predicted tokens.

    Args:
        node, place, weight, edges: as of `HardLoss`.
    """

    everywhere = False

    def __init__(self, node: str, place: str, weight: Schedule | None, edges: Iterable[Edge] = ()) -> None:
        super().__init__(node, place, weight, edges)
        self.places = (place,)

    def values(self, step: Step, rows: Mapping[str, PredictionRows]) -> Values:
        targets = rows[self.place].targets
        return lambda chunk: F.nll_loss(chunk.log_probabilities(self.place), targets[chunk.rows], reduction="none")


class LanguageSoftLoss(SoftLoss, LanguageTerm):
    """What a language model learns by an edge.

    Args:
        edge, places: as of `SoftLoss`.
    """

    def __init__(self, edge: Edge, places: Mapping[str, str]) -> None:
        super().__init__(edge, places)
        self.everywhere, self.places = edge.positions == "non_pad", (self.student, self.teacher)

    def values(self, step: Step, rows: Mapping[str, PredictionRows]) -> Values:
        return divergence_term(
            self.student,
            self.teacher,
            self.temperature,
            self.edge.kl_direction,
            stop_gradient=self.edge.stop_gradient,
        )


class StoredLanguageLoss(SoftLoss, LanguageTerm):
    """What a language model learns from stored outputs of a teacher.

    Args:
        stored: of the teacher.
        edge, places: as of `SoftLoss`.
    """

    def __init__(self, stored: StoredTeacher, edge: Edge, places: Mapping[str, str]) -> None:
        super().__init__(edge, {**places, edge.teacher: ""})
        self.stored, self.everywhere, self.places = stored, edge.positions == "non_pad", (self.student,)

    def values(self, step: Step, rows: Mapping[str, PredictionRows]) -> Values:
        teacher = self.stored.rows(dict(step.inputs), rows[self.student].hidden.device)
        return stored_term(self.student, teacher, self.temperature, self.edge.kl_direction)


class LanguageLosses(Part):
    """All terms of a job's language models. What looks at the same positions is computed together.

    Args:
        passes: of the job's models.
        terms: of the loss.
    """

    name = "language_losses"

    def __init__(self, passes: Passes, terms: Sequence[LanguageTerm]) -> None:
        self.passes, self.terms = passes, list(terms)
        self.gives_main_loss = any(term.gives_main_loss for term in terms)

    def step_begin(self, trainer: Any) -> None:
        for term in self.terms:
            term.step_begin(trainer)

    def loss(self, step: Step) -> Tensor | None:
        groups = ([t for t in self.terms if t.weight != 0 and t.everywhere is wide] for wide in (False, True))
        losses = [self._together(step, group) for group in groups if group]
        return sum(losses[1:], losses[0]) if losses else None

    def _together(self, step: Step, terms: Sequence[LanguageTerm]) -> Tensor:
        places = dict.fromkeys(place for term in terms for place in term.places)
        passed = {place: self.passes.of(step, place) for place in places}
        rows = {p: one.rows if terms[0].everywhere else one.those_with_labels() for p, one in passed.items()}
        # The items are those of the hard loss, whichever rows are compared, so that weights mean the same.
        items = max(1, len(next(iter(passed.values())).those_with_labels().targets))
        shares = [float(step.over_examples(term.factor(), items, "mean")) for term in terms]
        total, sums = summed_together(
            rows,
            [term.values(step, rows) for term in terms],
            [term.weight * share for term, share in zip(terms, shares, strict=True)],
            dtype=self.passes.dtype,
        )
        for term, share, found in zip(terms, shares, sums, strict=True):
            term.count(share * found)
        return total

    def state_dict(self, trainer: Any) -> dict[str, Any]:
        return {"terms": [term.state_dict(trainer) for term in self.terms]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for term, own in zip(self.terms, state["terms"], strict=True):
            term.load_state_dict(own)
