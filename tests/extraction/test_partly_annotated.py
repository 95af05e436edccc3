"""What was not annotated is no negative example: in training, in scores, from every file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from luthier.cli import main
from luthier.data import DataSettings, load_data
from luthier.data.batches.encoding import encode, make_collator
from luthier.data.sources.fingerprint import source_fingerprint
from luthier.errors import DataError
from luthier.extraction import read_documents, write_documents
from luthier.extraction.scoring import score_extractions
from luthier.extraction.types import Types
from luthier.models.loading import load_tokenizer
from luthier.recipe.loading import load_recipe
from tests.extraction import small
from tests.extraction.sentences import DOCUMENTS, LABELS, tiny_encoder, write
from tests.rounding import assert_same


def partly(words: list[int] = (), pairs: list[tuple[int, int]] = (), types: list[int] = ()) -> dict[str, torch.Tensor]:
    """The batch of `small` with these words, pairs and types of the first sentence unknown."""
    given = small.batch()
    unknown = torch.zeros(2, given["word_start"].shape[1], dtype=torch.bool)
    unknown[0, list(words)] = True
    of_types = torch.zeros(2, 4, dtype=torch.bool)
    of_types[0, list(types)] = True
    of_pairs = torch.full((2, max(1, len(pairs)), 2), -1)
    for number, pair in enumerate(pairs):
        of_pairs[0, number] = torch.tensor(pair)
    return given | {"unknown_words": unknown, "unknown_pairs": of_pairs, "unknown_types": of_types}


CASES = {
    "nothing": partly(),
    "words": partly(words=[3]),
    "pairs": partly(pairs=[(1, 0), (1, 2)]),
    "an entity type": partly(types=[1]),
    "a relation type": partly(types=[2]),
    "all relation types": partly(types=[2, 3]),
    "everything": partly(words=[4], pairs=[(2, 1)], types=[0, 3]),
}


SPANS = ("span_words", "span_valid", "entity_logits")


def annotated(given: dict[str, torch.Tensor], row: int) -> dict[tuple[int, int], int]:
    """Span -> type of a sentence's entities."""
    words, types = (given[name][row].tolist() for name in ("entity_words", "entity_types"))
    return {(start, end): kind for (start, end), kind in zip(words, types, strict=True)}


def span_losses(out: Any, given: dict[str, torch.Tensor], row: int) -> torch.Tensor:
    """The mean over the spans of a sentence, one by one."""
    known = annotated(given, row)
    words = {n for n, yes in enumerate(given["unknown_words"][row].tolist()) if yes}
    free = [0, *(1 + n for n in range(2) if given["unknown_types"][row, n])]
    losses = []
    for span, valid, logits in zip(*(out[name][row] for name in SPANS), strict=True):
        words_of_span = tuple(span.tolist())
        if not valid:
            continue
        shares = logits.softmax(-1)
        if words_of_span in known:
            losses.append(-shares[known[words_of_span]].log())
        elif not words & set(range(*words_of_span)):
            losses.append(-shares[free].sum().log())
    return torch.stack(losses).mean()


def pair_losses(out: Any, given: dict[str, torch.Tensor], row: int) -> torch.Tensor:
    """The mean over the pairs of a sentence, one by one."""
    entities = [tuple(words) for words in given["entity_words"][row].tolist() if words[0] >= 0]
    related = [tuple(one) for one in given["relations"][row].tolist() if one[0] >= 0]
    unknown = {tuple(one) for one in given["unknown_pairs"][row].tolist()}
    words = {n for n, yes in enumerate(given["unknown_words"][row].tolist()) if yes}
    losses = []
    for head, one in enumerate(entities):
        for tail, other in enumerate(entities):
            targets = [float((head, tail, kind) in related) for kind in range(2)]
            sure = [bool(t) or not given["unknown_types"][row, 2 + kind] for kind, t in enumerate(targets)]
            outside = words & {*range(*one), *range(*other)} or (head, tail) in unknown
            if head == tail or (outside and not any(targets)) or not any(sure):
                continue
            logits = out.pair_logits[row, head, tail]
            each = F.binary_cross_entropy_with_logits(logits, torch.tensor(targets).to(logits), reduction="none")
            losses.append(each[torch.tensor(sure)].mean())
    return torch.stack(losses).mean() if losses else torch.zeros(())


