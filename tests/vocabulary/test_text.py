"""S1: sources by language, cleaning, sampling, bounds."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from pathlib import Path

import pyarrow
import pytest

from luthier.errors import DataError, WorkspaceError
from luthier.storage.one_version import one_version
from luthier.vocabulary.checking import check_text
from luthier.vocabulary.folders import folder_sources, not_read
from luthier.vocabulary.settings import LanguageText
from luthier.vocabulary.steps import weighted_units
from luthier.vocabulary.text import (
    Sampled,
    check_text_unchanged,
    clean,
    clean_lines,
    corpus_of,
    count_lines,
    language_sources,
    plain_lines,
    read_examples,
    read_units,
    sample_language,
    sampling_targets,
    write_sample,
)
from tests.vocabulary.texts import lines_of

BOUNDS = {"most_words": 10_000, "most_sentences": 10_000, "seed": "1"}


def test_files_and_folders_are_languages_and_packed_ones_are_the_same_text(tmp_path: Path):
    content = "".join(f"{line}\n" for line in lines_of("la", 40)).encode()
    (tmp_path / "de.txt").write_bytes(content)
    (tmp_path / "sw.txt.gz").write_bytes(gzip.compress(content))
    with pyarrow.CompressedOutputStream(str(tmp_path / "hi.txt.zst"), "zstd") as file:
        file.write(content)
    (tmp_path / "zh").mkdir()
    for number in range(2):
        (tmp_path / "zh" / f"part-{number}.txt").write_bytes(content)
    (tmp_path / "notes.md").write_text("not text of a language")
    text = LanguageText(folder=str(tmp_path), languages={"de": str(tmp_path / "sw.txt.gz")})
    sources = language_sources(text)
    assert list(sources) == ["de", "hi", "sw", "zh"]
    lines = {name: list(clean_lines(corpus_of(text, found))) for name, found in sources.items()}
    assert lines["hi"] == lines["sw"] == lines_of("la", 40)
    assert len(lines["de"]) == len(lines["zh"]) == 80


def test_linked_folders_are_read_and_an_empty_one_is_told(tmp_path: Path):
    data, folder = tmp_path / "data", tmp_path / "text"
    for place in (data / "deep", folder / "zh", folder / "de", folder / "fr"):
        place.mkdir(parents=True)
    for path in (data / "deep" / "b.txt", folder / "de" / "a.txt"):
        path.write_text("some text\n")
    (folder / "zh" / "parts").symlink_to(data)
    (folder / "de" / "parts").symlink_to(data)
    (data / "deep" / "up").symlink_to(data)
    found = folder_sources(folder)
    assert found["de"] == [str(folder / "de" / "a.txt"), str(folder / "de" / "parts" / "deep" / "b.txt")]
    assert found["zh"] == [str(folder / "zh" / "parts" / "deep" / "b.txt")]
    assert not_read(folder) == ["fr"]


def test_long_lines_may_be_believed(tmp_path: Path):
    (tmp_path / "de.txt").write_text("x" * 9_000_000 + "\n")
    with pytest.raises(DataError, match="raise `max_line_megabytes`"):
        list(corpus_of(LanguageText(folder=str(tmp_path)), [str(tmp_path / "de.txt")]).documents())
    text = LanguageText(folder=str(tmp_path), max_line_megabytes=10)
    assert len(list(corpus_of(text, [str(tmp_path / "de.txt")]).documents())) == 1


def test_text_that_changes_while_it_is_read_is_told(tmp_path: Path):
    (tmp_path / "de.txt").write_text("some text\n")
    text = LanguageText(folder=str(tmp_path))
    with one_version():
        check_text_unchanged(text)
        (tmp_path / "de.txt").write_text("another text\n")
        with pytest.raises(WorkspaceError, match="changed while it was in use"):
            check_text_unchanged(text)


def test_a_missing_or_empty_folder_is_told(tmp_path: Path):
    with pytest.raises(DataError, match="no such folder"):
        language_sources(LanguageText(folder=str(tmp_path / "none")))
    with pytest.raises(DataError, match="holds no text"):
        language_sources(LanguageText(folder=str(tmp_path)))


def test_a_language_is_named_like_its_file_without_the_endings(tmp_path: Path):
    for name in ("wiki.de.txt", "wiki.fr.TXT.gz", "pt-BR.jsonl", "C.R.tsv.zst"):
        (tmp_path / name).write_bytes(b"")
    for part in ("part-1.txt", ".git/x.txt"):
        place = tmp_path / "zh.Hans" / part
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("x")
    assert list(folder_sources(tmp_path)) == ["C.R", "pt-BR", "wiki.de", "wiki.fr", "zh.Hans"]
    assert folder_sources(tmp_path)["zh.Hans"] == [str(tmp_path / "zh.Hans" / "part-1.txt")]


def test_two_entries_of_one_language_and_odd_names_are_refused(tmp_path: Path):
    (tmp_path / "de.txt").write_text("x")
    (tmp_path / "de.txt.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(DataError, match=r"de\.txt and de\.txt\.gz are both de"):
        folder_sources(tmp_path)
    (tmp_path / "de.txt.gz").unlink()
    (tmp_path / os.fsdecode(b"\xff.txt")).write_text("x")
    with pytest.raises(DataError, match="odd characters") as told:
        folder_sources(tmp_path)
    assert str(told.value).encode("utf8")


def test_an_empty_file_is_found_before_anything_runs_and_what_is_not_read_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "de.txt").write_text("x")
    (tmp_path / "fr.txt.xz").write_text("x")
    (tmp_path / "empty.txt").write_text("")
    text = LanguageText(folder=str(tmp_path))
    assert ["empty.txt: the file is empty" in str(error) for _, error in text.missing()] == [True]
    (tmp_path / "empty.txt").unlink()
    assert check_text(text) == ["de"]
    assert "fr.txt.xz" in caplog.text


def test_lines_are_cleaned():
    assert clean(" e\u0301\tﬁn\0e ▁x \u3000") == "é fin e x"


def test_plain_lines_are_the_same_lines_as_they_stand_there(tmp_path: Path):
    (tmp_path / "xx.txt").write_text("  你好，世界！ \n▁ \n½ cup…\n", encoding="utf8")
    corpus = corpus_of(LanguageText(folder=str(tmp_path)), [str(tmp_path / "xx.txt")])
    assert list(plain_lines(corpus)) == ["你好，世界！", "½ cup…"]
    assert list(clean_lines(corpus)) == ["你好,世界!", "1⁄2 cup..."]


def test_targets_are_powers_of_the_lines():
    lines = {"a": 10_000, "b": 100}
    assert sampling_targets(lines, 1100, 0.5) == {"a": 1000, "b": 100}
    assert sampling_targets(lines, None, 1.0) == lines
    assert sampling_targets(lines, 200, 0.0) == {"a": 100, "b": 100}


def test_a_sample_counts_exactly_its_target_and_draws_evenly():
    lines = [f"w{number}" for number in range(200)]
    seen: Counter[str] = Counter()
    for seed in range(300):
        found = sample_language(lines, 200, 50, spaced=True, **{**BOUNDS, "seed": f"{seed}"})
        assert (found.taken, found.weight, found.units.total()) == (50, 1.0, 50)
        seen.update(found.units)
    assert min(seen.values()) > 40
    assert max(seen.values()) < 115
    repeated = sample_language(lines, 200, 500, spaced=True, **BOUNDS)
    assert (repeated.taken, repeated.weight) == (200, 2.5)


def test_bounds_of_words_and_sentences_hold_and_are_told():
    lines = [f"often w{number}" for number in range(1000)]
    found = sample_language(lines, 1000, 1000, spaced=True, **{**BOUNDS, "most_words": 100})
    assert len(found.units) <= 101
    assert found.units["often"] == 1000
    assert found.pruned + found.units.total() == 2000
    kept = sample_language(lines, 1000, 1000, spaced=False, **{**BOUNDS, "most_sentences": 100})
    assert (len(kept.units), kept.weight, kept.taken) == (100, 10.0, 1000)
    long = sample_language(["字" * 5000], 1, 1, spaced=False, **BOUNDS)
    assert "".join(long.units) == "字" * len("".join(long.units))
    assert all(len(unit.encode()) <= 4096 for unit in long.units)


@pytest.mark.parametrize(
    ("line", "unspaced"), [("これは日本語です", True), ("นี่คือภาษาไทย", True), ("한국어 문장", False), ("plain", False)]
)
def test_scripts_without_blanks_are_told_by_their_letters(tmp_path: Path, line: str, unspaced: bool):
    (tmp_path / "xx.txt").write_text(f"{line}\n" * 3, encoding="utf8")
    text = LanguageText(folder=str(tmp_path))
    told = count_lines(corpus_of(text, language_sources(text)["xx"]))
    assert (told["lines"], told["unspaced"]) == (3, unspaced)


def test_a_kept_sample_is_read_as_it_was_written(tmp_path: Path):
    found = sample_language(["b a b", "c"], 2, 2, spaced=True, **BOUNDS)
    write_sample(found, tmp_path)
    assert list(read_units(tmp_path)) == [("b", 2), ("a", 1), ("c", 1)]
    assert read_examples(tmp_path) == ["b a b", "c"]


@pytest.mark.parametrize("weight", [1.0, 1.49, 1.51, 2.4])
def test_units_count_for_as_much_as_their_language_does(tmp_path: Path, weight: float):
    write_sample(Sampled(Counter({"the": 40, **{f"w{n}": 1 for n in range(500)}}), 1, 1, weight, True, 0, []), tmp_path)
    found = dict(weighted_units([(tmp_path, weight)]))
    assert sum(found.values()) == pytest.approx(540 * weight, abs=1)
    assert found["the"] == round(40 * weight)
    assert set(found.values()) <= {found["the"], int(weight), int(weight) + 1}
