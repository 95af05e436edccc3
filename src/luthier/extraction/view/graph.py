"""Extractions as a graph for other programs: GraphML and JSON-LD. Nodes are entities, edges are relations.

With `merge`, mentions of equal words and type are one node, and equal relations between such are one edge that says how
often it was found; otherwise every mention is a node of its own. A relation of a symmetric type goes from the node that
is found first, as few programs read graphs with edges of both kinds.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from luthier.extraction.documents import Document, words_of
from luthier.extraction.types import Types
from luthier.storage.files import write_bytes

# Characters that XML 1.0 can't hold.
_UNFIT = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_GRAPHML = "http://graphml.graphdrawing.org/xmlns"
_BASE = "urn:luthier:"
_FIELDS = {"name": "string", "type": "string", "count": "int", "score": "double", "documents": "string"}


@dataclass
class Node:
    """An entity.

    Attributes:
        name, type: its words and its type.
        count: how many mentions.
        score: the highest of them, where they have one.
        documents: ids, or numbers from 1, of the documents it is in.
    """

    name: str
    type: str
    count: int = 0
    score: float | None = None
    documents: list[str] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set, repr=False, compare=False)

    def take(self, document: str, score: float | None) -> None:
        """Count one more mention."""
        self.count += 1
        self.score = score if self.score is None else max(self.score, score if score is not None else self.score)
        if document not in self._seen:
            self._seen.add(document)
            self.documents.append(document)


@dataclass
class Edge(Node):
    """A relation; `head` and `tail` are places of nodes, interchangeable ones where it is not `directed`."""

    head: int = 0
    tail: int = 0
    directed: bool = True


def graph_of(
    documents: Sequence[Document], types: Types | None = None, *, merge: bool = True
) -> tuple[list[Node], list[Edge]]:
    """Nodes and edges of documents, in the order in which they are first found.

    Args:
        documents: sound ones.
        types: tell which relations are symmetric; none by default.
        merge: see the module.
    """
    types = types or Types()
    nodes: dict[Any, Node] = {}
    edges: dict[Any, Edge] = {}
    place: dict[Any, int] = {}
    for number, document in enumerate(documents, 1):
        name = str(document.get("id", number))
        keys = []
        for index, one in enumerate(document["entities"]):
            words = " ".join(words_of(document, (one["start"], one["end"])).split())
            key = (words, one["type"]) if merge else (number, index)
            place.setdefault(key, len(place))
            nodes.setdefault(key, Node(words, one["type"])).take(name, one.get("score"))
            keys.append(key)
        for index, one in enumerate(document["relations"]):
            ends = place[keys[one["head"]]], place[keys[one["tail"]]]
            directed = not types.is_symmetric(one["type"])
            ends = ends if directed else (min(ends), max(ends))
            edge_key = (ends, one["type"]) if merge else (number, index)
            made = Edge("", one["type"], head=ends[0], tail=ends[1], directed=directed)
            edges.setdefault(edge_key, made).take(name, one.get("score"))
    return list(nodes.values()), list(edges.values())


def to_graphml(documents: Sequence[Document], types: Types | None = None, *, merge: bool = True) -> str:
    """The graph as GraphML; a character that XML can't hold becomes U+FFFD."""
    nodes, edges = graph_of(documents, types, merge=merge)
    root = ET.Element("graphml", xmlns=_GRAPHML)
    for what in ("node", "edge"):
        for name, kind in _FIELDS.items():
            ET.SubElement(root, "key", {"id": f"{what}_{name}", "for": what, "attr.name": name, "attr.type": kind})
    graph = ET.SubElement(root, "graph", id="extractions", edgedefault="directed")
    for number, node in enumerate(nodes):
        _fill(ET.SubElement(graph, "node", id=f"n{number}"), "node", node)
    for number, edge in enumerate(edges):
        ends = {"source": f"n{edge.head}", "target": f"n{edge.tail}"}
        _fill(ET.SubElement(graph, "edge", ends, id=f"e{number}"), "edge", edge)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _fill(element: ET.Element, what: str, one: Node) -> None:
    values = {"name": one.name or None, "type": one.type, "count": one.count, "score": one.score}
    for name, value in (values | {"documents": " ".join(one.documents)}).items():
        if value is not None:
            ET.SubElement(element, "data", key=f"{what}_{name}").text = _UNFIT.sub("\ufffd", str(value))


def to_json_ld(documents: Sequence[Document], types: Types | None = None, *, merge: bool = True) -> dict[str, Any]:
    """The graph as JSON-LD: an entity has its relations as properties, whose IRIs are `urn:luthier:relation:` and the
    quoted name, both of its ends where it has no direction; a statement (rdf:Statement) of each tells how often and how
    surely it was found."""
    nodes, edges = graph_of(documents, types, merge=merge)
    made: list[dict[str, Any]] = [
        {"@id": f"_:n{i}", "@type": f"entity:{_quoted(node.type)}", "name": node.name, **_told(node)}
        for i, node in enumerate(nodes)
    ]
    statements = []
    for number, edge in enumerate(edges):
        relation = f"relation:{_quoted(edge.type)}"
        ways = [(edge.head, edge.tail), *([] if edge.directed else [(edge.tail, edge.head)])]
        for head, tail in dict.fromkeys(ways):
            made[head].setdefault(relation, []).append({"@id": f"_:n{tail}"})
        statement = {"@id": f"_:e{number}", "@type": "rdf:Statement", "rdf:predicate": {"@id": relation}}
        ends = {"rdf:subject": {"@id": f"_:n{edge.head}"}, "rdf:object": {"@id": f"_:n{edge.tail}"}}
        statements.append(statement | ends | _told(edge))
    context = {
        "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
        "name": "http://schema.org/name",
        "entity": {"@id": f"{_BASE}entity:", "@prefix": True},
        "relation": {"@id": f"{_BASE}relation:", "@prefix": True},
        **{term: f"{_BASE}{term}" for term in ("count", "score", "documents")},
    }
    return {"@context": context, "@graph": [*made, *statements]}


def _quoted(name: str) -> str:
    return quote(name.encode(errors="replace"), safe="")


def _told(one: Node) -> dict[str, Any]:
    score = {} if one.score is None else {"score": one.score}
    return {"count": one.count, **score, "documents": one.documents}


def write_graph(path: Path, documents: Sequence[Document], types: Types | None = None, *, merge: bool = True) -> Path:
    """Write GraphML, or JSON-LD where the file ends in .jsonld or .json, in one step.

    Raises:
        WorkspaceError: the file can't be written.
    """
    if Path(path).suffix in (".jsonld", ".json"):
        text = json.dumps(to_json_ld(documents, types, merge=merge), ensure_ascii=False, indent=1) + "\n"
    else:
        text = to_graphml(documents, types, merge=merge)
    write_bytes(Path(path), text.encode(errors="backslashreplace"))
    return Path(path)
