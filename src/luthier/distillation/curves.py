"""How all nodes learned, at equal steps and at equal cost, for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from luthier.distillation.edge import Edge
from luthier.models.inspect import parameter_counts
from luthier.report.sections import Lines, Point, Section, SectionTable, Value
from luthier.storage.jsonlines import read_log


@dataclass(frozen=True)
class NodeCost:
    """Floating-point operations that a node takes for each token that is trained on.

    Attributes:
        forward: of one pass.
        frozen: whether that pass is all.
        trained_share: of its parameters, how many are trained; the gradients of the others are not computed.
    """

    forward: float
    frozen: bool
    trained_share: float = 1.0

    @property
    def trained(self) -> float:
        """Of being trained: forward pass, gradients of inputs and of weights."""
        return 0.0 if self.frozen else self.forward * (2 + self.trained_share)


def forward_operations(model: nn.Module) -> float:
    """A multiplication and an addition for every weight of a linear layer: operations of one token in one pass."""
    layers = (m for m in model.modules() if isinstance(m, nn.Linear | Conv1D))
    return 2.0 * sum(m.weight.numel() for m in layers)


def cost_of(model: nn.Module, *, frozen: bool, forward: float | None = None) -> NodeCost:
    """The cost of a node.

    Args:
        model: of it.
        frozen: whether it only teaches.
        forward: operations of one token in one pass, where they are known; else counted over its linear layers.
    """
    trained, total = parameter_counts(model)
    return NodeCost(forward_operations(model) if forward is None else forward, frozen, trained / max(1, total))


def learned_from(name: str, edges: Sequence[Edge]) -> set[str]:
    """A node, and all that it learned from, be it by way of others."""
    found, open_ = {name}, [name]
    while open_:
        student = open_.pop()
        for edge in edges:
            if edge.student == student and edge.teacher not in found:
                found.add(edge.teacher)
                open_.append(edge.teacher)
    return found


def operations_of_each(
    costs: Mapping[str, NodeCost], edges: Sequence[Edge], *, alternating: bool = False
) -> dict[str, float]:
    """Node -> operations a token of training it: its own, and those of all that it learns from. A teacher whose outputs
    were stored is not among the costs: it runs once, whatever is trained on them.

    Args:
        costs: of the nodes.
        edges: who learns from whom.
        alternating: whether nodes are updated one after another, where a teacher runs again for each of its students.
    """

    def together(name: str) -> float:
        group = learned_from(name, edges)
        passes = {one: 1 if costs[one].frozen else 0 for one in group if one in costs}
        if alternating:
            passes = {one: sum(e.teacher == one and e.student in group for e in edges) for one in passes}
        if costs[name].frozen:
            passes[name] = 1
        return sum(costs[one].trained + number * costs[one].forward for one, number in passes.items())

    return {name: together(name) for name in costs}


def curves(log: Path, primary: str, main: str, trained: Sequence[str]) -> dict[str, list[tuple[int, int, float]]]:
    """Node -> (step, tokens, score) of every evaluation.

    Args:
        log: of the stage.
        primary: the main node's score, as `validation/loss`.
        main: that node.
        trained: the nodes that learn.
    """
    scores: dict[int, dict[str, Any]] = {}
    tokens: dict[int, int] = {}
    for record in read_log(log) if log.is_file() else []:
        if record.get("event") == "evaluate":
            scores[int(record["step"])] = record
        elif record.get("event") == "nodes":
            tokens[int(record["step"])] = int(record["tokens"])
    split, _, metric = primary.partition("/")
    keys = {name: primary if name == main else f"{split}/{name}/{metric}" for name in trained}
    return {
        name: [(s, tokens[s], r[key]) for s, r in sorted(scores.items()) if s in tokens and r.get(key) is not None]
        for name, key in keys.items()
    }


def sections(
    found: Mapping[str, Sequence[tuple[int, int, float]]],
    operations: Mapping[str, float],
    rows: Sequence[Sequence[Value]],
    columns: Sequence[str],
    metric: str,
) -> list[Section]:
    """The graph as a table, and the curves of all nodes together.

    Args:
        found: as `curves` gives them.
        operations: as `operations_of_each` gives them.
        rows, columns: of the table.
        metric: what the curves show.
    """
    made = [Section("Models that learned from one another", table=SectionTable(columns, rows))]
    if any(found.values()):
        by_step: dict[str, list[Point]] = {n: [(float(s), v) for s, _, v in points] for n, points in found.items()}
        made.append(Section("Learning at equal steps", plot=Lines(by_step, x_label="step", y_label=metric)))
        by_cost: dict[str, list[Point]] = {
            n: [(t * operations[n], v) for _, t, v in points if t] for n, points in found.items()
        }
        if any(by_cost.values()):
            text = (
                "Counted for each model are its own forward and backward passes and those of all that it learned from, "
                "over the weights of linear layers; of language models on text over attention too, and over the "
                "projection onto the vocabulary only where a token is predicted."
            )
            plot = Lines(by_cost, x_label="floating-point operations", y_label=metric)
            made.append(Section("Learning at equal cost", text=text, plot=plot))
    return made
