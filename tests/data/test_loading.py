import gzip
import io
import json
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.data.loading import load_data
from luthier.data.looks import look_at
from luthier.data.settings import DataSettings
from luthier.data.sources.fingerprint import source_fingerprint
from luthier.errors import DataError

TRAIN = "text,label\ngood film,pos\nbad film,neg\nfine,pos\nawful,neg\n"


def load(**fields):
    return load_data(DataSettings(**fields))


def jsonl(*records):
    return "\n".join(json.dumps(record) for record in records)


def test_single_sentences(write):
    data = load(train=write("a.csv", TRAIN), test=write("b.csv", "text,label\nbad,neg\n"))
    assert (data.schema.name, data.labels, data.metrics) == ("single_sentence", ["neg", "pos"], ("accuracy", "f1"))
    assert data.splits["train"][0] == {"row": 1, "text": "good film", "label": 1}
    assert data.splits["test"]["label"][:] == [0]
    assert data.summary["train"].label_counts == {"neg": 2, "pos": 2}


def test_one_row_is_enough_to_test_on_but_not_to_train_on(write):
    one = write("a.csv", "text,label\ngood,pos\n")
    assert load(train=write("b.csv", TRAIN), test=one).summary["test"].rows == 1
    with pytest.raises(DataError, match="only one label: 'pos'"):
        load(train=one)
    with pytest.raises(DataError, match="1 rows are too few to cut off"):
        load(train=one, labels=["neg", "pos"], validation_fraction=0.5)


def test_named_columns_and_label_map(write):
    path = write("a.tsv", 'polarity\tsentence\n1\tsays "hi"\n0\tno\n')
    data = load(train=path, text="sentence", label="polarity", label_map={"1": "good", "0": "bad"})
    assert data.labels == ["bad", "good"]
    assert data.splits["train"][0] == {"row": 1, "text": 'says "hi"', "label": 1}


@pytest.mark.parametrize(
    ("files", "read", "told"),
    [
        (("a.jsonl",), {"delimiter": ";"}, "`delimiter` has no effect: no split is a csv or tsv file"),
        (("a.jsonl", "b.parquet"), {"column_names": ["text", "label"]}, "`column_names` has no effect"),
        (("a.parquet",), {"encoding": "latin-1"}, "`encoding` has no effect: no split is a file of text"),
        (("a.parquet",), {"max_line_megabytes": 9}, "`max_line_megabytes` has no effect"),
        (("a.csv",), {"format": "jsonl", "delimiter": ";"}, "`delimiter` has no effect"),
        (("a.jsonl", "b.csv"), {"delimiter": ";"}, None),
        (("a.data",), {"format": "csv", "delimiter": ";"}, None),
        (("a.jsonl",), {"encoding": "latin-1", "format": "jsonl"}, None),
    ],
    ids=str,
)
def test_settings_that_no_split_is_read_by_are_refused(write, files, read, told):
    def written(name: str) -> str:
        if name.endswith(".parquet"):
            table, place = pa.table({"text": ["good", "bad"], "label": ["pos", "neg"]}), io.BytesIO()
            pq.write_table(table, place)
            return write(name, place.getvalue())
        if name.endswith(".jsonl") or read.get("format") == "jsonl":
            return write(name, jsonl({"text": "good", "label": "pos"}, {"text": "bad", "label": "neg"}))
        return write(name, "text;label\nfine;pos\nawful;neg\n")

    settings = DataSettings(**dict(zip(("train", "test"), map(written, files), strict=False)), **read)
    seen = dict(look_at(settings).wrong)
    if told is None:
        assert not seen
        assert len(load_data(settings).splits) == len(files)
        return
    assert list(seen) == [list(read)[-1]]
    with pytest.raises(DataError, match=told):
        load_data(settings)


def test_label_order_is_by_number_or_as_given(write):
    path = write("a.csv", "text,label\na,10\nb,9\nc,2\n")
    assert load(train=path).labels == ["2", "9", "10"]
    assert load(train=path, labels=["10", "9", "2"]).splits["train"]["label"][:] == [0, 1, 2]


def test_labels_are_the_same_whichever_split_is_asked_for(write):
    settings = DataSettings(train=write("a.csv", TRAIN), test=write("b.csv", "text,label\nx,pos\n"))
    assert load_data(settings, splits=("test",)).labels == load_data(settings).labels == ["neg", "pos"]
    assert list(load_data(settings, splits=("test",)).splits) == ["test"]
    with pytest.raises(DataError, match="no split validation"):
        load_data(settings, splits=("validation",))


