"""Nodes that would never learn from each other, since they are the same and stay so."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from luthier.distillation.graph import Graph
from luthier.errors import ModelError


def refuse_twins(graph: Graph, rates: Mapping[str, float], *, same_mask: bool = True) -> None:
    """Refuse two nodes that begin alike, without dropout, and learn alike, where one teaches the other: S is 0 for
    ever. Other rates, masks, teachers or weights, an objective on one of them, and turns all make them differ.

    Args:
        graph: with the models.
        rates: learning rates of the trained nodes.
        same_mask: whether all nodes guess the same tokens.

    Raises:
        ModelError: names them.
    """
    if graph.alternates or not same_mask:
        return
    for edge in graph.edges:
        pair = edge.teacher, edge.student
        if not all(name in graph.trained for name in pair) or (graph.main_parts and graph.main in pair):
            continue
        one, other = (graph.models[name] for name in pair)
        lessons = [_lesson(graph, rates, name, set(pair)) for name in pair]
        if lessons[0] == lessons[1] and _same_weights(one, other) and not (_drops(one) or _drops(other)):
            raise ModelError(
                f"the nodes {edge.teacher} and {edge.student} begin with the same weights and have no dropout, so that "
                "neither would ever learn from the other",
                fix="start one of them at random, give it other sizes, or freeze it",
            )


def _lesson(graph: Graph, rates: Mapping[str, float], name: str, pair: set[str]) -> tuple[object, ...]:
    """All that decides on how a node moves, but the other one of the pair."""
    from_others = [edge for edge in graph.edges if edge.student == name and edge.teacher not in pair]
    lessons = sorted(edge.model_dump_json(exclude={"student"}) for edge in from_others)
    norm = graph.max_grad_norms.get(name, graph.max_grad_norm)
    return rates.get(name), graph.hard_weights.get(name), norm, lessons


def _same_weights(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = dict(one.named_parameters()), dict(other.named_parameters())
    return mine.keys() == theirs.keys() and all(
        p.shape == theirs[n].shape and p.equal(theirs[n]) for n, p in mine.items()
    )


def _drops(model: nn.Module) -> bool:
    """Whether anything is dropped at random while it is trained, by a layer or inside a layer's forward."""
    config = getattr(model, "config", None)
    stated = config.to_dict() if config is not None else {}
    inside = any("drop" in key and isinstance(value, int | float) and value > 0 for key, value in stated.items())
    return inside or any(isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules())
