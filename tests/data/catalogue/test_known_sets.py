"""Known sets, on small copies of their layout and, where it is at hand, on the whole folder."""

import json

import pytest

from luthier.data.catalogue.lookup import known_sets
from luthier.data.loading import load_data
from luthier.data.reading.layouts import shape
from luthier.data.settings import DataSettings
from luthier.data.table import Table
from luthier.errors import DataError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LUTHIER_DATA", str(tmp_path))
    return tmp_path


def load(**fields):
    return load_data(DataSettings(**fields))


def sst2(write):
    for name, rows in {"train": 6, "dev": 2, "holdout": 2}.items():
        write(f"sst2/{name}.tsv", "sentence\tlabel\n" + "".join(f"{name} {i}\t{i % 2}\n" for i in range(rows)))
    write("sst2/test_stsa.txt", "1 fine\n0 awful\n")


def test_a_set_brings_its_splits_labels_and_metrics(write, folder):
    sst2(write)
    data = load(source="data:sst2")
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 6, "validation": 2, "test": 2}
    assert (data.labels, data.metrics) == (["negative", "positive"], ("accuracy",))
    assert data.splits["test"][0] == {"row": 1, "text": "fine", "label": 1}


def test_one_set_per_split_and_named_splits(write, folder):
    sst2(write)
    write("mr/rt-polarity.neg", "".join(f"bad {i}\n" for i in range(10)))
    write("mr/rt-polarity.pos", "".join(f"good {i}\n" for i in range(10)))
    data = load(train="data:sst2", validation="data:sst2#holdout", test="data:mr#all")
    assert data.splits["validation"]["text"][:] == ["holdout 0", "holdout 1"]
    assert data.summary["test"].label_counts == {"negative": 10, "positive": 10}
    with pytest.raises(DataError, match=r"no split 'holdot'(.|\n)*did you mean `#holdout`"):
        load(train="data:sst2#holdot")


def test_a_set_without_splits_is_cut_once_and_for_all(write, folder):
    write("mr/rt-polarity.neg", "".join(f"bad {i}\n" for i in range(20)))
    write("mr/rt-polarity.pos", "".join(f"good {i}\n" for i in range(20)))
    data = load(source="data:mr", subset_seed=5)
    rows = [set(data.splits[split]["row"]) for split in ("train", "validation", "test")]
    assert [len(part) for part in rows] == [32, 4, 4]
    assert set.union(*rows) == set(range(1, 41))
    assert "no official split: cut with a fixed seed" in data.summary["test"].note
    assert load(test="data:mr", subset_seed=6).splits["test"]["text"][:] == data.splits["test"]["text"][:]


def test_own_file_is_tested_on_a_known_set(write, folder):
    sst2(write)
    train = write("own.csv", "review,label\nnice,positive\nbad,negative\n")
    data = load(train=train, text="review", test="data:sst2")
    assert data.splits["test"]["text"][:] == ["fine", "awful"]


def test_evaluation_sets_are_not_trained_on(write, folder):
    rows = {"sst2": [{"idx": 0, "sentence": "a", "label": 1}, {"idx": 1, "sentence": "b", "label": 0}]}
    write("advglue/dev.json", json.dumps(rows))
    assert load(test="data:advglue/sst2").splits["test"]["label"][:] == [1, 0]
    for source in ("data:advglue/sst2#test", "data:advglue/dev.json"):
        with pytest.raises(DataError, match="is for evaluation, and must not be trained on"):
            load(train=source)
    with pytest.raises(DataError, match=r"is a family of sets(.|\n)*mnli"):
        load(test="data:advglue")


def test_two_way_labels_from_three_way_ones(write, folder):
    rows = "premise\thypothesis\tlabel\n" + "a\tb\tentailment\nc\td\tneutral\ne\tf\tcontradiction\n"
    write(
        "americasnli/dev/quy.tsv",
        "language\t" + rows.replace("\na", "\nquy\ta").replace("\nc", "\nquy\tc").replace("\ne", "\nquy\te"),
    )
    two = {"neutral": "not_entailment", "contradiction": "not_entailment"}
    data = load(validation="data:americasnli/quy", label_map=two)
    assert data.labels == ["entailment", "not_entailment"]
    assert data.splits["validation"]["label"][:] == [0, 1, 1]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("data:sst2#validation", "data:sst2/dev.tsv"),
        ("data:sst2/dev.tsv", "data:sst2/../sst2/dev.tsv"),
        ("data:sst2", "data:sst2#train"),
    ],
)
def test_the_same_rows_do_not_serve_two_splits(write, folder, train, test):
    sst2(write)
    with pytest.raises(DataError, match=r"`train` and `test` are the same rows|refused"):
        load(train=train, test=test)


def test_missing_file_of_a_set_is_told(write, folder):
    write("sst2/train.tsv", "sentence\tlabel\na\t1\n")
    with pytest.raises(DataError, match=r"data:sst2/dev\.tsv: the set's folder has no such file"):
        load(source="data:sst2")