def test_true_and_one_are_labels_however_they_are_written(write):
    data = load(train=write("a.jsonl", jsonl({"text": "a", "label": 1.0}, {"text": "b", "label": 0})))
    assert data.labels == ["0", "1"]
    data = load(train=write("b.jsonl", jsonl({"text": "a", "label": True}, {"text": "b", "label": False})))
    assert data.labels == ["False", "True"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("txt,label\na,x\nb,y\n", r"no column 'text'(.|\n)*did you mean 'txt'"),
        ("text,lable\na,x\nb,y\n", r"no column 'label'(.|\n)*did you mean 'lable'"),
        ("text,label\n,x\nb,y\n", r"row 1 \(line 2\), column 'text': holds no text"),
        ("text,label\n  ,x\nb,y\n", r"row 1 \(line 2\), column 'text': holds no text"),
        ("text,label\na,\nb,y\n", r"row 1 \(line 2\), column 'label': has no label"),
    ],
)
def test_unusable_cells_are_named(write, content, told):
    with pytest.raises(DataError, match=told):
        load(train=write("a.csv", content), task="single_sentence")


def test_missing_values_of_json_are_named(write):
    rows = jsonl({"text": None, "label": "a"}, {"label": "b"}, {"text": 5, "label": "b"}, {"text": "x", "label": None})
    with pytest.raises(DataError, match=r"4 problems(.|\n)*row 1, column 'text': is missing(.|\n)*row 3.*is not text"):
        load(train=write("a.jsonl", rows + '\n{"text": "nan", "label": "a"}'))
    with pytest.raises(DataError, match=r"row 2, column 'label': has no label"):
        load(train=write("b.jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "label": NaN}'))


def test_labels_unknown_to_training_are_named(write):
    with pytest.raises(
        DataError, match=r"b\.csv: row 2 \(line 3\), column 'label': the label 'poz' .* did you mean 'pos'"
    ):
        load(train=write("a.csv", TRAIN), test=write("b.csv", "text,label\nx,pos\ny,poz\n"))


def test_unlabelled_rows_can_be_read(write):
    data = load(test=write("a.csv", "text\nhello\n"), labelled=False, task="single_sentence")
    assert data.splits["test"][0] == {"row": 1, "text": "hello"}


def test_pairs_and_regression(write):
    rows = "a,b,score\none,two,0.5\nthree,four,1\n"
    data = load(train=write("a.csv", rows), text="a", text_pair="b", label="score")
    assert (data.schema.name, data.labels) == ("regression", [])
    assert data.splits["train"][0] == {"row": 1, "text": "one", "text_pair": "two", "label": 0.5}
    data = load(train=write("b.csv", "text,text_pair,label\na,b,1\nc,d,0\n"))
    assert data.schema.name == "pair"
    with pytest.raises(DataError, match=r"column 'label': holds 'much', which is not a finite number"):
        load(train=write("c.csv", "text,label\na,1\nb,much\n"), task="regression")


def test_token_labels(write):
    data = load(train=write("a.conll", "Ada B-PER\nran O\n\nParis B-LOC\n"))
    assert data.labels == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert data.splits["train"][0] == {"row": 1, "tokens": ["Ada", "ran"], "tags": [3, 0]}
    with pytest.raises(DataError, match="has 1 labels for 2 words"):
        load(train=write("a.jsonl", jsonl({"tokens": ["a", "b"], "tags": ["O"]})))
    with pytest.raises(DataError, match="the label 'B-ORG' is not one of"):
        load(train=write("a.conll", "Ada B-PER\nran O\n"), test=write("b.conll", "Acme B-ORG\n"))


def test_words_of_a_cell_may_be_a_list(write):
    rows = ['"[""EU"", ""said""]",B-ORG O', "\"['so', 'on']\",\"['O', 'O']\"", "[ a ],O O O"]
    data = load(train=write("a.csv", "tokens,tags\n" + "\n".join(rows) + "\n"), task="token_labels")
    assert list(data.splits["train"]["tokens"]) == [["EU", "said"], ["so", "on"], ["[", "a", "]"]]


def test_extractive_answers(write):
    row = {"question": "who?", "context": "it was Ada", "answers": {"text": ["Ada"], "answer_start": [7]}}
    data = load(train=write("a.jsonl", jsonl(row, {**row, "answers": {"text": [], "answer_start": []}})))
    assert data.schema.name == "extractive_qa"
    assert data.splits["train"][0]["answers"] == {"text": ["Ada"], "answer_start": [7]}
    listed = {**row, "answers": [{"text": "Ada", "answer_start": 7}]}
    assert load(train=write("b.jsonl", jsonl(listed))).splits["train"][0]["answers"]["answer_start"] == [7]
    with pytest.raises(DataError, match=r"the answer 'Ada' is not at character 3"):
        load(train=write("c.jsonl", jsonl({**row, "answers": {"text": ["Ada"], "answer_start": [3]}})))


def test_multiple_choice(write):
    rows = "context,one,two,label\nwhy?,a,b,1\nhow?,c,d,0\n"
    data = load(train=write("a.csv", rows), choices=["one", "two"])
    assert (data.schema.name, data.labels, data.metrics) == ("multiple_choice", [], ("accuracy",))
    assert data.splits["train"][0] == {"row": 1, "context": "why?", "choices": ["a", "b"], "label": 1}
    with pytest.raises(DataError, match="'2' is not the index of a choice, 0 to 1"):
        load(train=write("b.csv", rows.replace("b,1", "b,2")), choices=["one", "two"])
    three = {"context": "x", "choices": ["a", "b", "c"], "label": 0}
    with pytest.raises(DataError, match="row 3: has 3 choices, and most rows have 2"):
        load(train=write("c.jsonl", jsonl(*[{**three, "choices": ["a", "b"]}] * 2, three)))


def test_language_data(write):
    data = load(train=write("a.txt", "one\ntwo\n"))
    assert (data.schema.name, data.splits["train"]["text"][:]) == ("plain_text", ["one", "two"])
    data = load(train=write("a.jsonl", jsonl({"q": "hi", "a": "there"})), prompt="q", response="a")
    assert data.splits["train"][0] == {"row": 1, "prompt": "hi", "response": "there"}


def test_columns_that_fit_no_task_are_told(write):
    with pytest.raises(DataError, match="the columns fit no task: a, b"):
        load(train=write("a.csv", "a,b\n1,2\n"))


ROWS = "text,label\n" + "".join(f"t{i},{'ab'[i % 2]}\n" for i in range(40))


def test_subsets_and_cuts(write):
    path = write("a.csv", ROWS)
    assert load(train=path, per_class=3).summary["train"].label_counts == {"a": 3, "b": 3}
    assert load(train=path, limit=5).summary["train"].rows == 5
    both = load(train=path, validation_fraction=0.5, evaluation_limit=2).summary
    assert both["validation"].rows == 2
    assert both["train"].rows > 2
    assert (
        load(train=path, examples=7).splits["train"]["row"]
        != load(train=path, examples=7, subset_seed=1).splits["train"]["row"]
    )
    with pytest.raises(DataError, match="41 examples were asked for, but there are 40"):
        load(train=path, examples=41)
    with pytest.raises(DataError, match="'a' has 20, 'b' has 20"):
        load(train=path, per_class=21)


def test_the_cut_validation_does_not_move_with_the_subset_seed(write):
    path = write("a.csv", ROWS)
    one, other = (load(train=path, validation_fraction=0.25, examples=8, subset_seed=seed) for seed in (1, 2))
    assert one.splits["validation"]["row"][:] == other.splits["validation"]["row"][:]
    assert one.splits["train"]["row"][:] != other.splits["train"]["row"][:]
    assert not set(one.splits["validation"]["row"]) & set(one.splits["train"]["row"])
    assert one.summary["validation"].rows == 10
    assert "cut with seed" in one.summary["validation"].note


def test_next_examples_validate(write, tmp_path, monkeypatch):
    data = load(train=write("a.csv", ROWS), examples=10, validation_examples=20)
    rows = {split: set(data.splits[split]["row"]) for split in data.splits}
    assert (len(rows["train"]), len(rows["validation"])) == (10, 20)
    assert not rows["train"] & rows["validation"]


def test_fingerprint_follows_content_and_settings(write):
    path = write("a.csv", TRAIN)
    settings = DataSettings(train=path)
    first = source_fingerprint(settings)
    assert load_data(settings).fingerprint == load_data(settings).fingerprint
    assert source_fingerprint(DataSettings(train=path, limit=2)) != first
    write("a.csv", TRAIN.replace("fine", "good"))
    assert source_fingerprint(settings) != first


def test_the_same_file_under_two_names_is_told(write, tmp_path, monkeypatch):
    write("a.csv", TRAIN)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="`train` and `test` are the same rows"):
        load(train="a.csv", test="./a.csv")


def test_a_single_file_has_no_splits_of_its_own(write):
    with pytest.raises(DataError, match="name it as `train`"):
        load(source=write("a.csv", TRAIN))


def test_a_label_whose_only_row_is_cut_off_for_validation_is_a_label(write):
    lines = "".join(f"film {i},{'abcdefghij'[i]}\n" for i in range(10))
    data = load(train=write("a.csv", "text,label\n" + lines), validation_fraction=0.3)
    assert data.labels == list("abcdefghij")
    assert len(data.splits["validation"]) == 3


def test_labels_that_look_like_missing_ones_are_told(write, caplog):
    data = load(train=write("a.csv", TRAIN + "odd,nan\nodder,None\n"))
    assert data.labels == ["None", "nan", "neg", "pos"]
    assert "'None', 'nan' are counted as a label" in caplog.text
    caplog.clear()
    load(train=write("b.csv", TRAIN))
    assert "counted as a label" not in caplog.text


def test_a_second_text_of_a_regression_is_read_under_its_own_name(write):
    rows = "text,text_pair,label\none,two,0.5\nthree,four,1\n"
    data = load(train=write("a.csv", rows))
    assert (data.schema.name, data.columns) == ("regression", {"text": "text", "text_pair": "text_pair"})
    assert data.splits["train"][0] == {"row": 1, "text": "one", "text_pair": "two", "label": 0.5}
    one = load(train=write("b.csv", rows), text="text_pair")
    assert one.columns == {"text": "text_pair"}
    posed = load(train=write("c.csv", rows), as_text=True, number_step=0.5)
    assert posed.form.template == "text: {text} text_pair: {text_pair}"


def test_every_split_of_a_regression_is_read_alike(write):
    pairs, one = "text,text_pair,label\na,b,0.5\nc,d,1\n", "text,label\na,0.5\nc,2\n"
    data = load(train=write("a.csv", one), test=write("b.csv", pairs))
    assert "text_pair" not in data.splits["test"].column_names
    with pytest.raises(DataError, match=r"d\.csv: there is no column 'text_pair'"):
        load(train=write("c.csv", pairs), test=write("d.csv", one))


HALF = "\\ud800"


@pytest.mark.parametrize(
    ("row", "column"),
    [
        (f'{{"text": "a {HALF}", "label": "x"}}', "text"),
        (f'{{"text": "a", "label": "x{HALF}"}}', "label"),
        (f'{{"text": "a", "text_pair": "{HALF}", "label": "x"}}', "text_pair"),
        (f'{{"tokens": ["a", "{HALF}"], "tags": ["x", "y"]}}', "tokens"),
        (f'{{"tokens": ["a", "b"], "tags": ["x", "{HALF}"]}}', "tags"),
        (f'{{"context": "a", "choices": ["b", "{HALF}"], "label": 0}}', "choices"),
        (f'{{"context": "a{HALF}", "question": "b", "answers": {{"text": [], "answer_start": []}}}}', "context"),
        (f'{{"prompt": "a", "response": "{HALF}"}}', "response"),
    ],
)
def test_half_a_character_is_named_with_its_row_and_column(write, row, column):
    good = row.replace(HALF, "b")
    with pytest.raises(DataError, match=rf"a\.jsonl: row 2, column '{column}': .*'\\ud800' is half a character"):
        load(train=write("a.jsonl", f"{good}\n{row}\n"))


def test_both_halves_of_a_character_are_one(write):
    row = '{"text": "\\ud83d\\ude00", "label": "x", "unused": "\\ud800"}\n{"text": "b", "label": "y"}\n'
    assert load(train=write("a.jsonl", row)).splits["train"]["text"][0] == "\U0001f600"


def test_a_number_that_no_computer_holds_is_no_score(write):
    rows = f'{{"text": "a", "label": 0.5}}\n{{"text": "b", "label": {"9" * 400}}}\n'
    with pytest.raises(DataError, match=r"row 2, column 'label'.*not a finite number"):
        load(train=write("a.jsonl", rows), task="regression")
    with pytest.raises(DataError, match="not valid JSON"):
        load(train=write("a.json", '[{"text": "a", "label": ' + "9" * 5000 + "}]"))


@pytest.mark.parametrize("name", ["a.csv.gz", "a.zip!rows.csv", "a.tar.gz!rows.csv"])
def test_utf_16_inside_an_archive(tmp_path, name):
    content = "text,label\nfilm \u010a,x\nb,y\n".encode("utf-16")
    path = tmp_path / name.partition("!")[0]
    if name.endswith("csv.gz"):
        path.write_bytes(gzip.compress(content))
    elif ".zip" in name:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("rows.csv", content)
    else:
        with tarfile.open(path, "w:gz") as archive:
            member = tarfile.TarInfo("rows.csv")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    for streaming in (False, True):
        settings = {"train": f"{tmp_path}/{name}", "encoding": "utf-16", "streaming": streaming, "labels": ["x", "y"]}
        texts = [row["text"] for row in load(**settings).splits["train"]]
        assert sorted(texts) == ["b", "film \u010a"]
