"""Rows are encoded a part at a time, and kept; both change nothing of what they are or of what is said about them."""

import json
import logging
import subprocess
import sys

import pytest

from luthier.data.batches import encoding
from luthier.data.batches.encoded_cache import EncodedCache, tokenizer_identity
from luthier.data.batches.encoders import Encoder
from luthier.data.batches.encoding import encode, encode_rows
from luthier.data.loading import load_data
from luthier.data.settings import DataSettings
from luthier.errors import DataError
from tests.data.tokenizers import decoder_tokenizer, word_tokenizer

CASES = {
    "single_sentence": [{"text": "a " * (n % 5 + 1), "label": n % 2} for n in range(11)],
    "pair": [{"text": "a " * (n % 5 + 1), "text_pair": "b " * (n % 3 + 1), "label": n % 2} for n in range(11)],
    "regression": [{"text": "a " * (n % 5 + 1), "label": n / 4} for n in range(11)],
    "token_labels": [{"tokens": ["ab"] * (n % 4 + 1), "tags": [1] * (n % 4 + 1)} for n in range(11)],
    "multiple_choice": [
        {"context": "a " * (n % 5 + 1), "choices": ["b", "c " * (n % 3 + 1)], "label": n % 2} for n in range(11)
    ],
    "extractive_qa": [
        {"question": "q", "context": "a b c d e " * (n % 3 + 1), "answers": {"text": ["b"], "answer_start": [2]}}
        for n in range(11)
    ],
    "plain_text": [{"text": "a b c " * (n % 4 + 1)} for n in range(11)],
    "prompt_response": [{"prompt": "a " * (n % 5 + 1), "response": "b " * (n % 3 + 1)} for n in range(11)],
}


def outcome(rows, schema, **options):
    try:
        found = encode_rows(rows, schema, word_tokenizer(), **({"max_length": 14} | options))
    except DataError as error:
        return str(error)
    return found.to_dict()


@pytest.mark.parametrize("too_long", ["error", "truncate"])
@pytest.mark.parametrize("longest", [6, 10, 64])
@pytest.mark.parametrize("schema", sorted(CASES))
def test_parts_make_no_difference(schema, longest, too_long, monkeypatch, caplog):
    found = []
    for size in (1000, 3):
        caplog.clear()
        monkeypatch.setattr(encoding, "CHUNK", size)
        with caplog.at_level(logging.WARNING):
            found.append((outcome(CASES[schema], schema, max_length=longest, too_long=too_long), caplog.messages[:]))
    assert found[0] == found[1]