def test_choices_and_marked_pronouns(write, folder):
    copa = {"premise": "It rained.", "choice1": "wet", "choice2": "dry", "question": "effect", "label": 0}
    wsc = {"text": "Ann met Bo and he left.", "label": True}
    wsc["target"] = {"span1_text": "Bo", "span2_text": "he", "span1_index": 2, "span2_index": 4}
    for split in ("train_32", "val", "dev32"):
        write(f"superglue/COPA/{split}.jsonl", json.dumps(copa))
        write(f"superglue/WSC/{split}.jsonl", json.dumps(wsc))
    row = load(source="data:superglue/copa").splits["train"][0]
    assert row["context"] == "It rained. What happened as a result?"
    assert row["choices"] == ["wet", "dry"]
    row = load(source="data:superglue/wsc").splits["train"][0]
    assert (row["text"], row["text_pair"], row["label"]) == ("Ann met Bo and * he * left.", "Bo", 1)


def test_answers_of_one_question_share_a_group(write, folder):
    question = {"question": "q?", "idx": 3, "answers": [{"text": "a", "label": 1}, {"text": "b", "label": 0}]}
    row = {"idx": 7, "passage": {"text": "story", "questions": [question]}}
    for split in ("train_32", "val", "dev32"):
        write(f"superglue/MultiRC/{split}.jsonl", json.dumps(row))
    found = load(source="data:superglue/multirc").splits["train"]
    assert found[1] == {"row": 2, "text": "story", "text_pair": "q? b", "label": 0, "group": "7-3"}


def questions(write, passages, per_passage=3, per_question=4):
    """MultiRC files with questions of several answers."""
    lines = []
    for i in range(passages):
        asked = [
            {
                "question": f"q{q}?",
                "idx": q,
                "answers": [{"text": f"a{a}", "label": a % 2} for a in range(per_question)],
            }
            for q in range(per_passage)
        ]
        lines.append(json.dumps({"idx": i, "passage": {"text": "story", "questions": asked}}))
    for split in ("train_32", "val", "dev32"):
        write(f"superglue/MultiRC/{split}.jsonl", "\n".join(lines))


@pytest.mark.parametrize("cut", [{"limit": 30}, {"evaluation_limit": 30}, {"validation_fraction": 0.3}])
def test_draws_keep_the_answers_of_a_question_together(write, folder, cut):
    questions(write, 8)
    source = (
        {"train": "data:superglue/multirc"} if "validation_fraction" in cut else {"source": "data:superglue/multirc"}
    )
    data = load(**source, **cut)
    assert data.metrics == ("f1", "question_exact_match", "accuracy")
    validation = data.splits["validation"]
    assert len(validation) == 28
    sizes = [list(validation["group"]).count(group) for group in set(validation["group"])]
    assert sizes == [4] * 7
    with pytest.raises(DataError, match="part rows of one question"):
        load(source="data:superglue/multirc", examples=10, validation_examples=10)


def record_rows():
    """The same two queries as on the Hub and as in the official files."""
    text = "Ann met Bo in Oslo.\n@highlight\nBo was late"
    spans = [{"start": 0, "end": 2}, {"start": 8, "end": 9}, {"start": 14, "end": 17}, {"start": 31, "end": 32}]
    answers = {"@placeholder was late": ["Bo"], "Ann went to @placeholder": ["Oslo"]}
    flat = {
        "passage": [text, text],
        "query": list(answers),
        "entities": [["Ann", "Bo", "Oslo"]] * 2,
        "answers": list(answers.values()),
        "idx": [{"passage": 5, "query": 0}, {"passage": 5, "query": 1}],
    }
    asked = [{"query": q, "idx": i, "answers": [{"text": a[0]}]} for i, (q, a) in enumerate(answers.items())]
    nested = {"passage": [{"text": text, "entities": spans}], "idx": [5], "qas": [asked]}
    return flat, nested


@pytest.mark.parametrize("layout", [0, 1])
def test_record_has_a_row_for_every_candidate(layout):
    table = shape("record", Table("record", record_rows()[layout]))
    rows = [table.record(i) for i in range(6)]
    assert [r["candidate"] for r in rows] == ["Ann", "Bo", "Oslo"] * 2
    assert [r["label"] for r in rows] == ["False", "True", "False", "False", "False", "True"]
    assert [r["group"] for r in rows] == ["5-0"] * 3 + ["5-1"] * 3
    assert rows[1]["filled"] == "Bo was late"
    assert rows[0]["text"] == "Ann met Bo in Oslo. Bo was late"


def test_entities_become_tags_and_the_longer_one_wins(write, folder):
    entities = [
        {"type": "Loc", "start": 1, "end": 2},
        {"type": "Org", "start": 1, "end": 3},
        {"type": "Peop", "start": 0, "end": 1},
    ]
    for split in ("train", "dev", "test"):
        write(f"conll04/{split}.json", json.dumps([{"tokens": ["a", "b", "c"], "entities": entities}]))
    data = load(source="data:conll04")
    assert [data.labels[i] for i in data.splits["train"][0]["tags"]] == ["B-Peop", "B-Org", "I-Org"]


