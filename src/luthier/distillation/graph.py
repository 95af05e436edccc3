"""From nodes and edges to the parts of one training job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from luthier.distillation.edge import Edge
from luthier.distillation.language import (
    LanguageHardLoss,
    LanguageLosses,
    LanguageSoftLoss,
    LanguageTerm,
    Passes,
    StoredLanguageLoss,
)
from luthier.distillation.parts import HardLoss, NodeClipping, SoftLoss, Term
from luthier.distillation.schedules import Schedule
from luthier.distillation.settings import Update
from luthier.distillation.store import StoredTeacher
from luthier.distillation.stored_parts import StoredSoftLoss
from luthier.distillation.turns import Turns
from luthier.errors import TrainingError
from luthier.objectives.part import Part
from luthier.objectives.step import MAIN


@dataclass(frozen=True)
class LanguageTerms:
    """How the losses of language models are computed.

    Attributes:
        shifted: whether they predict the next token.
        dtype: of the product with the output embeddings; None is that of the model.
    """

    shifted: bool
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Graph:
    """Models that learn from one another.

    Attributes:
        models: by the names of their nodes. One without a parameter that requires a gradient is frozen.
        edges: who learns from whom.
        main: the node that an objective acts on, and that stops training early where that is wanted.
        hard_weights: node -> weight of its own task loss; default 1, less its inherited edges.
        main_parts: of an objective, in place of the main node's own task loss.
        max_grad_norm: what each node's gradient is scaled down to; 0 never clips.
        max_grad_norms: node -> norm of its own.
        stored: node -> its outputs, of teachers that are not among the models.
        update: whether all nodes are updated at once, or one after another, in the order of `models`.
    """

    models: Mapping[str, nn.Module]
    edges: Sequence[Edge]
    main: str
    hard_weights: Mapping[str, Schedule] = field(default_factory=dict)
    main_parts: Sequence[Part] = ()
    max_grad_norm: float = 1.0
    max_grad_norms: Mapping[str, float] = field(default_factory=dict)
    stored: Mapping[str, StoredTeacher] = field(default_factory=dict)
    update: Update = "simultaneous"

    def __post_init__(self) -> None:
        """
        Raises:
            TrainingError: an edge or the main node names no model, nobody would learn by an edge, or the nodes can't
                take turns.
        """
        named = {self.main, *self.hard_weights, *self.max_grad_norms}
        named |= {name for edge in self.edges for name in (edge.teacher, edge.student)}
        if unknown := sorted(named - set(self.models) - set(self.stored)):
            raise TrainingError(f"there is no node {unknown[0]!r}", fix=f"the nodes are {', '.join(self.models)}")
        for name in (self.main, *(edge.student for edge in self.edges)):
            if name not in self.trained:
                raise TrainingError(
                    f"the node {name!r} has to learn, and no parameter of it requires a gradient",
                    fix="train it, or turn the edge around",
                )
        if self.alternates:
            self._check_turns()

    def _check_turns(self) -> None:
        moving = [edge.name for edge in self.edges if not edge.stop_gradient]
        if moving or self.main_parts:
            raise TrainingError(
                "models that take turns are updated one at a time, and "
                + (f"the edge {moving[0]} moves two" if moving else "an objective acts in every pass"),
                fix="leave `update: alternating` out, or " + ("set `stop_gradient`" if moving else "the objective"),
            )

    @property
    def trained(self) -> list[str]:
        """The nodes that learn."""
        return [n for n, model in self.models.items() if any(p.requires_grad for p in model.parameters())]

    @property
    def alternates(self) -> bool:
        """Whether some node is updated after another one."""
        return self.update == "alternating" and len(self.trained) > 1

    @property
    def places(self) -> dict[str, str]:
        """Node -> what the job calls its model."""
        return {name: MAIN if name == self.main else f"node-{name}" for name in self.models}

    @property
    def other_models(self) -> dict[str, nn.Module]:
        """All but the main model, as the job calls them."""
        return {self.places[name]: model for name, model in self.models.items() if name != self.main}

    def parts(self, language: LanguageTerms | None = None) -> list[Part]:
        """New parts for one job: hard losses, soft losses, and the clipping of each model.

        Args:
            language: where the models are language models that learn plain text.
        """
        places, terms = self.places, self._terms(language is not None)
        losses: list[Part] = list(terms)
        if language is not None:
            of_language = [term for term in terms if isinstance(term, LanguageTerm)]
            wide = {place for term in of_language if not term.labelled for place in term.places}
            nodes = {place: name for name, place in places.items()}
            passes = Passes(shifted=language.shifted, everywhere=wide, dtype=language.dtype, nodes=nodes)
            losses = [LanguageLosses(passes, of_language)]
        norms = {places[name]: self.max_grad_norms.get(name, self.max_grad_norm) for name in self.trained}
        turns = [Turns([places[name] for name in self.trained])] if self.alternates else []
        return [*self.main_parts, *losses, NodeClipping(norms), *turns]

    def _terms(self, language: bool) -> list[Term]:
        """Hard losses, and soft ones by every edge."""
        places, found = self.places, list[Term]()
        for name in self.trained:
            if name != self.main or not self.main_parts:
                own = [edge for edge in self.edges if edge.student == name]
                hard = LanguageHardLoss if language else HardLoss
                found.append(hard(name, places[name], self.hard_weights.get(name), own))
        for edge in self.edges:
            if edge.teacher in self.stored:
                stored = StoredLanguageLoss if language else StoredSoftLoss
                found.append(stored(self.stored[edge.teacher], edge, places))
            else:
                found.append((LanguageSoftLoss if language else SoftLoss)(edge, places))
        return found
