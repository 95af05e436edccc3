"""Training, evaluation and predict read the same columns, whatever the task, from the training file itself."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from luthier.cli import main
from luthier.data.schemas import SCHEMAS
from luthier.prediction import predict_file, predict_texts, write_predictions
from tests.cli.conftest import BAD_WORDS, GOOD_WORDS, PLAIN_WORDS
from tests.evaluation.text_models import model_of, tokenizer_of

WORDS = [*GOOD_WORDS, *BAD_WORDS, *PLAIN_WORDS, *"review text pair : positive negative choice1 choice2 0 1 .".split()]
PAIRS = [
    {"text": "the film", "text_pair": "a plot was warm", "label": 0.5},
    {"text": "a scene", "text_pair": "the actor", "label": 1},
]
NAMED = [{"one": row["text"], "two": row["text_pair"], "score": row["label"]} for row in PAIRS]
CHOICES = [
    {"context": "the film was", "choices": ["fine", "grim and dull"], "label": 0},
    {"context": "the actor", "choices": ["cold", "warm"], "label": 1},
]


@dataclass(frozen=True)
class Case:
    """Rows of a task, what a recipe says of them, and the columns that nobody knows beforehand."""

    schema: str
    rows: list[dict[str, Any]]
    unknown: tuple[str, ...] = ("label",)
    data: dict[str, Any] = field(default_factory=dict)
    model: str = "bert"
    suffix: str = "jsonl"
    shown: tuple[str, ...] = ()


def labelled(*texts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**row, "label": label} for row, label in zip(texts, ("positive", "negative"), strict=True)]


SHOWN = ("text", "text_pair", "one", "two", "context", "question", "a", "b")
ONE = [{"text": "a fine film"}, {"text": "the plot was dull"}]
TWO = [{key: row[key] for key in ("text", "text_pair")} for row in PAIRS]
CASES = {
    "single_sentence": Case("single_sentence", labelled(*ONE)),
    "pair": Case("pair", labelled(*TWO)),
    "single_sentence beside another text": Case(
        "single_sentence", labelled(*TWO), data={"task": "single_sentence"}, shown=("text",)
    ),
    "regression": Case("regression", [{**ONE[0], "label": 0.5}, {**ONE[1], "label": 2}]),
    "regression of pairs": Case("regression", PAIRS, suffix="csv"),
    "regression of pairs, named": Case(
        "regression", NAMED, ("score",), {"text": "one", "text_pair": "two", "label": "score"}, suffix="csv"
    ),
    "token_labels": Case(
        "token_labels",
        [{"tokens": ["the", "film"], "tags": ["O", "B-X"]}, {"tokens": ["a", "plot"], "tags": ["O", "B-X"]}],
        ("tags",),
    ),
    "extractive_qa": Case(
        "extractive_qa",
        [
            {"question": "a film", "context": "the plot", "answers": {"text": ["plot"], "answer_start": [4]}},
            {"question": "the plot", "context": "was dull", "answers": {"text": ["was"], "answer_start": [0]}},
        ],
        ("answers",),
    ),
    "multiple_choice": Case("multiple_choice", CHOICES),
    "multiple_choice in columns": Case(
        "multiple_choice",
        [{"context": r["context"], "a": r["choices"][0], "b": r["choices"][1], "label": r["label"]} for r in CHOICES],
        data={"choices": ["a", "b"]},
        suffix="csv",
    ),
    "plain_text": Case("plain_text", [{"text": "the film was a fine plot"}], (), model="llama"),
    "prompt_response": Case(
        "prompt_response", [{"prompt": "the film", "response": "was fine"}], ("response",), model="llama"
    ),
    "prompt_response, named among instructions": Case(
        "prompt_response",
        [{"instruction": "the film", "input": "a scene", "output": "was fine"}],
        ("output",),
        {"prompt": "instruction", "response": "output"},
        "llama",
        shown=("instruction", "output"),
    ),
    "pair as text": Case("pair", labelled(*TWO), data={"as_text": True}, model="llama"),
    "regression as text": Case("regression", PAIRS, data={"as_text": True, "number_step": 0.5}, model="llama"),
    "multiple_choice as text": Case("multiple_choice", CHOICES, data={"as_text": True}, model="llama"),
}


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("llama") / "model"
    tokenizer = tokenizer_of(WORDS, "llama")
    tokenizer.save_pretrained(folder)
    model_of("llama", len(tokenizer)).save_pretrained(folder)
    return folder


def write(path: Path, rows: list[dict[str, Any]], without: tuple[str, ...] = ()) -> str:
    rows = [{key: value for key, value in row.items() if key not in without} for row in rows]
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


class Place:
    """A folder in which one recipe is run on one case."""

    def __init__(self, folder: Path, models: dict[str, Path]) -> None:
        self.folder, self.models = folder, models
        self.run_folder = folder / "runs" / "columns"

    def file(self, case: Case) -> str:
        return str(self.folder / f"train.{case.suffix}")

    def run(self, data: dict[str, Any], model: str, *stages: dict[str, Any]) -> int:
        tune = {"method": "full", "data": data, "epochs": 1, "batch_size": 2, "learning_rate": 1e-3}
        recipe = {"name": "columns", "model": str(self.models[model]), "stages": [{"tune": tune}, *stages]}
        path = self.folder / "recipe.yaml"
        path.write_text(json.dumps(recipe))
        return main(["run", str(path), "--output", str(self.folder / "runs"), "--quiet", "--no-report"])

    def trained_on(self, case: Case) -> str:
        """Train, and give the training file."""
        file = write(Path(self.file(case)), case.rows)
        assert self.run({"train": file} | case.data, case.model) == 0
        return file

    def card(self) -> dict[str, Any]:
        return json.loads((self.run_folder / "00-tune" / "model" / "luthier.json").read_text())

    def predicted(self, capsys, *arguments: str) -> list[dict[str, Any]]:
        capsys.readouterr()
        assert main(["predict", str(self.run_folder), *arguments]) == 0, capsys.readouterr().err
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    def refused(self, capsys, *arguments: str) -> str:
        capsys.readouterr()
        assert main(["predict", str(self.run_folder), *arguments]) in (2, 3)
        return capsys.readouterr().err


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_model, llama) -> Any:
    """The place of a case that was trained, once for all tests."""
    places: dict[str, Place] = {}

    def trained_place(name: str) -> Place:
        if name not in places:
            places[name] = Place(tmp_path_factory.mktemp("case"), {"bert": tiny_model, "llama": llama})
            places[name].trained_on(CASES[name])
        return places[name]

    return trained_place


@pytest.fixture
def place(tmp_path, tiny_model, llama, monkeypatch) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, {"bert": tiny_model, "llama": llama})


@pytest.fixture
def fed():
    """Every row of token ids that any model's word embedding is given, padding left out."""
    seen: set[tuple[int, ...]] = set()

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Embedding) and module.padding_idx == 0 and inputs[0].ndim == 2:
            seen.update(tuple(row[row != 0].tolist()) for row in inputs[0])

    handle = nn.modules.module.register_module_forward_pre_hook(note)
    yield seen
    handle.remove()