def test_entities_and_relations_are_read_with_the_types_of_the_set(write, folder):
    entities = [{"type": "Method", "start": 0, "end": 1}, {"type": "Task", "start": 1, "end": 3}]
    row = {"tokens": ["a", "b", "c"], "entities": entities, "relations": [{"type": "Compare", "head": 1, "tail": 0}]}
    for split in ("train", "dev", "test"):
        write(f"scierc/{split}.json", json.dumps([row]))
    data = load(source="data:scierc/relations")
    assert data.splits["test"][0]["entities"] == entities
    assert len(data.labels) == 13
    assert "symmetric relation:Compare" in data.labels


def test_triples_of_words_become_entities_and_relations(write, folder):
    triples = [["Berg", "lives", "Oslo"], ["Oslo", "in", "Norway"], ["Oslo", "named", "Oslo"]]
    for split in ("train", "dev", "test"):
        rows = [{"text": "Oslo , Norway : Oslo has Berg .", "triple_list": triples}]
        write(f"webnlg_re/{split}.json", json.dumps(rows))
    row = load(source="data:webnlg_re").splits["train"][0]
    words = [row["tokens"][one["start"]] for one in row["entities"]]
    assert [(one["start"], one["end"]) for one in row["entities"]] == [(0, 1), (2, 3), (6, 7)]
    told = [(words[one["head"]], one["type"], words[one["tail"]]) for one in row["relations"]]
    assert told == [("Berg", "lives", "Oslo"), ("Oslo", "in", "Norway")]


def test_rows_of_another_layout_are_told(write, folder):
    for split in ("train_32", "val", "dev32"):
        write(f"superglue/WiC/{split}.jsonl", json.dumps({"sentence1": "a"}))
    with pytest.raises(DataError, match="not laid out like this set"):
        load(source="data:superglue/wic")


def test_every_known_set_is_consistent():
    for known in known_sets().values():
        assert (known.folder is None) != (known.hub is None), known.name
        assert known.labels is None or set(known.label_map.values()) <= set(known.labels), known.name
        assert not known.cut or abs(sum(known.cut.values()) - 1) < 1e-9, known.name
        assert not (known.evaluation_only and "train" in known.splits), known.name


def test_questions_about_long_documents_stand_behind_them(write, folder):
    record = {"input": " A long text. ", "instructions": ["Who?", "When?"], "outputs": ["Anna", "In 1820"]}
    write("leval/tpo.jsonl", json.dumps(record) + "\n")
    rows = load(source="data:leval/tpo").splits["test"]
    assert rows["prompt"][:] == ["A long text.\n\nQ: Who?\nA:", "A long text.\n\nQ: When?\nA:"]
    assert rows["response"][:] == ["Anna", "In 1820"]
    meeting = {
        "meeting_transcripts": [{"speaker": "A", "content": "Hello."}, {"speaker": "B", "content": "Yes."}],
        "general_query_list": [{"query": "What was said?", "answer": "A greeting."}],
        "specific_query_list": [{"query": "What did B say?", "answer": "Yes.", "relevant_text_span": []}],
    }
    for split in ("val", "test"):
        write(f"qmsum/{split}.jsonl", json.dumps(meeting) + "\n")
    rows = load(source="data:qmsum").splits["test"]
    assert rows["prompt"][1] == "A: Hello.\nB: Yes.\n\nQ: What did B say?\nA:"
    assert rows["response"][:] == ["A greeting.", "Yes."]
    write("leval/tpo.jsonl", "{\n")
    with pytest.raises(DataError, match="line 1 is no JSON"):
        load(source="data:leval/tpo")


@pytest.mark.data
@pytest.mark.parametrize("name", [name for name, known in known_sets().items() if known.folder and name == known.name])
def test_public_set_loads_whole(name, public_data):
    known = known_sets()[name]
    folder = public_data / str(known.folder)
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")
    data = load(source="data:" + name.removeprefix("data/"))
    assert data.schema.name == known.task
    assert all(summary.rows > 10 for summary in data.summary.values())
    if known.task != "token_labels":
        unused = [label for label in data.labels if not any(s.label_counts[label] for s in data.summary.values())]
        assert not unused, f"{name}: no row has these labels"


@pytest.mark.data
def test_counts_of_published_splits(public_data):
    rows = {
        "data:cola": {"train": 8551, "validation": 1043},
        "data:trec": {"train": 5452, "test": 500},
        "data:sick": {"train": 4500, "validation": 500, "test": 4927},
        "data:wnut17": {"train": 3394, "validation": 1009, "test": 1287},
        "data:anli_dev": {"test": 3198},
        "data:superglue/multirc": {"train": 154, "validation": 4848},
    }
    for source, expected in rows.items():
        assert {split: s.rows for split, s in load(source=source).summary.items()} == expected
