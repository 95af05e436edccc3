"""Every fault is counted by its kind and named with its place, and the rest of the document is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.errors import DataError
from luthier.extraction.checking import FAULTS, REMARKS, check_documents
from luthier.extraction.documents import ignore_masks, overlap, overlapping
from luthier.extraction.formats.base import ReadingOptions
from luthier.extraction.formats.files import read_documents
from luthier.extraction.tokens import tokenise
from luthier.extraction.types import Types

TYPES = Types(["Loc", "Peop"], {"Live_In": False, "Spouse": True})


def document(entities: Any = (), relations: Any = (), **more: Any) -> dict[str, Any]:
    return {
        "tokens": "Anna and Boris live near Lake Balaton".split(),
        "entities": [{"type": kind, "start": a, "end": b} for a, b, kind in entities],
        "relations": [{"type": kind, "head": a, "tail": b} for a, b, kind in relations],
        **more,
    }


PEOPLE = [(0, 1, "Peop"), (2, 3, "Peop")]
FAULTY = [
    (
        "offsets",
        document([(0, 1, "Peop"), (6, 8, "Loc")]),
        "entity 1 ('Loc', words 6 to 8) does not lie in the 7 words",
    ),
    ("offsets", document([(3, 3, "Loc")]), "words 3 to 3) does not lie"),
    ("offsets", document([(-1, 1, "Loc")]), "words -1 to 1) does not lie"),
    ("offsets", document(ignore=[[5, 9]]), "1 ignored ranges do not lie in the 7 words"),
    ("unknown_type", document([(0, 1, "Peo")]), "no such type of entities; did you mean 'Peop'?"),
    ("unknown_type", document(PEOPLE, [(0, 1, "Lives_In")]), "no such type of relations; did you mean 'Live_In'?"),
    ("missing_entity", document(PEOPLE, [(0, 2, "Live_In")]), "entity 2 is not there"),
    ("missing_entity", document(PEOPLE, [(-1, 0, "Live_In")]), "entity -1 is not there"),
    ("missing_entity", document(PEOPLE, ignore_pairs=[[0, 5]]), "1 ignored pairs name entities that are not there"),
    ("document", {"tokens": []}, "has no words"),
    ("document", {"tokens": ["a", " "]}, "word 1 is ' ', which is no text"),
    ("document", document() | {"entities": {}}, "has no list under `entities`"),
    ("document", document() | {"entities": [{"type": "Loc", "start": "0", "end": 1}]}, "have to be whole numbers"),
    ("document", document() | {"relations": [{"head": 0, "tail": 1}]}, "which has no `type`"),
    ("document", document(offsets=[[0, 4]]), "`offsets` have to hold a start and an end for every word"),
    (
        "document",
        {"tokens": ["ab"], "text": "abc", "offsets": [[1, 3]]} | {"entities": [], "relations": []},
        "has 'bc'",
    ),
    ("document", 3, "is 3, which is no object"),
]


@pytest.mark.parametrize(("kind", "faulty", "message"), FAULTY, ids=[message for _, _, message in FAULTY])
def test_a_fault_is_counted_named_and_taken_out(kind: str, faulty: Any, message: str):
    sound = document(PEOPLE, [(0, 1, "Spouse")], id="good")
    found, findings = check_documents([sound, faulty], TYPES, name="train.json")
    assert findings.counts == {kind: 1}
    assert kind in FAULTS
    with pytest.raises(DataError) as caught:
        findings.raise_if_faulty()
    assert f"train.json: a fault ({kind} 1)\n  document 2" in str(caught.value)
    assert message in str(caught.value)
    assert found[0] == sound
    again, clean = check_documents(found, TYPES)
    assert again == found
    assert not clean.counts


def test_relations_of_a_faulty_entity_go_with_it_and_the_others_keep_their_entities():
    one = document([(0, 9, "Peop"), *PEOPLE], [(0, 1, "Live_In"), (1, 2, "Spouse")], ignore_pairs=[[2, 1], [0, 1]])
    (found,), findings = check_documents([one], TYPES)
    assert findings.counts == {"offsets": 1, "missing_entity": 1}
    assert found["relations"] == [{"type": "Spouse", "head": 0, "tail": 1}]
    assert found["ignore_pairs"] == [[1, 0]]


def test_what_is_there_twice_counts_once_and_is_remarked_on():
    one = document(
        [*PEOPLE, (0, 1, "Peop")], [(2, 1, "Live_In"), (0, 1, "Live_In"), (0, 1, "Spouse"), (1, 2, "Spouse")]
    )
    (found,), findings = check_documents([one], TYPES)
    assert findings.counts == {"duplicate": 3}
    assert not findings.faults.count
    assert found["entities"] == document(PEOPLE)["entities"]
    assert [(r["type"], r["head"], r["tail"]) for r in found["relations"]] == [("Live_In", 0, 1), ("Spouse", 0, 1)]


def test_remarks_are_counted_and_refuse_nothing():
    one = document([(0, 3, "Peop"), (2, 3, "Peop"), (4, 7, "Loc"), (4, 7, "Peop")], [(0, 0, "Spouse")])
    (found,), findings = check_documents([one], TYPES, max_span_size=2)
    assert found is one
    assert findings.counts == {"overlap": 2, "too_wide": 3, "self_relation": 1}
    assert set(findings.counts) <= set(REMARKS)
    findings.raise_if_faulty()


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5)).map(lambda s: (s[0], s[0] + s[1])), max_size=8))
def test_spans_that_share_words_are_found_as_by_looking_at_every_pair(spans: list[tuple[int, int]]):
    every = [any(overlap(a, b) for j, b in enumerate(spans) if i != j) for i, a in enumerate(spans)]
    assert overlapping(spans) == every


def test_masks_of_what_is_not_known():
    one = document([*PEOPLE, (5, 7, "Loc")], ignore=[[6, 7]], ignore_pairs=[[0, 1]])
    words, pairs = ignore_masks(one)
    assert list(np.flatnonzero(words)) == [6]
    assert pairs.tolist() == [[False, True, True], [False, False, True], [True, True, True]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop, U.S. 3.5%!", "Don|'|t|stop|,|U|.|S|.|3|.|5|%|!"),
        ("naïve cafe\u0301 x_1", "naïve|cafe\u0301|x_1"),
        ("हिन्दी में", "हिन्दी|में"),
        ("我住在Paris。", "我|住|在|Paris|。"),
        ("ไทย", "ไ|ท|ย"),
        ("می‌خواهم 🙂", "می‌خواهم|🙂"),
        (" \n\t", ""),
    ],
)
def test_words_of_a_text(text: str, words: str):
    assert "|".join(text[a:b] for a, b in tokenise(text)) == words
    assert ["".join(text[a:b] for a, b in tokenise(text, "blanks"))] == ["".join(text.split())]


def written(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf8")
    return path


def characters(*entities: Any, text: str = "Anna lives in Paris.", relations: Any = ()) -> dict[str, Any]:
    return {"text": text, "entities": [dict(one) for one in entities], "relations": list(relations)}


def test_spans_inside_words_are_refused_or_widened_as_told(tmp_path: Path):
    one = characters({"type": "Loc", "start": 14, "end": 17}, {"type": "Peop", "start": 0, "end": 5})
    file = written(tmp_path / "c.jsonl", characters(), one)
    with pytest.raises(DataError) as caught:
        read_documents(file)
    told = "document 2: entity 0 ('Loc', characters 14 to 17), 'Par', begins or ends inside a word"
    assert told in str(caught.value)
    dropped = read_documents(file, invalid="drop")
    assert dropped.findings.counts == {"misaligned": 1}
    assert dropped.documents[1]["ignore"] == [[3, 4]]  # Paris is no example of a word that is none
    # A blank at the end of a span is no word.
    assert dropped.documents[1]["entities"] == [{"type": "Peop", "start": 0, "end": 1}]
    widened = read_documents(file, options=ReadingOptions(align="widen"))
    assert widened.findings.counts == {"widened": 1}
    assert widened.documents[1]["entities"][0] == {"type": "Loc", "start": 3, "end": 4}


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        ("offsets", characters({"type": "Loc", "start": 14, "end": 40})),
        ("offsets", characters({"type": "Loc", "start": 5, "end": 5})),
        ("offsets", characters({"type": "Loc", "start": 4, "end": 5})),
        ("offsets", characters({"type": "Loc", "start": "14", "end": 19})),
        ("text_differs", characters({"type": "Loc", "start": 14, "end": 19, "text": "Rome"})),
        ("missing_entity", characters(relations=[{"type": "Live_In", "head": 0, "tail": [1]}])),
        ("unreadable", characters({"start": 14, "end": 19})),
        ("unreadable", {"text": "Anna", "entities": 3}),
        ("document", {"entities": []}),
        ("document", {"text": "  "}),
    ],
)
def test_faults_of_characters_are_counted(kind: str, record: Any, tmp_path: Path):
    corpus = read_documents(written(tmp_path / "c.jsonl", characters(), record), "offsets_jsonl", invalid="drop")
    assert corpus.findings.counts == {kind: 1}
    assert corpus.findings.faults.found[0].startswith("document 2")


def test_lines_that_are_no_json_are_named_by_line(tmp_path: Path):
    file = written(tmp_path / "c.jsonl", characters())
    file.write_text("\n" + file.read_text() + "{\n", encoding="utf8")
    corpus = read_documents(file, invalid="drop")
    assert len(corpus.documents) == 1
    assert corpus.findings.faults.found[0].startswith("document 2 (line 3): is not valid JSON")


def test_brat_files_of_people(tmp_path: Path):
    (tmp_path / "a.txt").write_text("Anna and Boris\nlive near Lake Balaton.", encoding="utf8")
    rows = [
        "T1\tPeop 0 4\tAnna",
        "T2\tPeop 9 14\tBoris",
        "T3\tLoc 25 37\tLake Balaton",
        "T4\tLoc 0 4;9 14\tAnna Boris",
        "R1\tLive_In Arg1:T1 Arg2:T3\t",
        "R2\tLive_In Arg1:T1 Arg2:T4\t",
        "*\tSpouse T1 T2",
        "A1\tSure T1",
        "#1\tAnnotatorNotes T1\ta note",
        "nonsense",
    ]
    (tmp_path / "a.ann").write_text("\n".join(rows), encoding="utf8")
    corpus = read_documents(tmp_path, invalid="drop")
    (one,) = corpus.documents
    assert corpus.findings.counts == {"discontinuous": 1, "missing_entity": 1, "not_read": 2, "unreadable": 1}
    assert corpus.findings.faults.found[0].startswith("a.ann, line 4: T4 is in several pieces")
    assert one["ignore"] == [[0, 3]]  # Anna and Boris
    assert [(r["type"], r["head"], r["tail"]) for r in one["relations"]] == [("Live_In", 0, 2), ("Spouse", 0, 1)]
    assert corpus.types == Types(["Loc", "Peop"], {"Live_In": False, "Spouse": True})
    (tmp_path / "a.txt").unlink()
    with pytest.raises(DataError, match=r"has no \.txt file beside it"):
        read_documents(tmp_path)


def test_columns_of_people(tmp_path: Path):
    rows = [
        "#doc 17",
        "0\tAnna\tB-Peop\t['Live_In', 'Live_In']\t[3, 2]",
        "1\tlives\tI-Loc",
        "2\tin\tO\t[N]\t[2]",
        "",
        "",
    ]
    file = tmp_path / "c.conll"
    file.write_text("\n".join([*rows, "0\tBoris\tB-Peop", "nothing"]), encoding="utf8")
    corpus = read_documents(file, invalid="drop")
    assert corpus.findings.counts == {"unreadable": 2, "missing_entity": 2, "document": 1}
    assert corpus.findings.faults.found[0].startswith("document 1 (line 2): line 3 goes on with 'I-Loc'")
    assert corpus.findings.faults.found[-1].startswith("document 2 (line 7): line 8 is ['nothing']")
    assert [one["tokens"] for one in corpus.documents] == [["Anna", "lives", "in"]]  # without a word it is another text
    assert corpus.documents[0]["ignore"] == [[1, 2]]
    assert corpus.documents[0]["id"] == "17"


def test_doccano_of_both_kinds(tmp_path: Path):
    new = {"id": 4, "text": "Anna lives in Paris", "Comments": []} | {
        "entities": [
            {"id": 70, "label": "Peop", "start_offset": 0, "end_offset": 4},
            {"id": 71, "label": "Loc", "start_offset": 14, "end_offset": 19},
        ],
        "relations": [{"id": 9, "from_id": 70, "to_id": 71, "type": "Live_In"}],
    }
    old = {"id": 5, "text": "Anna lives in Paris", "label": [[0, 4, "Peop"], [14, 19, "Loc"]]}
    first, second = read_documents(written(tmp_path / "c.jsonl", new, old)).documents
    assert first["entities"] == second["entities"]
    assert first["relations"] == [{"type": "Live_In", "head": 0, "tail": 1}]


def test_label_studio_of_people(tmp_path: Path):
    def label(key: str, start: int, end: int, *labels: str) -> dict[str, Any]:
        return {"id": key, "type": "labels", "value": {"start": start, "end": end, "labels": list(labels)}}

    def relation(head: str, tail: str, direction: str, *labels: str) -> dict[str, Any]:
        return {"type": "relation", "from_id": head, "to_id": tail, "direction": direction, "labels": list(labels)}

    results = [
        relation("b", "a", "left", "Live_In"),
        label("a", 0, 4, "Peop", "Author"),
        label("b", 14, 19, "Loc"),
        relation("a", "b", "bi", "Near"),
        {"id": "c", "type": "choices", "value": {"choices": ["x"]}},
    ]
    annotations = [{"was_cancelled": True, "result": []}, {"result": results}, {"result": []}]
    task = {"id": 8, "data": {"text": "Anna lives in Paris"}, "annotations": annotations}
    (tmp_path / "c.json").write_text(json.dumps([task]), encoding="utf8")
    corpus = read_documents(tmp_path / "c.json")
    (one,) = corpus.documents
    assert [(e["type"], e["start"]) for e in one["entities"]] == [("Peop", 0), ("Author", 0), ("Loc", 3)]
    assert [(r["type"], r["head"], r["tail"]) for r in one["relations"]] == [("Live_In", 0, 2), ("Near", 0, 2)]
    assert corpus.types.relations == {"Live_In": False, "Near": True}
    assert corpus.findings.counts == {"not_read": 2, "overlap": 1}


def test_offsets_of_browsers_count_utf_16_units(tmp_path: Path):
    text = "🙂🙂 Anna 🙂 lives in Paris"
    units = [
        {"type": "Peop", "start": 5, "end": 9, "text": "Anna"},
        {"type": "Loc", "start": 22, "end": 27, "text": "Paris"},
    ]
    (one,) = read_documents(written(tmp_path / "c.jsonl", characters(*units, text=text))).documents
    assert [one["tokens"][e["start"]] for e in one["entities"]] == ["Anna", "Paris"]
    untold = [units[0], {"type": "Loc", "start": 22, "end": 27}]
    (one,) = read_documents(written(tmp_path / "c.jsonl", characters(*untold, text=text))).documents
    assert [one["tokens"][e["start"]] for e in one["entities"]] == ["Anna", "Paris"]
    half = [units[0], {"type": "Loc", "start": 1, "end": 4}]
    with pytest.raises(DataError, match="offsets 1"):
        read_documents(written(tmp_path / "c.jsonl", characters(*half, text=text)))


def test_offsets_that_may_count_utf_16_units_are_not_believed_without_their_text(tmp_path: Path):
    text = "🙂🙂 Anna 🙂 lives in Paris"
    units = [{"type": "Peop", "start": 4, "end": 8}, {"type": "Loc", "start": 22, "end": 27}]
    file = written(tmp_path / "c.jsonl", characters(*units, text=text))
    with pytest.raises(DataError, match=r"offsets 2(.|\n)*may count UTF-16 units; count characters, or give the text"):
        read_documents(file)
    (one,) = read_documents(file, invalid="drop").documents
    assert one["entities"] == []
    (one,) = read_documents(written(tmp_path / "c.jsonl", characters(units[0], text="🙂🙂  Anna"))).documents
    assert one["tokens"][one["entities"][0]["start"]] == "Anna"


@pytest.mark.parametrize(
    ("entities", "relations", "counts"),
    [
        ([{"type": "IGNORE"}], [], {"document": 1}),
        ([{"type": "IGNORE", "start": 0, "end": 99}], [], {"offsets": 1}),
        ([], [{"type": "IGNORE", "head": 0, "tail": 1}], {"missing_entity": 1}),
        ([{"type": "IGNORE", "start": 0, "end": 2}], [{"type": "x", "head": 0, "tail": 0}], {"not_read": 1}),
    ],
)
def test_faults_of_ignored_parts_are_counted(entities: Any, relations: Any, counts: Any, tmp_path: Path):
    file = written(tmp_path / "c.jsonl", {"tokens": ["a", "b"], "entities": entities, "relations": relations})
    assert read_documents(file, invalid="drop").findings.counts == counts


def test_entities_whose_id_is_null_are_known_by_their_place(tmp_path: Path):
    ends = ({"id": None, "start": 0, "end": 4}, {"id": None, "start": 14, "end": 19})
    one = characters(*({"type": "x"} | end for end in ends), relations=[{"type": "r", "head": 0, "tail": 1}])
    assert read_documents(written(tmp_path / "o.jsonl", one)).documents[0]["relations"][0]["tail"] == 1
    named = [{"id": None, "label": "x", "start_offset": one["start"], "end_offset": one["end"]} for one in ends]
    file = written(tmp_path / "d.jsonl", {"text": one["text"], "entities": named})
    assert len(read_documents(file).documents[0]["entities"]) == 2
    results = [{"type": "labels", "value": end | {"labels": ["x", "y"]}} for end in ends]
    file = written(tmp_path / "l.jsonl", {"data": {"text": one["text"]}, "annotations": [{"result": results}]})
    assert len(read_documents(file).documents[0]["entities"]) == 4
    odd = [{"id": ["a"], **result} for result in results]
    file = written(tmp_path / "l.jsonl", {"data": {"text": one["text"]}, "annotations": [{"result": odd}]})
    with pytest.raises(DataError, match="two entities are called"):
        read_documents(file)


def test_a_format_is_guessed_from_the_first_record_that_tells(tmp_path: Path):
    old = {"text": "Anna met Bo", "label": [[0, 4, "Peop"]]}
    new = {"text": "Anna met Bo", "entities": [{"label": "Peop", "start_offset": 0, "end_offset": 4}]}
    for some in ([old | {"label": []}, old], [new | {"entities": []}, {"text": "x"}, new]):
        documents = read_documents(written(tmp_path / "c.jsonl", *some)).documents
        assert sum(len(one["entities"]) for one in documents) == 1


def test_marks_of_byte_order_are_no_part_of_brat_annotations(tmp_path: Path):
    (tmp_path / "a.txt").write_text("Anna", encoding="utf8")
    (tmp_path / "a.ann").write_text("T1\tPeop 0 4\tAnna\r\n", encoding="utf-8-sig")
    (tmp_path / "annotation.conf").write_text("[entities]\r\nPeop\r\n", encoding="utf-8-sig")
    corpus = read_documents(tmp_path)
    assert (len(corpus.documents[0]["entities"]), corpus.types.entities) == (1, ["Peop"])


@pytest.mark.parametrize("entities", [3, [3], {"a": 1}, ["start_offset"]])
def test_odd_first_records_are_told_and_never_a_traceback(entities: Any, tmp_path: Path):
    with pytest.raises(DataError):
        read_documents(written(tmp_path / "c.jsonl", {"text": "Anna", "entities": entities}))


def test_a_file_of_nothing_known_is_refused(tmp_path: Path):
    (tmp_path / "x.json").write_text("[3]", encoding="utf8")
    with pytest.raises(DataError, match="is in none of the known formats"):
        read_documents(tmp_path / "x.json")
    with pytest.raises(DataError, match=r"has no \.ann file"):
        read_documents(tmp_path)
    with pytest.raises(DataError, match="there is no such file"):
        read_documents(tmp_path / "nowhere.json")
