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
from luthier.distillation.divergences import divergence_term, stored_term
from luthier.distillation.edge import Edge
from luthier.distillation.parts import HardLoss, SoftLoss, Term
from luthier.distillation.schedules import Schedule
from luthier.distillation.store import StoredTeacher
from luthier.distillation.together import Values, summed_together
from luthier.language_modeling.rows import PredictionRows, predicted_positions, prediction_rows
from luthier.objectives.part import Part
from luthier.objectives.step import Step
from luthier.storage.ranks import gathered


@dataclass(frozen=True)
class Positions:
    """What a model predicts from at some positions of a batch.

    Attributes:
        rows: of all positions that any term wants.
        labelled: (N,), which of them have a label; None where all do.
        places: (B, L), where they are.
    """

    rows: PredictionRows
    labelled: Tensor | None
    places: Tensor

    def those_with_labels(self) -> PredictionRows:
        """The rows whose targets are learned."""
        return self.rows if self.labelled is None else self.some(self.labelled)

    def some(self, chosen: Tensor) -> PredictionRows:
        """Rows by a mask (N,)."""
        return replace(self.rows, hidden=self.rows.hidden[chosen], targets=self.rows.targets[chosen])


class Passes:
    """One pass of each model in a step, however many terms ask for it.

    All models read the same `input_ids` and learn the same `labels`, unless the batch has a copy of a model's own with
    other masks, as `input_ids@NODE` and `labels@NODE`.

    Args:
        shifted: whether the models predict the next token.
        everywhere: models of which every token is wanted, as the job calls them.
        dtype: of the product with the output embeddings; None is that of the model.
        nodes: what the job calls a model -> its node, of those that may have a copy of their own.
    """

    def __init__(
        self,
        shifted: bool,
        everywhere: Iterable[str] = (),
        dtype: torch.dtype | None = None,
        nodes: Mapping[str, str] | None = None,
    ) -> None:
        self.shifted, self.everywhere, self.dtype = shifted, frozenset(everywhere), dtype
        self.nodes = dict(nodes or {})
        self._of: tuple[Step | None, dict[str, Positions]] = (None, {})

    def of(self, step: Step, place: str) -> Positions:
        """What a model of the job predicts from. A frozen one runs without gradients."""
        if self._of[0] is not step:
            self._of = (step, {})
        found = self._of[1]
        if place not in found:
            found[place] = self._run(step, place)
        return found[place]

    def rows(self, step: Step, place: str, labelled: frozenset[str]) -> PredictionRows:
        """What a model predicts from where all of some models have a label; at every token where none is named."""
        found = self.of(step, place)
        if not labelled:
            return found.rows
        if not self.copies(step.inputs):
            return found.those_with_labels()
        return found.some(self.counted(step.inputs, labelled)[found.places])

    def copies(self, batch: Mapping[str, Tensor]) -> bool:
        """Whether some model has a copy of its own in the batch."""
        return any(f"labels@{node}" in batch for node in self.nodes.values())

    def counted(self, batch: Mapping[str, Tensor], places: Iterable[str]) -> Tensor:
        """(B, L), the predicted positions that have a label in the copies of all these models."""
        labels = (self._read_by(place, batch)["labels"] for place in places)
        counted = [predicted_positions(own, shifted=self.shifted) for own in labels]
        return torch.stack(counted).all(0)

    def _read_by(self, place: str, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The batch as a model sees it."""
        read = {name: value for name, value in batch.items() if "@" not in name}
        own = {name: f"{name}@{self.nodes.get(place)}" for name in ("input_ids", "labels")}
        return read | {name: batch[key] for name, key in own.items() if key in batch}

    def _run(self, step: Step, place: str) -> Positions:
        inputs, model = self._read_by(place, step.inputs), step.models[place]
        labels = wanted = inputs["labels"]
        if place in self.everywhere:
            wanted = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, IGNORED)

        def run() -> Tensor:
            logits: Tensor = step.trainer.logits_of(step.model, inputs, place)
            return logits

        trained = any(p.requires_grad for p in model.parameters())
        with nullcontext() if trained else torch.no_grad():
            rows = prediction_rows(model, wanted, shifted=self.shifted, run=run)
        predicting = predicted_positions(wanted, shifted=self.shifted)
        if wanted is labels:
            return Positions(rows, None, predicting)
        labelled = predicted_positions(labels, shifted=self.shifted)[predicting]
        targets = labels[:, 1:][predicting[:, :-1]] if self.shifted else labels[predicting]
        return Positions(replace(rows, targets=targets), labelled, predicting)


class LanguageTerm(Term):
    """A term of language models, as part of `LanguageLosses`.

    Attributes:
        places: what the job calls the models that it looks at.
        labelled: those of them that must have a label at a position; none where it looks at every token.
    """

    places: tuple[str, ...]
    labelled: frozenset[str]

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

    def __init__(self, node: str, place: str, weight: Schedule | None, edges: Iterable[Edge] = ()) -> None:
        super().__init__(node, place, weight, edges)
        self.places, self.labelled = (place,), frozenset({place})

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
        self.places = (self.student, self.teacher)
        self.labelled = frozenset(self.places if edge.positions == "masked" else ())

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
        self.stored, self.places = stored, (self.student,)
        self.labelled = frozenset(self.places if edge.positions == "masked" else ())

    def values(self, step: Step, rows: Mapping[str, PredictionRows]) -> Values:
        teacher = self.stored.rows(dict(step.batch), rows[self.student].hidden.device)
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
        self._items: dict[frozenset[str], int] = {}

    def step_begin(self, trainer: Any) -> None:
        for term in self.terms:
            term.step_begin(trainer)
        self._items = self._counts(trainer)

    def _counts(self, trainer: Any) -> dict[frozenset[str], int]:
        """Models -> positions of the whole optimiser step at which all of them have a label, where they mask their own
        copies; all processes count together."""
        fillers = trainer.fillers
        batches = [batch for batch, filler in zip(trainer.batches, fillers, strict=True) if not filler]
        if not self.passes.copies(trainer.batches[0]):
            return {}
        named = sorted({self._divides(term) for term in self.terms}, key=sorted)
        own = [sum(int(self.passes.counted(batch, places).sum()) for batch in batches) for places in named]
        return {places: max(1, sum(some)) for places, some in zip(named, zip(*gathered(own), strict=True), strict=True)}

    @staticmethod
    def _divides(term: LanguageTerm) -> frozenset[str]:
        """The models whose labels together are the items of a term."""
        return term.labelled or frozenset({term.learner})

    def loss(self, step: Step) -> Tensor | None:
        groups: dict[Any, list[LanguageTerm]] = {}
        for term in self.terms:
            if term.acts(step):
                groups.setdefault(term.labelled if self._items else bool(term.labelled), []).append(term)
        losses = [self._together(step, group) for group in groups.values()]
        return sum(losses[1:], losses[0]) if losses else None

    def _together(self, step: Step, terms: Sequence[LanguageTerm]) -> Tensor:
        places = dict.fromkeys(place for term in terms for place in term.places)
        rows = {place: self.passes.rows(step, place, terms[0].labelled) for place in places}
        shares = [self._share(step, term) for term in terms]
        total, sums = summed_together(
            rows,
            [term.values(step, rows) for term in terms],
            [term.weight * share for term, share in zip(terms, shares, strict=True)],
            dtype=self.passes.dtype,
        )
        for term, share, found in zip(terms, shares, sums, strict=True):
            term.count(step.weight * share * found)
        return total

    def _share(self, step: Step, term: LanguageTerm) -> float:
        """What a sum over rows is multiplied with, beside the weight. The items are those of the hard loss, whichever
        rows are compared, so that weights mean the same; those that both models share where each masks its own."""
        if self._items:
            return float(term.factor() * step.trainer.args.world_size / self._items[self._divides(term)])
        labelled = self.passes.of(step, term.learner).those_with_labels()
        return float(step.over_examples(term.factor(), max(1, len(labelled.targets)), "mean"))

    def state_dict(self, trainer: Any) -> dict[str, Any]:
        return {"terms": [term.state_dict(trainer) for term in self.terms]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for term, own in zip(self.terms, state["terms"], strict=True):
            term.load_state_dict(own)
