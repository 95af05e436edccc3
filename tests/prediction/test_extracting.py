"""A trained model for joint extraction tells texts and files what they hold, in every form that is asked for."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from luthier.api import run
from luthier.cli import main
from luthier.errors import DataError, ModelError, WorkspaceError
from luthier.extraction.formats.files import read_documents, write_documents
from luthier.prediction.extracting import documents_of_file, documents_of_texts, extract
from luthier.prediction.texts import answers_of
from tests.extraction.sentences import DOCUMENTS, LABELS, tiny_encoder, write

TEXT = "Anna Berg works for Nordic Paper."


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extractor")
    train, validation = write(folder / "train.json", DOCUMENTS), write(folder / "validation.json", DOCUMENTS[::3])
    data = {"train": train, "validation": validation, "task": "joint_extraction", "labels": LABELS}
    head = {"max_span_size": 4}
    tune = {"data": data, "epochs": 40, "batch_size": 6, "method": "full", "learning_rate": 3e-3, "head": head}
    run({"name": "own", "model": tiny_encoder(folder / "model"), "stages": [{"tune": tune}]}, output=folder / "runs")
    return folder / "runs" / "own"


def told(document: dict[str, Any]) -> Any:
    names = [" ".join(document["tokens"][e["start"] : e["end"]]) for e in document["entities"]]
    kinds = [(name, e["type"]) for name, e in zip(names, document["entities"], strict=True)]
    return kinds, [(names[r["head"]], r["type"], names[r["tail"]]) for r in document["relations"]]


def test_a_text_is_told_with_scores_and_places(trained: Path):
    (found,), types = extract(trained, documents_of_texts([TEXT]))
    assert told(found) == (
        [("Anna Berg", "Person"), ("Nordic Paper", "Firm")],
        [("Nordic Paper", "employs", "Anna Berg")],
    )
    start, end = found["offsets"][0][0], found["offsets"][1][1]
    assert TEXT[start:end] == "Anna Berg"
    assert all(0 < one["score"] <= 1 for one in (*found["entities"], *found["relations"]))
    assert set(types.entities) == {"Person", "Place", "Firm"}
    assert types.relations == {"born": False, "employs": False, "seat": False, "married": True}


def test_entities_have_their_words_and_characters(trained: Path):
    (found,), _ = extract(trained, documents_of_texts([TEXT]))
    for one in found["entities"]:
        assert one["text"] == TEXT[one["start_char"] : one["end_char"]]
        assert one["text"].split() == found["tokens"][one["start"] : one["end"]]
    (plain,), _ = extract(trained, [{"tokens": TEXT[:-1].split()}])
    assert "text" not in plain["entities"][0]


def test_lines_of_json_keep_their_ids(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps({"id": "x7", "body": TEXT}) + "\n" + json.dumps({"body": TEXT}) + "\n")
    assert main(["extract", str(trained), "--jsonl", str(lines), "--column", "body"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["id"], "id" in second) == ("x7", False)
    assert told(first) == told(second)
    assert main(["extract", str(trained), "--jsonl", str(lines)]) == 3
    assert "name that of the texts with --column" in capsys.readouterr().err
    assert main(["extract", str(trained), "--text", TEXT, "--column", "body"]) == 2


def test_files_of_every_kind_are_told_alike(trained: Path, tmp_path: Path):
    texts = [TEXT, "Jon Vik was born in Oslo."]
    (tmp_path / "t.txt").write_text("\n\n".join(texts), encoding="utf8")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in texts), encoding="utf8")
    wrong = [one | {"entities": [{"type": "x", "start": 0, "end": 1}]} for one in documents_of_texts(texts)]
    write_documents(tmp_path / "b", wrong, "brat")
    ways = [documents_of_file(tmp_path / name) for name in ("t.txt", "t.jsonl", "b")]
    with gzip.open(tmp_path / "T.TXT.gz", "wt", encoding="utf8") as file:
        file.write("\n".join(texts))
    assert documents_of_file(tmp_path / "T.TXT.gz") == ways[0]
    answers = [[told(one) for one in extract(trained, documents)[0]] for documents in ways]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][1] == ([("Jon Vik", "Person"), ("Oslo", "Place")], [("Jon Vik", "born", "Oslo")])


def test_the_command_writes_lines_suggestions_a_page_and_a_graph(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["extract", str(trained), "--text", TEXT]) == 0
    line = json.loads(capsys.readouterr().out)
    assert told(line)[1] == [("Nordic Paper", "employs", "Anna Berg")]
    output, page, graph = tmp_path / "s.json", tmp_path / "v.html", tmp_path / "g.jsonld"
    command = ["extract", str(trained), "--text", TEXT, "--output", str(output), "--suggest", "label_studio"]
    assert main([*command, "--view", str(page), "--graph", str(graph)]) == 0
    assert "predictions" in json.loads(output.read_text())[0]
    nothing = [str(tmp_path / "none.json") if one == str(output) else one for one in command]
    assert main([one if one != TEXT else "." for one in nothing]) == 0
    (task,) = json.loads((tmp_path / "none.json").read_text())
    assert (task["predictions"][0]["result"], "annotations" in task) == ([], False)
    assert told(read_documents(output).documents[0]) == told(line)
    assert "Nordic Paper → employs → Anna Berg" in page.read_text(encoding="utf8")
    assert json.loads(graph.read_text())["@graph"]
    said = capsys.readouterr()
    assert (said.out + said.err).count("wrote") == 4


@pytest.mark.parametrize("suggested", ["columns", "brat"])
def test_what_an_annotation_tool_can_not_hold_is_left_out_of_suggestions_and_told(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], suggested: str
):
    """And what is asked for beside them is written."""

    def more(model: Any, tokenizer: Any, card: Any, rows: list[Any], batch_size: int) -> list[Any]:
        found = answers_of(model, tokenizer, card, rows, batch_size)
        nested = {"type": "Person", "start": 0, "end": 1, "score": 0.5}
        return [one | {"entities": [*one["entities"], nested]} for one in found]

    if suggested == "columns":
        monkeypatch.setattr("luthier.prediction.texts.answers_of", more)
    else:
        monkeypatch.setattr("luthier.extraction.formats.brat._has_blank", lambda name: name == "Firm")
    output, page = tmp_path / "out", tmp_path / "page.html"
    command = ["extract", str(trained), "--text", TEXT, "--output", str(output), "--suggest", suggested]
    assert main([*command, "--view", str(page)]) == 0
    said = capsys.readouterr()
    assert f"{suggested} can't hold all of it; left out is" in said.out + said.err
    assert page.exists()
    (document,) = read_documents(output, suggested).documents
    assert ("Nordic Paper", "Firm") in told(document)[0] or suggested == "brat"
    if suggested == "brat":
        assert told(document)[0] == [("Anna Berg", "Person")]
        assert main(command) == 6
        assert "holds BRAT files already" in capsys.readouterr().err


def unwritten(_rows: Any, output: str) -> None:
    raise WorkspaceError("no space left", where=output, fix="free some space")


def test_a_stopped_command_goes_on_and_nothing_found_is_lost_before_it_is_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    asked: list[int] = []

    def counted(model: Any, tokenizer: Any, card: Any, rows: list[Any], batch_size: int) -> list[Any]:
        if sum(asked) == 12 and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        asked.append(len(rows))
        return answers_of(model, tokenizer, card, rows, batch_size)

    stopped: list[bool] = []
    monkeypatch.setattr("luthier.models.predictor._FIRST_PART", 4)
    monkeypatch.setattr("luthier.prediction.texts.answers_of", counted)
    file, output, page = write(tmp_path / "asked.json", DOCUMENTS), tmp_path / "out.jsonl", tmp_path / "page.html"
    command = ["extract", str(trained), "--file", file, "--batch-size", "4", "--output", str(output)]
    assert main(command) == 130
    assert "goes on behind the rows that were answered" in capsys.readouterr().err
    assert not output.exists()
    with monkeypatch.context() as patch:
        patch.setattr("luthier.cli.asking._write_lines", unwritten)
        assert main(command) == 6
    assert sum(asked) == len(DOCUMENTS)
    assert main([*command, "--view", str(page)]) == 0
    assert sum(asked) == len(DOCUMENTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["asked.json", "out.jsonl", "page.html"]
    found = [told(json.loads(line)) for line in output.read_text().splitlines()]
    assert found == [told(one) for one in extract(trained, documents_of_file(file))[0]]


@pytest.mark.parametrize("how", [[], ["--suggest", "spert"], ["--view", "page.html"]])
def test_annotations_that_are_read_are_not_written_over(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: list[str]
):
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path / "gold.json", DOCUMENTS)
    (tmp_path / "page.html").symlink_to("gold.json")
    before = Path(file).read_bytes()
    output = [] if "--view" in how else ["--output", "gold.json"]
    assert main(["extract", str(trained), "--file", file, *how, *output]) == 6
    assert "which would be lost" in capsys.readouterr().err
    assert Path(file).read_bytes() == before


def test_a_file_of_the_folder_that_is_read_is_not_written_over(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_documents(tmp_path / "b", DOCUMENTS[:2], "brat")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    before = {one.name: one.read_bytes() for one in (tmp_path / "b").iterdir()}
    ask = ["extract", str(trained), "--file", str(tmp_path / "b")]
    for name in ("document_000001.ann", "../link/document_000002.txt", "annotation.conf"):
        assert main([*ask, "--output", f"{tmp_path}/b/{name}"]) == 6
        assert "which would be lost" in capsys.readouterr().err
    assert main([*ask, "--output", str(tmp_path / "link"), "--suggest", "brat"]) == 6
    assert {one.name: one.read_bytes() for one in (tmp_path / "b").iterdir()} == before


def test_outputs_are_several_files_that_are_not_called_compressed(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("luthier.prediction.extracting.load_predictor", None)  # all is refused before
    ask = ["extract", str(trained), "--text", TEXT]
    assert main([*ask, "--view", "found", "--graph", "./found"]) == 2
    assert "two outputs would be written there" in capsys.readouterr().err
    for how in (["--output"], ["--view"], ["--graph"], ["--suggest", "spert", "--output"]):
        assert main([*ask, *how, "found.jsonl.gz"]) == 6
        assert "name the file found.jsonl, and compress it afterwards" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_can_not_be_is_refused_before_the_model_is_loaded(trained: Path, tmp_path: Path):
    assert main(["extract", str(trained), "--text", TEXT, "--suggest", "brat"]) == 2
    assert main(["extract", str(trained), "--text", TEXT, "--output", "x", "--suggest", "bratt"]) == 3
    assert main(["extract", str(tmp_path / "nowhere"), "--text", TEXT]) == 4
    with pytest.raises(DataError, match="text 2 holds no words"):
        documents_of_texts(["a", " "])
    (tmp_path / "t.jsonl").write_text('{"text": "Anna"}\n{"texts": "Bo"}\n{"text": "Cy"}\n{"text\n')
    with pytest.raises(DataError, match=r"document 2: is no object(.|\n)*document 4: is not valid JSON"):
        documents_of_file(tmp_path / "t.jsonl")
    (tmp_path / "t.csv").write_text("text\nAnna\n")
    with pytest.raises(DataError, match=r"a \.txt with a text a line"):
        documents_of_file(tmp_path / "t.csv")
    with pytest.raises(ModelError):
        extract(tmp_path, documents_of_texts(["a"]))


def test_a_pipeline_tells_what_extract_tells(trained: Path):
    import transformers

    from luthier.extraction import load_pipeline
    from luthier.models.artifacts import load_artifact

    long = " ".join(" ".join(one["tokens"]) for one in DOCUMENTS)
    texts = [TEXT, "Jon Vik was born in Oslo.", long]
    expected, _ = extract(trained, documents_of_texts(texts))
    tell = load_pipeline(trained)
    for found, known in zip(tell(texts, batch_size=2), expected, strict=True):
        assert told(found) == told(known)
        assert found["entities"][0].keys() >= {"text", "start_char", "end_char", "score"}
    assert tell.max_length < len(long.split())  # the long text is read in windows
    assert told(tell(TEXT)) == told(expected[0]) == told(tell([{"tokens": expected[0]["tokens"]}])[0])
    for given in ({"text": TEXT}, {"text": TEXT, "tokens": expected[0]["tokens"]}):
        assert tell(given) == tell(TEXT)
    spaced = {"text": f"  {TEXT}", "tokens": expected[0]["tokens"]}
    assert [one["text"] for one in tell(spaced)["entities"]] == ["Anna Berg", "Nordic Paper"]
    assert tell(spaced)["entities"][0]["start_char"] == 2
    assert tell(spaced | {"text": "other"})["text"] == " ".join(expected[0]["tokens"])
    assert tell([]) == []
    with pytest.raises(DataError, match="text 2 holds no words"):
        tell([TEXT, " "])
    model, tokenizer, _ = load_artifact(trained)
    own = transformers.pipeline("joint-extraction", model=model, tokenizer=tokenizer)
    assert told(own(TEXT)) == told(expected[0])


def test_a_component_of_spacy_tells_what_extract_tells(trained: Path):
    pytest.importorskip("spacy")
    import spacy

    import luthier.extraction.spacy_component  # noqa: F401

    nlp = spacy.blank("en")
    nlp.add_pipe("luthier_sinet", config={"model": str(trained)})
    (expected,), _ = extract(trained, documents_of_texts([TEXT]))
    docs = list(nlp.pipe([TEXT, "", f"  \n{TEXT}"]))
    for doc in (docs[0], docs[2]):
        names = [(span.text, span.label_) for span in doc.spans["sc"]]
        assert names == told(expected)[0] == [(span.text, span.label_) for span in doc.ents]
        assert [(names[r["head"]][0], r["type"], names[r["tail"]][0]) for r in doc._.relations] == told(expected)[1]
        assert all(0 < score <= 1 for score in doc.spans["sc"].attrs["scores"])
        (pair,) = doc._.rel
        assert doc[pair[0]].text, doc[pair[1]].text == ("Nordic", "Anna")
    assert not docs[1].ents
    assert not docs[1]._.relations