@pytest.mark.parametrize("case", CASES)
def test_losses_are_those_of_what_is_known(case: str):
    given = CASES[case]
    out = small.model()(**given)
    for row in range(2):
        expected = span_losses(out, given, row) + pair_losses(out, given, row)
        assert float(out.row_loss[row]) == pytest.approx(float(expected), rel=1e-9)


def test_where_all_is_known_the_loss_is_the_plain_one():
    for options in ({}, {"heads": "table"}, {"train_pairs": "mixed"}):
        model = small.model(**options)
        assert_same(model(**CASES["nothing"]).row_loss, model(**small.batch()).row_loss)


def table_losses(out: Any, given: dict[str, torch.Tensor], row: int) -> torch.Tensor:
    """The sum over the cells of both tables of a sentence, one by one, by its words."""
    known = annotated(given, row)
    related = [tuple(one) for one in given["relations"][row].tolist() if one[0] >= 0]
    first = [words[0] for words in given["entity_words"][row].tolist()]
    unknown = [tuple(first[one] for one in pair) for pair in given["unknown_pairs"][row].tolist() if pair[0] >= 0]
    words = {n for n, yes in enumerate(given["unknown_words"][row].tolist()) if yes}
    unsought = given["unknown_types"][row].tolist()
    count = int((given["word_start"][row] >= 0).sum())
    total = torch.zeros((), dtype=torch.float64)

    def add(logit: torch.Tensor, target: bool, sure: bool) -> None:
        nonlocal total
        if target or sure:
            total = total - F.logsigmoid(logit if target else -logit)

    for span, valid, logits in zip(*(out[name][row] for name in SPANS), strict=True):
        words_of_span = tuple(span.tolist())
        for kind in range(2) if valid else ():
            sure = not words & set(range(*words_of_span)) and not unsought[kind]
            add(logits[1 + kind], known.get(words_of_span) == 1 + kind, sure)
    for head in range(count):
        for tail in range(count):
            for kind in range(2):
                target = any((first[h], first[t], k) == (head, tail, kind) for h, t, k in related)
                sure = not words & {head, tail} and (head, tail) not in unknown and not unsought[2 + kind]
                add(out.pair_logits[row, head, tail, kind], target, sure)
    return total / count


@pytest.mark.parametrize("case", CASES)
def test_losses_of_tables_are_those_of_what_is_known(case: str):
    given = CASES[case]
    out = small.model(heads="table")(**given)
    for row in range(2):
        assert float(out.row_loss[row]) == pytest.approx(float(table_losses(out, given, row)), rel=1e-9)


def test_a_predicted_entity_may_be_one_where_types_were_not_looked_for():
    """Relations of spans that only the model takes for entities are not learned there."""
    losses = {}
    for case in ("nothing", "an entity type"):
        torch.manual_seed(0)
        model = small.model(train_pairs="predicted", entity_weight=0.0).train()
        losses[case] = model(**CASES[case]).row_loss
    assert losses["nothing"][1] == losses["an entity type"][1]
    assert losses["nothing"][0] != losses["an entity type"][0]