def test_conversations_are_written_alike_in_every_part(monkeypatch):
    template = "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}"
    tokenizer = decoder_tokenizer(eos_token="<eos>", pad_token="[PAD]")
    tokenizer.chat_template = template
    rows = [{"prompt": "a", "response": "b", "history": []} for _ in range(6)]
    rows[4]["history"] = [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]
    found = []
    for size in (1000, 2):
        monkeypatch.setattr(encoding, "CHUNK", size)
        found.append(encode_rows(rows, "prompt_response", tokenizer, max_length=64).to_dict())
    assert found[0] == found[1]
    tokenizer.chat_template = None
    said = []
    for size in (1000, 2):
        monkeypatch.setattr(encoding, "CHUNK", size)
        with pytest.raises(DataError, match="no chat template") as caught:
            encode_rows(rows, "prompt_response", tokenizer, max_length=64)
        said.append(str(caught.value))
    assert said[0] == said[1]


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """Every split is worth keeping, in a cache of the test's own."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(encoding, "WORTH_KEEPING", 0)
    return tmp_path / "cache" / "encoded"


@pytest.fixture
def data(write):
    rows = "".join(f"{'a b c ' * (n % 6 + 1)},{'xy'[n % 2]}\n" for n in range(50))
    return load_data(DataSettings(train=write("t.csv", f"text,label\n{rows}")))


def entries(cache):
    return [path for path in cache.iterdir() if path.is_dir()]


def test_a_second_run_encodes_nothing_and_says_the_same(data, kept, monkeypatch, caplog):
    options = {"max_length": 10, "too_long": "truncate"}
    with caplog.at_level(logging.WARNING):
        first = encode(data, word_tokenizer(), **options)["train"]
    said, caplog.records[:] = caplog.messages[:], []
    monkeypatch.setattr(Encoder, "tokenize", lambda *_, **__: pytest.fail("encoded again"))
    with caplog.at_level(logging.WARNING):
        second = encode(data, word_tokenizer(), **options)["train"]
    assert second.to_dict() == first.to_dict()
    assert second._fingerprint == first._fingerprint
    assert said
    assert caplog.messages[-len(said) :] == said
    assert len(entries(kept)) == 1


@pytest.mark.parametrize("change", ["max_length", "reserved", "too_long", "vocabulary", "row", "label"])
def test_what_decides_on_the_ids_decides_on_the_entry(data, kept, change, write):
    options, tokenizer = {"max_length": 30, "too_long": "truncate"}, word_tokenizer()
    encode(data, tokenizer, **options)
    if change == "vocabulary":
        tokenizer.add_tokens(["xyzzy"])
    elif change in ("row", "label"):
        rows = "".join(f"{'a b c ' * (n % 6 + 1)},{'xy'[n % 2]}\n" for n in range(49))
        last = "a b,y" if change == "row" else "a b c a b c,x"
        data = load_data(DataSettings(train=write("other.csv", f"text,label\n{rows}{last}\n")))
    else:
        options[change] = {"max_length": 29, "reserved": 1, "too_long": "error"}[change]
    encode(data, tokenizer, **options)
    assert len(entries(kept)) == 2


def test_a_tokenizer_is_the_same_before_and_after_it_cut_something():
    tokenizer = word_tokenizer()
    before = tokenizer_identity(tokenizer)
    tokenizer(["a b c d"], truncation=True, max_length=3, padding="max_length")
    assert tokenizer_identity(tokenizer) == before
    tokenizer.truncation_side = "left"
    assert tokenizer_identity(tokenizer) != before


def test_damaged_entries_are_found_and_made_again(data, kept, caplog):
    first = encode(data, word_tokenizer(), max_length=30)["train"].to_dict()
    (entry,) = entries(kept)
    content = bytearray((entry / "rows.arrow").read_bytes())
    content[len(content) // 2] ^= 1
    (entry / "rows.arrow").write_bytes(bytes(content))
    with caplog.at_level(logging.WARNING):
        again = encode(data, word_tokenizer(), max_length=30)["train"]
    assert "is damaged" in caplog.text
    assert again.to_dict() == first
    assert EncodedCache().size() > 0


def test_a_cache_that_cannot_be_written_costs_time_alone(data, kept, caplog):
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text("no folder")
    with caplog.at_level(logging.WARNING):
        found = encode(data, word_tokenizer(), max_length=30)["train"]
    assert len(found) == 50
    assert "encoded again in the next run" in caplog.text


def test_a_row_that_is_refused_leaves_no_entry(data, kept):
    with pytest.raises(DataError, match=r"of 50 rows are longer than 8 tokens"):
        encode(data, word_tokenizer(), max_length=8)
    assert not entries(kept)


PEAK = r"""
import json, re, sys
from luthier.data.batches import encoding
from luthier.data.batches.encoding import encode
from luthier.data.loading import load_data
from luthier.data.settings import DataSettings
from tests.data.tokenizers import word_tokenizer
encoding.CHUNK = int(sys.argv[2])
# The kernel's own count: that of `getrusage` starts at what the process that started this one has.
peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) / 1024
data = load_data(DataSettings(train=sys.argv[1]), splits=("train",))
loaded = peak()
rows = encode(data, word_tokenizer(), max_length=64)["train"]
print(json.dumps({"loaded": loaded, "grown": peak() - loaded, "rows": len(rows)}))
"""


def test_encoding_takes_little_memory(write, tmp_path, monkeypatch):
    """60,000 short rows; encoded all at once they take some 200 MB more than loaded, in parts some 10 MB."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    place = write("t.csv", "text,label\n" + "".join(f"a b c d e f g h {n},{n % 2}\n" for n in range(60_000)))
    command = [sys.executable, "-c", PEAK, place, "1000"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["rows"] == 60_000
    assert found["grown"] < 100
    assert found["loaded"] < 700
