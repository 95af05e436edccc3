"""What is written in a format is read back: documents made by chance, by words and with texts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data import DataSettings, load_data
from luthier.data.sources.base import FolderSource
from luthier.errors import DataError, WorkspaceError
from luthier.extraction.formats import brat
from luthier.extraction.formats.base import ReadingOptions
from luthier.extraction.formats.files import FORMATS, read_documents, write_documents
from luthier.extraction.tokens import tokenise
from luthier.extraction.types import Types
from luthier.extras import is_installed
from luthier.prediction.extracting import documents_of_file

from .corpora import TYPES, sentences

SUFFIX = {
    "spert": "c.json",
    "columns": "c.conll",
    "brat": "c",
    "spacy_docbin": "c.spacy",
    "label_studio": "c.json",
    "doccano": "c.jsonl",
    "offsets_jsonl": "c.jsonl",
}
INSTALLED = [
    pytest.param(
        name, marks=pytest.mark.skipif(name == "spacy_docbin" and not is_installed("spacy"), reason="no spaCy")
    )
    for name in FORMATS
]
BY_CHARACTERS = [one for one in INSTALLED if one.values[0] not in ("spert", "columns")]
words = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=6).filter(
    lambda word: len(word.split()) == 1 and word == word.strip()
)
texts = st.text(st.sampled_from("ab1 .,-\n\té\u0301漢字ไทยहिन्दी🙂"), min_size=1, max_size=40).filter(str.strip)


@st.composite
def annotations(draw: Any, length: int, *, flat: bool) -> dict[str, Any]:
    spans = draw(st.sets(st.tuples(st.integers(0, length - 1), st.integers(1, 4)), max_size=5))
    entities: list[dict[str, Any]] = []
    for start, width in sorted(spans):
        end = min(length, start + width)
        taken = any(start < e["end"] and e["start"] < end for e in entities)
        twice = any((start, end) == (e["start"], e["end"]) for e in entities)
        if not twice and not (flat and taken):
            entities.append({"type": draw(st.sampled_from(TYPES.entities)), "start": start, "end": end})
    pairs = [(i, j) for i in range(len(entities)) for j in range(len(entities)) if i != j]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=4)) if pairs else []
    kinds = [draw(st.sampled_from(["Kill", "Live_In"])) for _ in chosen]
    relations = [{"type": k, "head": i, "tail": j} for k, (i, j) in zip(kinds, chosen, strict=True)]
    return {"entities": entities, "relations": relations}


@st.composite
def corpora(draw: Any, flat: bool, with_text: bool) -> list[dict[str, Any]]:
    made = []
    for _ in range(draw(st.integers(1, 3))):
        if with_text:
            text = draw(texts)
            offsets = tokenise(text)
            one = {"tokens": [text[a:b] for a, b in offsets], "text": text, "offsets": offsets}
        else:
            one = {"tokens": draw(st.lists(words, min_size=1, max_size=10))}
        made.append(one | draw(annotations(len(one["tokens"]), flat=flat)))
    return made


def said(document: dict[str, Any], *, text: bool) -> Any:
    """What a document says, whatever the order in which it says so."""
    named = [(e["start"], e["end"], e["type"]) for e in document["entities"]]
    relations = sorted((r["type"], named[r["head"]], named[r["tail"]]) for r in document["relations"])
    more = (document["text"], document["offsets"]) if text else ()
    return document["tokens"], sorted(named), relations, more


def there_and_back(documents: list[dict[str, Any]], name: str, tokeniser: str, **options: Any) -> Any:
    with TemporaryDirectory() as folder:
        path = Path(folder) / SUFFIX[name]
        write_documents(path, documents, name, types=options.pop("types", None))
        return read_documents(path, name, options=ReadingOptions(tokeniser=tokeniser), **options)


@pytest.mark.parametrize("name", INSTALLED)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_words_and_what_is_annotated_come_back(name: str, data: Any):
    documents = data.draw(corpora(name == "columns", False))
    corpus = there_and_back(documents, name, "blanks")
    assert [said(one, text=False) for one in corpus.documents] == [said(one, text=False) for one in documents]
    assert not corpus.findings.faults.count


@pytest.mark.parametrize("name", BY_CHARACTERS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_texts_come_back_with_their_characters(name: str, data: Any):
    documents = data.draw(corpora(False, True))
    corpus = there_and_back(documents, name, "words")
    assert [said(one, text=True) for one in corpus.documents] == [said(one, text=True) for one in documents]


@pytest.mark.parametrize("name", INSTALLED)
def test_a_corpus_comes_back_with_its_ids_and_its_types(name: str, tmp_path: Path):
    documents = sentences(12, 1, flat=True)
    for one in documents:
        one["relations"] = [r for r in one["relations"] if r["type"] != "Spouse"] + (
            [{"type": "Spouse", "head": 0, "tail": 1}] if len(one["entities"]) > 1 else []
        )
    path = tmp_path / SUFFIX[name]
    write_documents(path, documents, name, types=TYPES)
    corpus = read_documents(path)
    by_id = {str(one["id"]): one for one in corpus.documents}
    assert list(by_id) == [one["id"] for one in documents] or name == "brat"
    if name in ("spert", "columns", "spacy_docbin", "offsets_jsonl"):
        assert [said(by_id[one["id"]], text=False) for one in documents] == [said(one, text=False) for one in documents]
    assert sum(len(one["relations"]) for one in corpus.documents) == sum(len(one["relations"]) for one in documents)
    assert corpus.types.entities == TYPES.entities
    assert corpus.types.is_symmetric("Spouse") == (name in ("spert", "brat", "label_studio"))
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("name", INSTALLED)
def test_ignored_ranges_and_pairs_come_back(name: str):
    one = {
        "tokens": ["Anna", "met", "Boris", "near", "Lake", "Balaton"],
        "entities": [{"type": "Peop", "start": 0, "end": 1}, {"type": "Peop", "start": 2, "end": 3}],
        "relations": [{"type": "Kill", "head": 0, "tail": 1}],
        "ignore": [[4, 6]],
        "ignore_pairs": [[1, 0]],
    }
    (again,) = there_and_back([one], name, "blanks").documents
    assert (again["ignore"], again["ignore_pairs"]) == ([[4, 6]], [[1, 0]])
    assert said(again, text=False) == said(one, text=False)


SCORED = {
    "tokens": ["Anna", "met", "Boris"],
    "entities": [
        {"type": "Peop", "start": 0, "end": 1, "score": 0.75},
        {"type": "Peop", "start": 2, "end": 3, "score": 0.5},
    ],
    "relations": [{"type": "Kill", "head": 0, "tail": 1, "score": 0.25}],
}


@pytest.mark.parametrize("name", ["spert", "offsets_jsonl", "label_studio"])
def test_scores_of_predictions_come_back(name: str):
    (again,) = there_and_back([SCORED], name, "blanks").documents
    assert [e["score"] for e in again["entities"]] == [0.75, 0.5]
    assert again["relations"][0]["score"] == 0.25


def test_predictions_are_suggestions_to_label_studio(tmp_path: Path):
    write_documents(tmp_path / "s.json", [SCORED], "label_studio")
    (task,) = json.loads((tmp_path / "s.json").read_text())
    assert "annotations" not in task
    assert task["predictions"][0]["score"] == 0.5
    write_documents(tmp_path / "t.json", sentences(1, 0), "label_studio")
    assert "annotations" in json.loads((tmp_path / "t.json").read_text())[0]


def test_a_text_in_which_nothing_was_found_is_a_suggestion_like_those_beside_it(tmp_path: Path):
    nothing = {"tokens": ["rain"], "entities": [], "relations": []}
    write_documents(tmp_path / "s.json", [nothing, SCORED], "label_studio")
    assert ["predictions" in one for one in json.loads((tmp_path / "s.json").read_text())] == [True, True]
    for name in (one.values[0] for one in INSTALLED if not one.marks[0].args[0]):
        path = tmp_path / name / SUFFIX[name]
        write_documents(path, [nothing], name, suggestions=True)
        assert len(read_documents(path, name).documents) == 1
    (task,) = json.loads((tmp_path / "label_studio" / "c.json").read_text())
    assert "annotations" not in task


def test_every_format_is_guessed(tmp_path: Path):
    for name in FORMATS:
        if name == "spacy_docbin" and not is_installed("spacy"):
            continue
        path = tmp_path / name / SUFFIX[name]
        path.parent.mkdir()
        write_documents(path, [SCORED], name)
        corpus = read_documents(path)
        assert [e["type"] for e in corpus.documents[0]["entities"]] == ["Peop", "Peop"]


def test_what_a_format_can_not_hold_is_refused_whole_or_dropped_and_named(tmp_path: Path):
    nested = {"tokens": ["a", "b"], "relations": [{"type": "Kill", "head": 0, "tail": 2}]} | {
        "entities": [{"type": "Loc", "start": s, "end": e} for s, e in ((0, 2), (1, 2))]
        + [{"type": "Org", "start": 0, "end": 1}]
    }
    path = tmp_path / "c.conll"
    with pytest.raises(DataError, match=r"unwritable 4") as caught:
        write_documents(path, [nested], "columns")
    assert "document 1: entity 0 shares words with another one" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    findings = write_documents(path, [nested, SCORED], "columns", invalid="drop")
    assert findings.counts["unwritable"] == 4
    assert [len(one["entities"]) for one in read_documents(path).documents] == [0, 2]


def columns(*words: tuple[str, str]) -> str:
    return "".join(f"{number}\t{word}\t{tag}\n" for number, (word, tag) in enumerate(words)) + "\n"


@pytest.mark.parametrize("ends", ["BIES", "BILU"])
def test_tags_that_mark_the_last_word_are_read(ends: str, tmp_path: Path):
    begin, inside, end, alone = ends
    tags = [f"{begin}-P", f"{inside}-P", f"{end}-P", f"{end}-P", f"{alone}-P", f"{begin}-Q", f"{end}-Q", "O"]
    (tmp_path / "c.conll").write_text(columns(*zip("abcdefgh", tags, strict=True)))
    corpus = read_documents(tmp_path / "c.conll", invalid="drop")
    (document,) = corpus.documents
    assert [(e["type"], e["start"], e["end"]) for e in document["entities"]] == [("P", 0, 3), ("P", 4, 5), ("Q", 5, 7)]
    assert document["ignore"] == [[3, 4]]
    assert corpus.findings.counts["unreadable"] == 1


def test_words_whose_tag_has_a_fault_stay_and_are_ignored_ones(tmp_path: Path):
    """Entities that begin with I are a fault of each of their words, and no example of words without an entity."""
    (tmp_path / "c.conll").write_text(
        columns(("Anna", "I-P"), ("Berg", "I-P"), ("met", "O"), ("Bo", "B-P"), ("Li", "I-P"), ("x", "?"))
        + "0\ta\n1\tb\n\n"
        + "0\ta\tO\n1\t\tO\n\n"
    )
    documents = read_documents(tmp_path / "c.conll", invalid="drop").documents
    assert [one["tokens"] for one in documents] == [["Anna", "Berg", "met", "Bo", "Li", "x"], ["a", "b"]]
    assert [one["ignore"] for one in documents] == [[[0, 1], [1, 2], [5, 6]], [[0, 1], [1, 2]]]
    assert documents[0]["entities"] == [{"type": "P", "start": 3, "end": 5}]
    with pytest.raises(DataError, match=r"line 12 is .*, and holds no number and word"):
        documents_of_file(tmp_path / "c.conll")


def test_columns_without_numbers_are_words_and_tags_or_faulty(tmp_path: Path):
    (tmp_path / "c.conll").write_text("Anna\tB-P\nBerg\tI-P\nin\tO\n1990\tB-T\n\n1990\tO\n")
    one, other = read_documents(tmp_path / "c.conll").documents
    assert (one["tokens"], other["tokens"]) == (["Anna", "Berg", "in", "1990"], ["1990"])
    assert [(e["type"], e["start"], e["end"]) for e in one["entities"]] == [("P", 0, 2), ("T", 3, 4)]
    assert [one["tokens"] for one in documents_of_file(tmp_path / "c.conll")] == [one["tokens"], other["tokens"]]
    for rows in ("Anna\tNNP\tB-P\nmet\tVBD\tO\n", "Anna\tNNP\n"):
        (tmp_path / "c.conll").write_text(rows)
        with pytest.raises(DataError, match=r"line 1 is .*, and holds no number and word"):
            read_documents(tmp_path / "c.conll")
        assert read_documents(tmp_path / "c.conll", invalid="drop").documents == []


@pytest.mark.parametrize("key", ["label", "labels"])
def test_objects_in_a_list_of_labels_are_entities(key: str, tmp_path: Path):
    entities = [{"start": 0, "end": 4, "text": "Anna", "labels": ["P"]}, {"start": 15, "end": 19, "label": "Q"}]
    (tmp_path / "c.json").write_text(json.dumps([{"id": 3, "text": "Anna works for Acme .", key: entities}]))
    (document,) = read_documents(tmp_path / "c.json").documents
    assert [(e["type"], e["start"], e["end"]) for e in document["entities"]] == [("P", 0, 1), ("Q", 3, 4)]


@pytest.mark.parametrize(
    ("starts", "words"),
    [
        ((3, 6), [2, 4]),  # of UTF-16 units: the first of them fits as characters, too, at another word
        ((2, 5), [2, 4]),
        ((3, 5), [3, 4]),
    ],
)
def test_offsets_of_a_text_are_all_of_one_kind(starts: tuple[int, int], words: list[int], tmp_path: Path):
    given = ("哈", "x")
    entities = [{"type": "P", "start": s, "end": s + 1, "text": g} for s, g in zip(starts, given, strict=True)]
    (tmp_path / "c.json").write_text(json.dumps([{"text": "😀哈哈哈 x", "entities": entities}]))
    (document,) = read_documents(tmp_path / "c.json").documents
    assert [one["start"] for one in document["entities"]] == words


def test_types_of_brat_files_may_stand_in_a_folder_above(tmp_path: Path):
    folder = tmp_path / "corpus" / "train"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("Anna met Bo\n")
    rows = ["T1\tPerson 0 4\tAnna", "T2\tPerson 9 11\tBo", "T3\tMeet 5 8\tmet", "R1\tsibling Arg1:T1 Arg2:T2\t"]
    (folder / "a.ann").write_text("\n".join([*rows, "E1\tMeet:T3 A:T1"]) + "\n")
    relations = "sibling Arg1:Person, Arg2:Person, <REL-TYPE>:symmetric\nsibling Arg1:Firm, Arg2:Firm\n"
    types = tmp_path / "corpus" / "annotation.conf"
    types.write_text(f"[entities]\nPerson\n[relations]\n{relations}[events]\nMeet A:Person\n")
    assert read_documents(folder).types == Types(["Person", "Meet"], {"sibling": True})
    assert [file.path for file in FolderSource(folder, "train").files][-1] == types
    (folder / "annotation.conf").write_text("[entities]\nPerson\nMeet\n[relations]\nsibling Arg1:Person\n")
    assert not read_documents(folder).types.is_symmetric("sibling")


@pytest.mark.parametrize(
    ("configured", "row", "ends"),
    [
        ("", "R1\tkills Arg2:T2 Arg1:T1", (0, 1)),
        ("", "R1\tkills Arg1:T2 Arg2:T1", (1, 0)),
        ("", "R1\tkills Who:T2 Whom:T1", (1, 0)),
        ("kills Who:Person, Whom:Person", "R1\tkills Whom:T2 Who:T1", (0, 1)),
        ("kills\tWho-else:Person|Firm,Whom:<ENTITY>", "R1\tkills Whom:T2 Who-else:T1", (0, 1)),
        ("kills Arg2:Person, Arg1:Person", "R1\tkills Arg1:T1 Arg2:T2", (0, 1)),
    ],
)
def test_arguments_of_brat_relations_are_read_by_name(configured: str, row: str, ends: tuple[int, int], tmp_path: Path):
    (tmp_path / "a.txt").write_text("Anna met Bo\n")
    (tmp_path / "a.ann").write_text(f"T1\tPerson 0 4\tAnna\nT2\tPerson 9 11\tBo\n{row}\n")
    if configured:
        (tmp_path / "annotation.conf").write_text(f"[entities]\nPerson\n[relations]\n{configured}\n")
    (relation,) = read_documents(tmp_path).documents[0]["relations"]
    assert (relation["head"], relation["tail"]) == ends


def test_relations_are_symmetric_that_the_files_use_so_or_the_reader_names(tmp_path: Path):
    (tmp_path / "a.txt").write_text("Anna met Bo\n")
    rows = ["T1\tPerson 0 4\tAnna", "T2\tPerson 9 11\tBo", "*\tEquiv T2 T1", "R1\tkin Arg1:T2 Arg2:T1"]
    (tmp_path / "a.ann").write_text("\n".join(rows))
    relations = "Equiv Arg1:Person, Arg2:Person\nkin Arg1:Person, Arg2:Person\nkills Arg1:Person, Arg2:Person\n"
    (tmp_path / "annotation.conf").write_text(f"[entities]\nPerson\n[relations]\n{relations}")
    found = read_documents(tmp_path, symmetric=["kin"]).types
    assert found == Types(["Person"], {"Equiv": True, "kin": True, "kills": False})
    assert not read_documents(tmp_path).types.is_symmetric("kin")
    given = Types(["Person"], {"Equiv": True, "kin": False})
    assert read_documents(tmp_path, types=given, symmetric=["kin"]).types == given


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_of_brat_files_is_there_when_all_of_it_is(there: bool, tmp_path: Path, monkeypatch: Any):
    target = tmp_path / "b"
    if there:
        target.mkdir()
        (target / "notes.md").write_text("mine")
    documents = [SCORED | {"id": f"{number}"} for number in range(20)]
    written = []

    def stopped(path: Path, content: bytes) -> None:
        written.append(path)
        if len(written) > 9:
            raise KeyboardInterrupt
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    with monkeypatch.context() as patched:
        patched.setattr(brat, "write_bytes", stopped)
        with pytest.raises(KeyboardInterrupt):
            write_documents(target, documents, "brat", invalid="drop")
    assert [one.name for one in tmp_path.rglob("*")] == (["b", "notes.md"] if there else [])
    write_documents(target, documents, "brat", invalid="drop")
    assert len(read_documents(target).documents) == 20
    assert (target / "notes.md").exists() == there


@pytest.mark.parametrize(("name", "kind"), [("brat", "Legal Person"), ("columns", "Legal\tPerson")])
def test_what_is_left_of_what_a_format_can_not_hold_is_read_back(name: str, kind: str, tmp_path: Path):
    entities = [{**one, "type": of} for one, of in zip(SCORED["entities"], (kind, "Peop"), strict=True)]
    path = tmp_path / SUFFIX[name]
    findings = write_documents(path, [SCORED | {"entities": entities}], name, invalid="drop")
    assert findings.counts["unwritable"] == 2
    corpus = read_documents(path)
    assert [e["type"] for e in corpus.documents[0]["entities"]] == ["Peop"]
    assert corpus.types.entities == ["Peop"]


def test_no_brat_file_is_written_over_another(tmp_path: Path):
    documents = [SCORED | {"id": name} for name in ("x_3", "x", "X", "x_3_4", "x_3")]
    write_documents(tmp_path / "b", documents, "brat")
    assert len(read_documents(tmp_path / "b").documents) == 5


def test_a_wrong_name_names_the_right_one(tmp_path: Path):
    with pytest.raises(DataError, match="did you mean 'brat'"):
        write_documents(tmp_path / "x", [SCORED], "bratt")
    with pytest.raises(DataError, match="there is no tokeniser 'letters'"):
        read_documents(tmp_path, options=ReadingOptions(tokeniser="letters"))


@pytest.mark.skipif(not is_installed("spacy"), reason="no spaCy")
@pytest.mark.parametrize("relations", [3, [3], [[1, 2]], [["Kill", "0", None]]])
def test_relations_of_another_shape_in_a_docbin_are_told(relations: Any, tmp_path: Path):
    import spacy
    from spacy.tokens import Doc, DocBin

    doc = Doc(spacy.blank("xx").vocab, words=["a"])
    doc.user_data["luthier_relations"] = relations
    (tmp_path / "c.spacy").write_bytes(DocBin(store_user_data=True, docs=[doc]).to_bytes())
    with pytest.raises(DataError, match=r"unreadable 1|document 1"):
        read_documents(tmp_path / "c.spacy")


@pytest.mark.skipif(is_installed("spacy"), reason="spaCy is there")
def test_without_spacy_the_extra_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"luthier\[spacy\]"):
        write_documents(tmp_path / "c.spacy", [SCORED], "spacy_docbin")


def test_types_of_a_file_are_those_beside_it(tmp_path: Path):
    write_documents(tmp_path / "c.json", [SCORED], "spert", types=TYPES)
    assert read_documents(tmp_path / "c.json").types == TYPES
    assert read_documents(tmp_path / "c.json", types=Types(["Peop"], {"Kill": True})).types.is_symmetric("Kill")


def test_types_of_one_file_do_not_replace_those_of_another(tmp_path: Path):
    (tmp_path / "types.json").write_text(json.dumps(TYPES.to_json()), encoding="utf8")
    write_documents(tmp_path / "told.json", [SCORED], "spert")
    write_documents(tmp_path / "gold.json", [SCORED], "spert", types=Types(["Peop"], {"Kill": True}))
    assert Types.from_json(json.loads((tmp_path / "types.json").read_text())) == TYPES
    assert read_documents(tmp_path / "told.json").types == Types(["Peop"], {"Kill": False})
    write_documents(tmp_path / "gold.de.json", [SCORED], "spert", types=Types(["Peop", "Ort"], {"Kill": False}))
    assert read_documents(tmp_path / "gold.json").types == Types(["Peop"], {"Kill": True})
    assert read_documents(tmp_path / "gold.de.json").types.entities == ["Peop", "Ort"]
    (tmp_path / "gold.de.types.json").unlink()
    assert read_documents(tmp_path / "gold.de.json").types.is_symmetric("Kill")


@pytest.mark.parametrize("archive", ["all.zip", "all.tar.gz"])
def test_files_in_an_archive_are_read_as_those_outside(archive: str, tmp_path: Path):
    inside, types = tmp_path / "inside", Types(["Peop", "Loc"], {"Kill": True})
    for name in ("told.json", "words.conll"):
        write_documents(inside / name, [SCORED], "spert" if name == "told.json" else "columns", types=types)
    (inside / "texts.txt").write_text("Anna met Boris .\nNobody came .\n", encoding="utf8")
    kind = "zip" if archive == "all.zip" else "gztar"
    shutil.make_archive(str(tmp_path / "all"), kind, tmp_path, "inside")
    for name in ("told.json", "words.conll"):
        found = read_documents(f"{tmp_path / archive}!inside/{name}")
        outside = read_documents(inside / name)
        assert (found.documents, found.types) == (outside.documents, outside.types)
    assert read_documents(f"{tmp_path / archive}!inside/told.json").types == types
    rows = DataSettings(train=f"{tmp_path / archive}!inside/told.json", task="joint_extraction")
    assert load_data(rows).labels == ["entity:Peop", "symmetric relation:Kill"]
    found = documents_of_file(f"{tmp_path / archive}!inside/texts.txt")
    assert [one["text"] for one in found] == ["Anna met Boris .", "Nobody came ."]


def test_a_folder_of_brat_files_is_not_mixed_with_others(tmp_path: Path):
    write_documents(tmp_path / "b", [SCORED], "brat")
    with pytest.raises(WorkspaceError, match="holds BRAT files already"):
        write_documents(tmp_path / "b", [SCORED], "brat")


@pytest.mark.parametrize("invalid", ["refuse", "drop"])
def test_a_place_that_can_not_be_written_is_told(invalid: Any, tmp_path: Path):
    (tmp_path / "file").write_text("x", encoding="utf8")
    with pytest.raises(WorkspaceError):
        write_documents(tmp_path / "file" / "c.json", [SCORED], "spert", invalid=invalid)
