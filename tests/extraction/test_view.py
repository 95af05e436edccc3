"""The page of extractions and the graphs: whole, escaped, and read by programs that are not ours."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path

import networkx
import pytest

from luthier.extraction.types import Types
from luthier.extraction.view.graph import graph_of, to_graphml, to_json_ld, write_graph
from luthier.extraction.view.page import render_view, write_view

from .corpora import TYPES, sentences

HOSTILE = "<script>alert(1)</script>&\u202e\x01"
DOCUMENTS = [
    {
        "id": "a",
        "tokens": ["Anna", "lives", "in", "Paris"],
        "entities": [
            {"type": "Peop", "start": 0, "end": 1, "score": 0.5},
            {"type": "Loc", "start": 3, "end": 4, "score": 0.75},
        ],
        "relations": [{"type": "Live In", "head": 0, "tail": 1, "score": 0.25}],
    },
    {
        "id": "b",
        "tokens": ["Anna", "left", "Paris", HOSTILE],
        "entities": [
            {"type": "Peop", "start": 0, "end": 1, "score": 0.9},
            {"type": "Loc", "start": 2, "end": 3},
            {"type": HOSTILE, "start": 3, "end": 4},
        ],
        "relations": [
            {"type": "Live In", "head": 0, "tail": 1, "score": 0.5},
            {"type": HOSTILE, "head": 2, "tail": 1},
        ],
    },
]


def test_the_page_is_whole_loads_nothing_and_escapes_everything(tmp_path: Path):
    page = write_view(tmp_path / "v.html", DOCUMENTS, title=HOSTILE).read_text(encoding="utf8")
    assert "<script" not in page
    assert "\u202e" not in page
    assert not re.search(r"(?:src|href)\s*=|url\(|@import|https?://(?!www\.w3\.org/2000/svg)", page)
    assert "default-src 'none'" in page
    assert page.count("<svg") == page.count("</svg>") == 4
    assert "2 documents, 5 entities, 3 relations." in page
    assert "Anna → Live In → Paris 0.2500" in page
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page


def test_colours_follow_the_order_of_types():
    first = render_view(DOCUMENTS[:1], Types(["Loc", "Peop"]), title="")
    other = render_view(DOCUMENTS[:1], Types(["Peop", "Loc"]), title="")
    anna = re.compile(r"Anna: Peop 0\.5000</title><rect[^>]*var\(--series-(\d)")
    assert (anna.search(first)[1], anna.search(other)[1]) == ("1", "0")  # type: ignore[index]


def test_many_documents_are_counted_and_the_first_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("luthier.extraction.view.page.MOST_DOCUMENTS", 3)
    page = render_view(sentences(5, 0), TYPES, title="many")
    assert page.count("<article>") == 3
    assert "2 more documents are not shown." in page


def test_equal_mentions_are_one_node_or_each_its_own():
    nodes, edges = graph_of(DOCUMENTS)
    assert [(n.name, n.type, n.count, n.score) for n in nodes[:2]] == [
        ("Anna", "Peop", 2, 0.9),
        ("Paris", "Loc", 2, 0.75),
    ]
    assert [(e.head, e.tail, e.type, e.count, e.score, e.documents) for e in edges[:1]] == [
        (0, 1, "Live In", 2, 0.5, ["a", "b"])
    ]
    assert [len(part) for part in graph_of(DOCUMENTS, merge=False)] == [5, 3]


@pytest.mark.parametrize("merge", [True, False])
def test_networkx_reads_the_graphml(merge: bool):
    read = networkx.read_graphml(io.BytesIO(to_graphml(DOCUMENTS, merge=merge).encode()))
    nodes, edges = graph_of(DOCUMENTS, merge=merge)
    assert [(d["name"], d["type"], d["count"], d.get("score")) for _, d in read.nodes(data=True)] == [
        (n.name.replace("\x01", "\ufffd"), n.type.replace("\x01", "\ufffd"), n.count, n.score) for n in nodes
    ]
    assert sorted((u, v, d["type"]) for u, v, d in read.edges(data=True)) == sorted(
        (f"n{e.head}", f"n{e.tail}", e.type.replace("\x01", "\ufffd")) for e in edges
    )


def test_json_ld_has_relations_as_properties_and_as_statements():
    data = json.loads(json.dumps(to_json_ld(DOCUMENTS)))
    anna = data["@graph"][0]
    assert (anna["name"], anna["@type"], anna["relation:Live%20In"]) == ("Anna", "entity:Peop", [{"@id": "_:n1"}])
    statement = next(one for one in data["@graph"] if one["@id"] == "_:e0")
    assert (statement["rdf:predicate"], statement["count"], statement["score"]) == (
        {"@id": "relation:Live%20In"},
        2,
        0.5,
    )
    prefixes = {name.partition(":")[0] for one in data["@graph"] for name in one if ":" in name}
    assert prefixes <= set(data["@context"])


def test_a_relation_without_direction_is_one_edge_either_way_round():
    mentions = [[{"type": "Peop", "start": n, "end": n + 1} for n in (0, 1)] for _ in range(2)]
    words = (["Anna", "Bo"], ["Bo", "Anna"])
    married = [{"type": kind, "head": 0, "tail": 1} for kind in ("Spouse", "Kill")]
    documents = [
        {"tokens": tokens, "entities": entities, "relations": married}
        for tokens, entities in zip(words, mentions, strict=True)
    ]
    edges = graph_of(documents, TYPES)[1]
    assert [(e.type, e.head, e.tail, e.count) for e in edges] == [
        ("Spouse", 0, 1, 2),
        ("Kill", 0, 1, 1),
        ("Kill", 1, 0, 1),
    ]
    nodes = to_json_ld(documents, TYPES)["@graph"][:2]
    assert [one["relation:Spouse"] for one in nodes] == [[{"@id": "_:n1"}], [{"@id": "_:n0"}]]


def test_an_entity_of_many_documents_takes_no_time_by_their_square():
    one = {"tokens": ["Anna"], "entities": [{"type": "Peop", "start": 0, "end": 1}], "relations": []}
    began = time.process_time()
    (node,), _ = graph_of([{**one, "id": f"text {number}"} for number in range(60_000)])
    assert time.process_time() - began < 10  # some tenths of a second, and minutes where every id is looked for
    assert node.count == len(node.documents) == 60_000


def test_the_suffix_says_which_graph(tmp_path: Path):
    assert json.loads(write_graph(tmp_path / "g.jsonld", DOCUMENTS).read_text())["@graph"]
    assert write_graph(tmp_path / "g.graphml", DOCUMENTS).read_text().startswith("<?xml")
