import random

import pytest

from luthier.data.batches import samples
from luthier.data.batches.encoding import encode
from luthier.data.batches.samples import SampleEncoding, longest_texts
from luthier.data.loading import load_data
from luthier.data.settings import DataSettings
from luthier.errors import DataError
from tests.data.tokenizers import word_tokenizer


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(samples, "DRAWN", 100)
    monkeypatch.setattr(samples, "LONGEST", 5)


def rows_of(write, count, **options):
    draw = random.Random(1)
    lines = "".join(f"{'a ' * draw.randint(1, 30)},{'xy'[n % 2]}\n" for n in range(count))
    return load_data(DataSettings(train=write("t.csv", f"text,label\n{lines}"), **options))


def test_few_rows_are_all_looked_at(write):
    data, encoding = rows_of(write, 105), SampleEncoding()
    rows = encoding(data, word_tokenizer(), max_length=64)["train"]
    whole = encode(data, word_tokenizer(), max_length=64)["train"]
    sample = encoding.samples["train"]
    assert rows.to_dict() == whole.to_dict()
    assert (sample.total, sample.exact, sample.longest, sample.about) == (105, True, max(whole["length"]), "")


def test_of_many_rows_the_longest_is_found_and_the_count_is_exact(write):
    data, encoding = rows_of(write, 3000), SampleEncoding()
    rows = encoding(data, word_tokenizer(), max_length=64)["train"]
    whole = encode(data, word_tokenizer(), max_length=64)["train"]["length"][:]
    sample = encoding.samples["train"]
    assert (len(rows), sample.total, sample.exact, sample.longest) == (100, 3000, True, max(whole))
    mean = sum(rows["length"]) / 100
    assert abs(mean - sum(whole) / 3000) < 3


def test_a_row_that_is_too_long_is_found_among_many(write):
    data = rows_of(write, 3000)
    with pytest.raises(
        DataError, match=r"split 'train', of whose 3,000 rows a sample was looked at: .* than 31 tokens"
    ):
        SampleEncoding()(data, word_tokenizer(), max_length=31)


def test_blocks_and_windows_are_estimated(write):
    draw = random.Random(1)
    texts = "".join("a b c " * draw.randint(1, 30) + "\n" for _ in range(3000))
    data, encoding = load_data(DataSettings(train=write("t.txt", texts))), SampleEncoding()
    encoding(data, word_tokenizer(), max_length=64)
    sample = encoding.samples["train"]
    assert not sample.exact
    assert sample.total == pytest.approx(len(encode(data, word_tokenizer(), max_length=64)["train"]), rel=0.2)


def test_of_a_stream_some_rows_are_read(write, monkeypatch):
    monkeypatch.setattr(samples, "STREAMED", 50)
    data, encoding = rows_of(write, 3000, streaming=True, labels=["x", "y"]), SampleEncoding()
    rows = encoding(data, word_tokenizer(), max_length=64)["train"]
    sample = encoding.samples["train"]
    assert (len(rows), sample.total, sample.longest) == (50, None, max(rows["length"]))
    assert sample.longest < 64
    assert sample.about == "the first 50"


def test_the_longest_texts_are_told_by_their_bytes(write):
    rows = [(["aa", "b"], ["ccc", "d"]), (["a"], ["d", "e"]), (["é" * 9], ["x", "y", "z" * 3]), (["", "b"], ["q", "r"])]
    import datasets

    table = datasets.Dataset.from_dict(
        {"tokens": [tokens for tokens, _ in rows], "choices": [choices for _, choices in rows], "row": [1, 2, 3, 4]}
    )
    assert longest_texts(table, 2) == [0, 2]
    assert longest_texts(table.select([3, 2, 1]), 1) == [1]