def since(fed: set[tuple[int, ...]]) -> set[tuple[int, ...]]:
    found = set(fed)
    fed.clear()
    return found


def model_words(place: Place, ids: tuple[int, ...]) -> str:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(place.models["bert"]).decode(ids)


@pytest.mark.parametrize("name", CASES)
def test_training_evaluation_and_predict_feed_the_same_tokens(place, fed, capsys, name):
    case = CASES[name]
    file = write(place.folder / f"train.{case.suffix}", case.rows)
    data = {"train": file, "test": write(place.folder / f"test.{case.suffix}", case.rows)} | case.data
    assert place.run(data, case.model) == 0
    trained = since(fed)
    suite = "task" if SCHEMAS[case.schema].label_column else "perplexity"
    assert place.run(data, case.model, {"evaluate": {"suites": [suite]}}) == 0
    evaluated = since(fed)
    place.predicted(capsys, "--file", file)
    predicted = since(fed)
    place.predicted(capsys, "--file", write(place.folder / f"new.{case.suffix}", case.rows, case.unknown))
    assert since(fed) == predicted
    if case.model == "bert":
        assert trained == evaluated == predicted
        words = [model_words(place, ids) for ids in trained]
        for text in (row[column] for row in case.rows for column in case.shown or SHOWN if column in row):
            assert any(text in said for said in words)
        return
    assert trained <= evaluated
    for ids in trained:
        assert any(prompt and ids[: len(prompt)] == prompt for prompt in predicted)
    if "as_text" in case.data:
        assert predicted == evaluated - trained | (trained & predicted)


@pytest.mark.parametrize("name", CASES)
def test_every_trained_task_is_predicted_from_python_as_from_the_command_line(trained, capsys, name):
    case, place = CASES[name], trained(name)
    file = place.file(case)
    rows = predict_file(place.run_folder, file)
    assert len(rows) == len(case.rows)
    assert json.loads(json.dumps(rows)) == place.predicted(capsys, "--file", file)


