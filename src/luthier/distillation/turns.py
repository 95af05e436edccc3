"""Nodes that are updated one after another, each on what those before it have just become."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from luthier.objectives.part import Part
from luthier.training.apart import step_apart


class Turns(Part):
    """The order of deep mutual learning (Zhang et al., CVPR 2018, algorithm 1): in every optimiser step the first node
    is updated, the outputs of all are computed again, the second one is updated, and so on.

    While it is one node's turn, the parameters of the others require no gradient: what they say is a constant, and
    terms of theirs are left out. This part comes behind all terms, which know their weights by then.

    Args:
        places: what the job calls the nodes, in the order of their turns.
    """

    name = "turns"

    def __init__(self, places: Sequence[str]) -> None:
        self.places = list(places)
        self._trained: dict[str, list[nn.Parameter]] = {}

    def begin(self, trainer: Any) -> None:
        self._trained = {p: [q for q in trainer.models[p].parameters() if q.requires_grad] for p in self.places}

    def step_begin(self, trainer: Any) -> None:
        *before, last = self.places
        for place in before:
            self._let_learn(place)
            step_apart(trainer)
        self._let_learn(last)

    def after_update(self, trainer: Any) -> None:
        self._let_learn(*self.places)

    def _let_learn(self, *places: str) -> None:
        for place, parameters in self._trained.items():
            for p in parameters:
                p.requires_grad_(place in places)
