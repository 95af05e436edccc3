"""Entity and relation types, and how they stand in one list of labels.

A model's outputs are named by one list: `entity:Person`, `relation:works_for`, `symmetric relation:sibling`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.data.sources.base import FileSource, unpacked

ENTITY, RELATION, SYMMETRIC = "entity:", "relation:", "symmetric relation:"


@dataclass
class Types:
    """Types that a corpus knows.

    Attributes:
        entities: names of entity types.
        relations: name of a relation type -> whether it is symmetric, so that head and tail are interchangeable.
    """

    entities: list[str] = field(default_factory=list)
    relations: dict[str, bool] = field(default_factory=dict)

    @classmethod
    def of(cls, documents: Iterable[Mapping[str, Any]], symmetric: Iterable[str] = ()) -> Types:
        """The types that documents use, sorted by name; relations are directed unless they are named."""
        documents = list(documents)
        entities = {entity["type"] for document in documents for entity in document["entities"]}
        relations = {relation["type"] for document in documents for relation in document["relations"]}
        named = set(symmetric)
        return cls(sorted(entities), {name: name in named for name in sorted(relations)})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Types:
        """From `{entities: [names] or {name: ...}, relations: {name: {symmetric: bool}} or [names]}`, as SpERT's
        types.json has them.

        Raises:
            ValueError: it has another shape.
        """
        entities, relations = (data.get(key, []) for key in ("entities", "relations"))
        if not isinstance(entities, list | dict) or not isinstance(relations, list | dict):
            raise ValueError("`entities` and `relations` have to be lists of names, or name what each type is")
        if not all(isinstance(name, str) for name in (*entities, *relations)):
            raise ValueError("the name of a type is no text")
        if isinstance(relations, list):
            relations = {name: {} for name in relations}
        known = {name: isinstance(of, Mapping) and bool(of.get("symmetric")) for name, of in relations.items()}
        return cls(list(entities), known)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {
            "entities": list(self.entities),
            "relations": {name: {"symmetric": symmetric} for name, symmetric in self.relations.items()},
        }

    def is_symmetric(self, relation: str) -> bool:
        """Whether head and tail of a relation of this type are interchangeable."""
        return self.relations.get(relation, False)

    @classmethod
    def of_labels(cls, labels: Iterable[str]) -> Types:
        """The types that a model's outputs are, in the order of their ids.

        Raises:
            ValueError: a label says of nothing what it is, or a type is named twice.
        """
        made = cls()
        for label in labels:
            kind = next((one for one in (ENTITY, RELATION, SYMMETRIC) if label.startswith(one)), None)
            if kind is None or label == kind:
                raise ValueError(f"the label {label!r} is none of `{ENTITY}NAME`, `{RELATION}NAME`, `{SYMMETRIC}NAME`")
            name = label.removeprefix(kind)
            if name in (made.entities if kind == ENTITY else made.relations):
                raise ValueError(f"the type {name!r} is named twice")
            if kind == ENTITY:
                made.entities.append(name)
            else:
                made.relations[name] = kind == SYMMETRIC
        return made

    @property
    def labels(self) -> list[str]:
        """The list that `of_labels` reads, entity types first."""
        named = [(SYMMETRIC if both else RELATION) + name for name, both in self.relations.items()]
        return [ENTITY + name for name in self.entities] + named

    @property
    def relation_names(self) -> list[str]:
        """Names of the relation types, in the order of their ids."""
        return list(self.relations)

    @property
    def symmetric(self) -> tuple[bool, ...]:
        """Whether each relation type is symmetric, in the order of their ids."""
        return tuple(self.relations.values())


def own_types_file(path: Path) -> Path:
    """Where the types of a file in SpERT's form are written: `NAME.types.json` beside one called NAME."""
    return path.parent / f"{Path(unpacked(path.name)).stem}.types.json"


def types_file_beside(file: FileSource) -> FileSource | None:
    """The file that names the types of one in SpERT's form: its own, that of files whose names begin alike up to a dot,
    `types.json`, or the one `..._types.json` in its folder; None where there is none.

    Raises:
        DataError: the archive that it is in can't be read.
    """
    beside, name = file.beside(), file.file_name
    for one in (own_types_file(Path(name)).name, f"{name.split('.')[0]}.types.json", "types.json"):
        if one in beside:
            return beside[one]
    named = [found for one, found in beside.items() if one.endswith("_types.json")]
    return named[0] if len(named) == 1 else None