@pytest.mark.parametrize("name", CASES)
def test_answers_that_are_written_in_parts_are_those_of_all_rows_together(trained, tmp_path, monkeypatch, name):
    case, place = CASES[name], trained(name)
    file, output = place.file(case), tmp_path / "answers.jsonl"
    together = json.loads(json.dumps(predict_file(place.run_folder, file)))
    for size in ("_SMALL_PART", "_FIRST_PART", "_LARGEST_PART"):
        monkeypatch.setattr(f"luthier.models.predictor.{size}", 2)
    assert write_predictions(place.run_folder, file, output, batch_size=2) == (len(case.rows), 0)
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert near(found, together)
    assert found == json.loads(json.dumps(predict_file(place.run_folder, file, batch_size=2)))


def near(one: Any, other: Any) -> bool:
    """Whether two answers are equal, numbers as far as a batch of other rows leaves them."""
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(near(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(near, one, other))
    return one == (pytest.approx(other, abs=1e-5) if isinstance(one, float) else other)


@pytest.mark.parametrize("name", CASES)
def test_the_card_says_which_columns_were_read(trained, name):
    case, place = CASES[name], trained(name)
    given = {name for name in case.rows[0] if name not in case.unknown}
    columns = place.card()["columns"]
    sources = {s for source in columns.values() for s in (source if isinstance(source, list) else [source])}
    response = {"response"} if case.schema == "prompt_response" else set()
    assert sources == (set(case.shown) or given | response)
    assert ("text_pair" in columns) == (case.schema == "pair" or bool({"two", "text_pair"} & sources))


@pytest.mark.parametrize("name", ["regression of pairs", "regression of pairs, named", "regression as text"])
def test_the_second_text_of_a_regression_counts(trained, fed, capsys, name):
    place = trained(name)
    arguments = ("--text", "the film", "--pair")
    since(fed)
    first, second = (place.predicted(capsys, *arguments, other)[0] for other in ("a plot was warm", "grim"))
    assert (first["text"], first["text_pair"]) == ("the film", "a plot was warm")
    assert len(since(fed)) >= 2
    if name != "regression as text":
        assert first["score"] != second["score"]
    assert "the model reads two texts" in place.refused(capsys, "--text", "the film")


def test_a_regression_on_one_text_refuses_a_second_one(trained, capsys):
    place = trained("regression")
    assert "the model reads one text" in place.refused(capsys, "--text", "a film", "--pair", "a plot")


@pytest.mark.parametrize("name", CASES)
def test_a_text_is_predicted_or_the_columns_of_a_file_are_named(trained, capsys, name):
    place = trained(name)
    read = set(place.card()["columns"]) - {"response"}
    if len(read) == 1:
        assert len(place.predicted(capsys, "--text", "the film was fine")) == 1
        assert len(predict_texts(place.run_folder, "the film was fine")) == 1
        return
    if read == {"text", "text_pair"}:
        assert len(place.predicted(capsys, "--text", "the film", "--pair", "a plot")) == 1
        assert len(predict_texts(place.run_folder, "the film", "a plot")) == 1
        return
    told = place.refused(capsys, "--text", "the film was fine")
    assert "--file" in told
    assert all(column in told for column in read)


def test_a_pair_without_a_text_is_refused(trained, capsys):
    place = trained("pair")
    assert "--pair" in place.refused(capsys, "--file", place.file(CASES["pair"]), "--pair", "a plot")


def test_a_file_without_a_column_that_the_model_reads_is_refused(trained, capsys):
    place = trained("regression of pairs")
    told = place.refused(capsys, "--file", write(place.folder / "one.csv", PAIRS, ("text_pair", "label")))
    assert "there is no column 'text_pair'" in told


@pytest.mark.parametrize("named", [True, False])
def test_a_file_without_a_header_is_predicted_with_and_without_its_labels(place, capsys, named):
    lines = "a fine film\tpositive\nthe plot was dull\tnegative\n"
    (place.folder / "train.data").write_text(lines)
    names = ["words", "label"] if named else ["text", "label"]
    data = {"train": str(place.folder / "train.data"), "format": "tsv", "column_names": names}
    assert place.run(data | ({"text": "words"} if named else {}), "bert") == 0
    assert len(place.predicted(capsys, "--file", "train.data")) == 2
    Path("new.data").write_text("a fine film\nthe plot was dull\n")
    assert len(place.predicted(capsys, "--file", "new.data")) == 2


@pytest.mark.parametrize("more", [True, False])
def test_a_header_line_where_the_training_file_had_none_is_no_row(place, capsys, more):
    (place.folder / "train.csv").write_text("a fine film,positive\nthe plot was dull,negative\n")
    assert place.run({"train": str(place.folder / "train.csv"), "column_names": ["text", "label"]}, "bert") == 0
    label = (",label", ",positive") if more else ("", "")
    Path("new.csv").write_text(f"Text{label[0].title()}\na film{label[1]}\n")
    assert [row["text"] for row in place.predicted(capsys, "--file", "new.csv")] == ["a film"]


@pytest.mark.parametrize(
    ("training", "encoding"),
    [("windows-1252", "utf-8"), ("windows-1252", "utf-8-sig"), ("utf-16", "utf-8"), ("utf-8", "utf-16")],
)
def test_a_file_in_another_encoding_than_the_training_file_is_read_in_its_own(place, capsys, training, encoding):
    rows = "text,label\na fine café,positive\nthe plot was dull,negative\n"
    (place.folder / "train.csv").write_text(rows, encoding=training)
    assert place.run({"train": str(place.folder / "train.csv"), "encoding": training}, "bert") == 0
    assert place.predicted(capsys, "--file", "train.csv")[0]["text"] == "a fine café"
    Path("new.csv").write_text("text\na film in a café\n", encoding=encoding)
    assert place.predicted(capsys, "--file", "new.csv")[0]["text"] == "a film in a café"


def test_words_without_tags_are_predicted_from_a_conll_file(place, capsys):
    (place.folder / "train.conll").write_text("the O\nfilm B-X\n\na O\nplot B-X\n")
    assert place.run({"train": str(place.folder / "train.conll")}, "bert") == 0
    Path("new.conll").write_text("a\nfine\nfilm\n\nthe\nplot\n")
    shown = [row["tokens"] for row in place.predicted(capsys, "--file", "new.conll")]
    assert shown == [["a", "fine", "film"], ["the", "plot"]]
    assert [row["tokens"] for row in place.predicted(capsys, "--file", "train.conll")] == [
        ["the", "film"],
        ["a", "plot"],
    ]


def test_other_data_are_judged_in_the_columns_of_the_training(place, fed):
    other = {"test": write(place.folder / "other.csv", PAIRS)}
    file = write(place.folder / "train.csv", CASES["regression"].rows)
    assert place.run({"train": file}, "bert") == 0
    since(fed)
    assert place.run({"train": file}, "bert", {"evaluate": {"data": other, "suites": ["task"]}}) == 0
    of_other = since(fed)
    one = [{"text": row["text"], "label": row["label"]} for row in PAIRS]
    other = {"test": write(place.folder / "one.csv", one)}
    assert place.run({"train": file}, "bert", {"evaluate": {"data": other, "suites": ["task"]}}) == 0
    assert of_other == since(fed)


@pytest.mark.parametrize("name", ["regression of pairs", "pair"])
def test_other_data_without_the_second_text_are_not_judged(place, capsys, name):
    file = place.trained_on(CASES[name])
    rows = [{"text": row["text"], "label": row["label"]} for row in CASES[name].rows]
    other = {"test": write(place.folder / "one.csv", rows)}
    capsys.readouterr()
    assert place.run({"train": file}, "bert", {"evaluate": {"data": other, "suites": ["task"]}}) == 3
    assert "text_pair" in capsys.readouterr().err


def test_scores_without_fractions_are_judged_as_scores(place):
    file = place.trained_on(CASES["regression of pairs"])
    rows = [row | {"label": number} for number, row in enumerate([*PAIRS, PAIRS[0] | {"text": "grim"}])]
    other = {"test": write(place.folder / "whole.csv", rows)}
    assert place.run({"train": file}, "bert", {"evaluate": {"data": other, "suites": ["task"]}}) == 0
    scores = json.loads((place.run_folder / "01-evaluate" / "metrics.json").read_text())["scores"]
    assert "test/pearson" in scores


def with_older_card(place: Place, folder: Path) -> Path:
    """A copy of the model with a card that does not name its columns."""
    from luthier.models.manifest import write_manifest

    shutil.copytree(place.run_folder / "00-tune" / "model", folder)
    card = place.card()
    del card["columns"]
    (folder / "luthier.json").write_text(json.dumps(card | {"format_version": 1}))
    write_manifest(folder)
    return folder


# As versions that wrote such cards did not read a second text under its own name, such a model can't be made here.
@pytest.mark.parametrize("name", [n for n in CASES if n not in ("regression of pairs", "regression as text")])
def test_older_cards_predict_as_new_ones(trained, tmp_path, name):
    place = trained(name)
    older = with_older_card(place, tmp_path / "older")
    file = place.file(CASES[name])
    assert predict_file(older, file) == predict_file(place.run_folder, file)


def test_an_older_card_of_a_regression_without_a_named_pair_reads_one_text(trained, tmp_path):
    older = with_older_card(trained("regression"), tmp_path / "older")
    assert "score" in predict_texts(older, "a film")[0]
    assert "text_pair" not in predict_file(older, write(tmp_path / "pairs.csv", PAIRS))[0]


@pytest.fixture
def sets(place, monkeypatch) -> Path:
    """Small copies of sets that are known by name."""
    folder = place.folder / "sets"
    for name in ("sick", "superglue/COPA"):
        (folder / name).mkdir(parents=True)
    rows = "".join(
        f"{row['text']}\t{row['text_pair']}\t{row['label']}\tNEUTRAL\n" for row in [*PAIRS, PAIRS[0] | {"text": "grim"}]
    )
    for split in ("train", "dev", "test"):
        header = "sentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
        (folder / "sick" / f"{split}.tsv").write_text(header + rows)
    monkeypatch.setenv("LUTHIER_DATA", str(folder))
    return folder


def test_a_known_set_of_scored_pairs(place, sets, fed, capsys):
    assert place.run({"source": "data:sick/relatedness"}, "bert") == 0
    assert place.card()["columns"] == {"text": "sentence_A", "text_pair": "sentence_B"}
    tokens = since(fed)
    in_own_words = place.predicted(capsys, "--file", str(sets / "sick" / "test.tsv"))
    assert since(fed) == tokens
    new = [*TWO, {"text": "grim", "text_pair": PAIRS[0]["text_pair"]}]
    file = write(place.folder / "new.jsonl", new)
    assert place.predicted(capsys, "--file", file) == in_own_words
    assert place.predicted(capsys, "--file", "data:sick/relatedness#test") == in_own_words
    assert predict_file(with_older_card(place, place.folder / "older"), file) == in_own_words
    pairs = [argument for row in new for argument in ("--text", row["text"], "--pair", row["text_pair"])]
    assert place.predicted(capsys, *pairs) == in_own_words
    other = write(place.folder / "other.jsonl", [row | {"text_pair": "grim"} for row in new])
    changed = place.predicted(capsys, "--file", other)
    assert all(a["score"] != b["score"] for a, b in zip(changed, in_own_words, strict=True))


def test_a_known_set_that_is_shaped_is_predicted_from_its_own_file(place, sets, fed, capsys):
    rows = [
        {"premise": f"the {word}", "choice1": "fine", "choice2": "grim", "question": ask, "label": label}
        for word, ask, label in (("film", "cause", 0), ("plot", "effect", 1))
    ]
    for split in ("train_32", "val"):
        write(sets / "superglue" / "COPA" / f"{split}.jsonl", rows)
    assert place.run({"source": "data:superglue/copa"}, "bert") == 0
    tokens = since(fed)
    own = place.predicted(capsys, "--file", write(place.folder / "raw.jsonl", rows, ("label",)))
    assert since(fed) == tokens
    canonical = [{"context": row["context"], "choices": row["choices"]} for row in own]
    assert place.predicted(capsys, "--file", write(place.folder / "canonical.jsonl", canonical)) == own
    assert [row["context"] for row in own] == [
        "the film What was the cause of this?",
        "the plot What happened as a result?",
    ]


def test_a_known_set_and_own_pairs_are_read_alike(place, sets, fed):
    own = write(place.folder / "own.csv", PAIRS)
    assert place.run({"train": own}, "bert") == 0
    tokens = since(fed)
    evaluate = {"evaluate": {"suites": ["task"], "data": {"test": "data:sick/relatedness"}}}
    assert place.run({"train": own}, "bert", evaluate) == 0
    assert tokens <= since(fed)


@pytest.mark.parametrize("row", ['{"body": "a cat"}', '{"text": 3, "body": "a cat"}'])
def test_the_tokenizer_command_advises_its_own_option(tmp_path, capsys, row):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "en.jsonl").write_text(row + "\n")
    assert main(["tokenizer", str(tmp_path), "--text", str(folder)]) == 3
    said = capsys.readouterr().err
    assert "fix: name the one that holds the text with --column; the fields are " in said
    assert "`text` to" not in said
