"""Sets on the Hub, with `datasets.load_dataset` replaced: no network."""

import datasets
import pytest

from luthier.data.loading import load_data
from luthier.data.settings import DataSettings
from luthier.errors import DataError

CLASSES = datasets.ClassLabel(names=["entailment", "not_entailment"])


def split(labels, streaming=False):
    features = datasets.Features(sentence1=datasets.Value("string"), sentence2=datasets.Value("string"), label=CLASSES)
    rows = {"sentence1": [f"a{i}" for i in range(len(labels))], "sentence2": ["b"] * len(labels), "label": labels}
    found = datasets.Dataset.from_dict(rows, features=features)
    return found.to_iterable_dataset() if streaming else found


@pytest.fixture
def hub(monkeypatch):
    calls = []

    def load_dataset(name, config, *, revision=None, streaming=False):
        calls.append((name, config, revision))
        return {
            "train": split([0, 1, 1], streaming),
            "validation": split([1, 0], streaming),
            "test": split([-1, -1], streaming),
        }

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


@pytest.mark.parametrize("source", ["glue/rte", "hub:nyu-mll/glue:rte", "nyu-mll/glue:rte", "hub:glue:rte"])
def test_glue_is_known_by_name(hub, source):
    data = load_data(DataSettings(source=source))
    assert list(data.splits) == ["train", "validation"]
    assert (data.schema.name, data.labels, data.metrics) == ("pair", ["entailment", "not_entailment"], ("accuracy",))
    assert data.splits["train"][1] == {"row": 2, "text": "a1", "text_pair": "b", "label": 1}


def test_the_set_its_configuration_and_the_commit_that_was_read_are_told(monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"

    def load_dataset(name, config, *, revision=None, streaming=False):
        found = split([0, 1, 1])
        found.info.download_checksums = {f"hf://datasets/{name}@{commit}/{config}/train.parquet": {}}
        return {"train": found}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    summary = load_data(DataSettings(train="glue/rte")).summary["train"]
    assert (summary.source, summary.rows) == ("glue/rte", 3)
    assert f"nyu-mll/glue on the Hub, configuration rte, split train, revision {commit}" in summary.note


@pytest.mark.parametrize(("source", "told"), [("hub:a/b@v1", "revision v1"), ("hub:a/b", "no revision is pinned")])
def test_a_revision_is_the_one_that_was_asked_for_where_the_commit_is_not_known(hub, source, told):
    settings = DataSettings(train=source, text="sentence1", text_pair="sentence2", label="label")
    assert load_data(settings).summary["train"].note == f"a/b on the Hub, split train, {told}"


def test_record_is_known_by_name(monkeypatch):
    rows = {
        "passage": ["Ann met Bo."],
        "query": ["@placeholder was met"],
        "entities": [["Ann", "Bo"]],
        "answers": [["Bo"]],
        "idx": [{"passage": 3, "query": 7}],
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: {"train": datasets.Dataset.from_dict(rows)})
    data = load_data(DataSettings(train="superglue/record"))
    assert data.metrics == ("squad_f1", "exact_match")
    assert data.splits["train"][1] == {
        "row": 2,
        "text": "Ann met Bo.",
        "text_pair": "Bo was met",
        "label": 1,
        "group": "3-7",
        "candidate": "Bo",
        "question": "@placeholder was met",
        "choices": ["Ann", "Bo"],
    }


def test_any_set_with_named_columns(hub):
    settings = DataSettings(source="hub:org/set@v2", text="sentence1", text_pair="sentence2")
    data = load_data(settings)
    assert hub == [("org/set", None, "v2")] * 3
    assert data.labels == ["entailment", "not_entailment"]
    assert list(data.splits) == ["train", "validation"], "a split whose labels are all hidden is left out"
    with pytest.raises(DataError, match="has no label"):
        load_data(DataSettings(train="hub:org/set", test="hub:org/set", text="sentence1", text_pair="sentence2"))


def test_missing_split_is_told(hub):
    with pytest.raises(DataError, match=r"no split 'dev2'(.|\n)*it has: train, validation, test"):
        load_data(DataSettings(train="hub:org/set#dev2", text="sentence1"))


def test_a_set_built_by_a_script_is_read_from_its_parquet_copy(monkeypatch):
    calls = []

    def load_dataset(name, config, *, revision=None, streaming=False):
        calls.append(revision)
        if revision is None:
            raise RuntimeError("Dataset scripts are no longer supported, but found set.py")
        return {"train": split([0, 1])}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    load_data(DataSettings(train="hub:org/set", text="sentence1", text_pair="sentence2"))
    assert calls == [None, "refs/convert/parquet"]


@pytest.mark.parametrize(
    "error", [ConnectionError("offline"), FileNotFoundError("no such set"), ValueError("bad config")]
)
def test_failures_of_the_hub_are_told(monkeypatch, error):
    def load_dataset(*args, **kwargs):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=f"'org/set' can't be loaded from the Hub: {type(error).__name__}"):
        load_data(DataSettings(train="hub:org/set"))


def test_streams_from_the_hub(hub):
    settings = DataSettings(source="hub:org/set", text="sentence1", text_pair="sentence2", streaming=True, buffer=2)
    data = load_data(settings, splits=("train", "validation"))
    assert sorted(row["row"] for row in data.splits["train"]) == [1, 2, 3]
    assert len(data.splits["validation"]) == 2
    assert data.labels == ["entailment", "not_entailment"]