def test_rows_say_what_is_not_known_in_every_window(tmp_path: Path):
    row = DOCUMENTS[0]
    entities, relations = list(row["entities"]), [{"type": "IGNORE", "head": 1, "tail": 0}]
    entities.append({"type": "IGNORE", "start": len(row["tokens"]) - 1, "end": len(row["tokens"])})
    documents = [
        row | {"entities": entities, "relations": relations},
        DOCUMENTS[1] | {"ignore": [[0, 2]], "ignore_types": ["entity:Place", "relation:married"]},
        DOCUMENTS[2],
    ]
    plain = write(tmp_path / "validation.json", DOCUMENTS[3:6])
    settings = DataSettings(
        train=write(tmp_path / "train.json", documents), validation=plain, task="joint_extraction", labels=LABELS
    )
    data, tokenizer = load_data(settings), load_tokenizer(tiny_encoder(tmp_path / "model"))
    rows = encode(data, tokenizer, max_length=40)
    batch = make_collator("joint_extraction", tokenizer)(list(rows["train"]))
    words = [row.nonzero()[:, 0].tolist() for row in batch["unknown_words"]]
    assert words == [[len(row["tokens"]) - 1], [0, 1], []]
    assert batch["unknown_pairs"][0].tolist() == [[1, 0], [0, 1]]  # as `married` has no direction
    names = Types.of_labels(LABELS)
    told = [*(f"entity:{one}" for one in names.entities), *(f"relation:{one}" for one in names.relations)]
    assert [told[i] for i in batch["unknown_types"][1].nonzero()[:, 0]] == ["entity:Place", "relation:married"]
    others = make_collator("joint_extraction", tokenizer)(list(rows["validation"]))
    assert not others["unknown_words"].any()
    assert not others["unknown_types"].any()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("ignore", [[0, 99]], "holds the words 0 to 99"),
        ("ignore_pairs", [[0, 9]], "holds 0 and 9 of"),
        ("ignore_pairs", [[0]], "no pair of whole numbers"),
        ("ignore_types", ["Place"], "is none of `entity:NAME`"),
        ("ignore_types", ["entity:Planet"], "names .entity:Planet., which no training row tells"),
    ],
)
def test_faults_of_what_is_not_known_are_told(column: str, value: Any, message: str, tmp_path: Path):
    train = write(tmp_path / "train.json", [DOCUMENTS[0] | {column: value}, *DOCUMENTS[1:4]])
    with pytest.raises(DataError, match=message):
        load_data(DataSettings(train=train, task="joint_extraction", labels=LABELS))


@pytest.mark.parametrize("name", ["label_studio", "doccano", "offsets_jsonl", "columns", "brat"])
def test_a_recipe_reads_the_files_of_annotation_tools(name: str, tmp_path: Path):
    documents = [one | {"tokens": list(one["tokens"])} for one in DOCUMENTS[:4]]
    documents[0] = documents[0] | {"ignore": [[len(documents[0]["tokens"]) - 1, len(documents[0]["tokens"])]]}
    suffix = {"label_studio": ".json", "columns": ".conll", "brat": ""}.get(name, ".jsonl")
    train = tmp_path / f"train{suffix}"
    write_documents(train, documents, name, types=Types.of_labels(LABELS))
    data = load_data(DataSettings(train=str(train), task="joint_extraction", labels=LABELS))
    rows = data.splits["train"]
    assert [row["tokens"] for row in rows] == [one["tokens"] for one in documents]
    assert [len(row["relations"]) for row in rows] == [len(one["relations"]) for one in documents]
    assert rows[0]["ignore"] == documents[0]["ignore"]


def test_a_faulty_annotation_is_refused_or_left_out(tmp_path: Path):
    good = {"text": "Anna met Bo", "entities": [{"type": "Person", "start": 0, "end": 4}]}
    bad = {"text": "Anna met Bo", "entities": [{"type": "Person", "start": 1, "end": 4}]}
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps(one) + "\n" for one in (good, bad, good)))
    settings = {"train": str(train), "task": "joint_extraction"}
    with pytest.raises(DataError, match="misaligned 1"):
        load_data(DataSettings(**settings))
    data = load_data(DataSettings(**settings, invalid_rows="drop"))
    assert [len(row["entities"]) for row in data.splits["train"]] == [1, 0, 1]


