"""Entity and relation types, and how they stand in one list of labels.

A model's outputs are named by one list: `entity:Person`, `relation:works_for`, `symmetric relation:sibling`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ENTITY, RELATION, SYMMETRIC = "entity:", "relation:", "symmetric relation:"


@dataclass(frozen=True)
class ExtractionTypes:
    """What is told apart.

    Attributes:
        entities: names of the entity types, in the order of their ids.
        relations: names of the relation types, in the order of their ids.
        symmetric: whether head and tail of each relation type can change places.
    """

    entities: tuple[str, ...] = ()
    relations: tuple[str, ...] = ()
    symmetric: tuple[bool, ...] = ()

    @classmethod
    def of_labels(cls, labels: Iterable[str]) -> ExtractionTypes:
        """Raises:
        ValueError: a label says of nothing what it is, or a type is named twice.
        """
        entities, relations, symmetric = list[str](), list[str](), list[bool]()
        for label in labels:
            kind = next((one for one in (ENTITY, RELATION, SYMMETRIC) if label.startswith(one)), None)
            if kind is None or label == kind:
                raise ValueError(f"the label {label!r} is none of `{ENTITY}NAME`, `{RELATION}NAME`, `{SYMMETRIC}NAME`")
            name = label.removeprefix(kind)
            (entities if kind == ENTITY else relations).append(name)
            symmetric += [] if kind == ENTITY else [kind == SYMMETRIC]
        for names in (entities, relations):
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"the type {twice[0]!r} is named twice")
        return cls(tuple(entities), tuple(relations), tuple(symmetric))

    @property
    def labels(self) -> list[str]:
        """The list that `of_labels` reads."""
        kinds = [SYMMETRIC if both else RELATION for both in self.symmetric]
        named = [kind + name for kind, name in zip(kinds, self.relations, strict=True)]
        return [ENTITY + name for name in self.entities] + named

    def ordered(self, labels: Sequence[str]) -> bool:
        """Whether the labels stand in the order that outputs have: entity types first."""
        return self.labels == list(labels)