def test_a_recipe_on_such_files_is_valid_and_tells_their_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    types = Types.of_labels(LABELS)
    write_documents(tmp_path / "train.json", DOCUMENTS, "label_studio", types=types)
    write_documents(tmp_path / "dev.jsonl", DOCUMENTS[:9], "doccano", types=types)
    recipe = tmp_path / "recipe.yaml"
    data = f"{{train: {tmp_path}/train.json, validation: {tmp_path}/dev.jsonl, task: joint_extraction}}"
    base = tiny_encoder(tmp_path / "model")
    recipe.write_text(f"name: own\nmodel: {base}\nstages:\n  - tune: {{method: full, data: {data}}}\n")
    assert main(["validate", str(recipe)]) == 0
    lines = (tmp_path / "dev.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    first["entities"][0]["end_offset"] = 9999
    (tmp_path / "dev.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]))
    capsys.readouterr()
    assert main(["validate", str(recipe)]) != 0
    assert "characters 0 to 9999" in capsys.readouterr().err


@pytest.fixture
def brat(tmp_path: Path) -> Path:
    """A folder with a recipe, and annotated texts in `train/` and `dev/`."""
    for split, documents in (("train", DOCUMENTS), ("dev", DOCUMENTS[:9])):
        write_documents(tmp_path / split, documents, "brat", types=Types.of_labels(LABELS))
    base = tiny_encoder(tmp_path / "model")
    data = "{train: train, validation: dev/, task: joint_extraction}"
    (tmp_path / "recipe.yaml").write_text(
        f"name: own\nmodel: {base}\nstages:\n  - tune: {{method: full, data: {data}, epochs: 1}}\n"
    )
    return tmp_path


def test_a_run_on_folders_of_brat_files_notices_a_changed_one(brat: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(brat)
    assert main(["run", "recipe.yaml"]) == 0
    settings = DataSettings(train="train", validation="dev", task="joint_extraction")
    before = source_fingerprint(settings)
    (brat / "train" / ".hidden.swp").write_text("an editor's")
    assert source_fingerprint(settings) == before
    text = next((brat / "train").glob("*.txt"))
    text.write_text(text.read_text() + "\n")
    assert source_fingerprint(settings) != before
    assert main(["extract", "runs/own", "--text", "Tom Ek works for Blue Harbour ."]) == 0


def test_a_faulty_brat_file_is_named(brat: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(brat)
    file = next((brat / "dev").glob("*.ann"))
    file.write_text(file.read_text() + "T99\tPerson 9990 9999\tNobody\n")
    assert main(["validate", "recipe.yaml"]) != 0
    told = capsys.readouterr().err
    assert file.name in told
    assert "characters 9990 to 9999" in told


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train": "train"}, "`task: joint_extraction`"),
        ({"train": "train", "task": "single_sentence"}, "the task single_sentence does not read"),
        ({"source": "train", "task": "joint_extraction"}, "no splits of its own"),
        ({"train": "train", "test": "./train", "task": "joint_extraction"}, "are the same rows"),
        ({"train": "model", "task": "joint_extraction"}, "is a folder, not a file"),
    ],
)
def test_what_a_folder_can_not_be_is_told(
    brat: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], message: str
):
    monkeypatch.chdir(brat)
    with pytest.raises(DataError, match=message):
        load_data(DataSettings(**given))


def test_init_takes_a_folder_of_brat_files(brat: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(brat)
    assert main(["init", "--data", "train/", "started.yaml"]) == 0
    assert main(["validate", "started.yaml"]) == 0
    data = load_recipe("started.yaml").stage_list()[0].data
    assert (data.task, data.train, data.validation) == ("joint_extraction", "train/", "dev")


@pytest.mark.parametrize("name", ["spert", "label_studio", "doccano", "offsets_jsonl"])
def test_init_takes_the_files_of_annotation_tools(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    suffix = "json" if name in ("spert", "label_studio") else "jsonl"
    for split in ("train", "dev"):
        write_documents(f"{split}.{suffix}", DOCUMENTS, name, types=Types.of_labels(LABELS))
    assert main(["init", "--data", f"train.{suffix}", "started.yaml"]) == 0
    assert main(["validate", "started.yaml"]) == 0
    data = load_recipe("started.yaml").stage_list()[0].data
    assert (data.task, data.validation) == ("joint_extraction", f"dev.{suffix}")


def test_init_takes_texts_with_no_annotation_for_plain_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("train.jsonl").write_text("".join(json.dumps({"text": f"Text {i} ."}) + "\n" for i in range(30)))
    assert main(["init", "--data", "train.jsonl", "started.yaml"]) == 0
    assert load_recipe("started.yaml").stage_list()[0].data.task == "plain_text"


def test_types_that_were_not_looked_for_are_not_judged():
    entities = [{"type": "Person", "start": 0, "end": 1}, {"type": "Firm", "start": 2, "end": 3}]
    told = {"tokens": list("abc"), "entities": entities, "relations": [{"type": "employs", "head": 1, "tail": 0}]}
    gold = {"tokens": list("abc"), "entities": entities[:1], "relations": []}
    types = Types.of_labels(LABELS)
    assert score_extractions([gold], [told], types).flat()["entity_micro_precision"] == 0.5
    unsure = gold | {"ignore_types": ["entity:Firm", "relation:employs"]}
    scores = score_extractions([unsure], [told], types)
    assert scores.flat()["entity_micro_f1"] == 1
    assert not scores.levels["relation"].predicted.sum()


@pytest.mark.parametrize("told", [(0, 1), (1, 0)])
@pytest.mark.parametrize("unknown", [[0, 1], [1, 0]])
def test_an_unknown_pair_has_no_direction_where_the_relation_has_none(unknown: list[int], told: tuple[int, int]):
    entities = [{"type": "Person", "start": 0, "end": 1}, {"type": "Person", "start": 2, "end": 3}]
    gold = {"tokens": list("abc"), "entities": entities, "relations": [], "ignore_pairs": [unknown]}
    for kind, judged in (("married", False), ("employs", list(told) != unknown)):
        guess = gold | {"relations": [{"type": kind, "head": told[0], "tail": told[1]}]}
        scores = score_extractions([gold], [guess], Types.of_labels(LABELS))
        assert scores.levels["relation"].predicted.sum() == judged


def test_a_known_relation_without_direction_is_right_either_way_round():
    entities = [{"type": "Person", "start": 0, "end": 1}, {"type": "Person", "start": 2, "end": 3}]
    married = {"type": "married", "head": 0, "tail": 1}
    gold = {"tokens": list("abc"), "entities": entities, "relations": [married | {"head": 1, "tail": 0}]}
    gold["ignore_types"] = ["symmetric relation:married"]
    scores = score_extractions([gold], [gold | {"relations": [married]}], Types.of_labels(LABELS))
    assert scores.levels["relation"].correct.sum() == 1


def test_a_task_of_label_studio_that_nobody_looked_at_is_not_known(tmp_path: Path):
    result = {"id": "a", "type": "labels", "value": {"start": 0, "end": 4, "labels": ["Person"]}}
    looked_at = [{"annotations": [{"result": []}]}, {"predictions": [{"result": [result]}]}]
    others = [{}, {"annotations": []}, {"annotations": [{"was_cancelled": True, "result": [result]}]}]
    tasks = [{"data": {"text": "Anna met Bo"}} | one for one in (*looked_at, *others)]
    (tmp_path / "c.json").write_text(json.dumps(tasks))
    documents = read_documents(tmp_path / "c.json").documents
    assert [one.get("ignore") for one in documents] == [None, None, [[0, 3]], [[0, 3]], [[0, 3]]]
    assert [len(one["entities"]) for one in documents] == [0, 1, 0, 0, 0]
