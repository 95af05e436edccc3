"""Parts of documents, and the form in which a model asks and answers."""

from __future__ import annotations

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from luthier.context.instruction import wording
from luthier.context.instruction.documents import LongDocument, chunks_of, long_documents
from luthier.context.instruction.settings import DocumentSettings
from tests.context.instruction.conftest import text, tokenizer

LONG = LongDocument("a", text(500, 0))


def cut(document: LongDocument = LONG, **more):
    options = {"tokens": 40, "room": 400, "count": 4, "short_share": 0.5, "seed": 0, **more}
    return chunks_of(document, tokenizer(), **options)


def test_parts_are_of_the_document_and_end_behind_sentences():
    found = cut(count=100)
    assert [(one.start, one.end) for one in found] == sorted((one.start, one.end) for one in found)
    assert all(one.text == LONG.text[one.start : one.end] and len(one.text.split()) <= 40 for one in found)
    assert all(one.text.endswith(".") for one in found)
    joined = " ".join(one.text for one in found)
    assert joined.split() == LONG.text[: found[-1].end].split()  # nothing twice or left out
    assert 395 <= len(LONG.text[: found[-1].end].split()) <= 400


def test_no_word_is_lost_where_tokens_begin_with_the_blank_before_them():
    """As those of GPT-2 and of SentencePiece do."""
    inner = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    blanks = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    found = chunks_of(LONG, blanks, tokens=40, room=400, count=100, short_share=0.5, seed=0)
    assert [one.text.strip() for one in found] == [one.text for one in cut(count=100)]


def test_sentences_of_other_scripts_have_ends():
    text = "今天天气很好。我们去河边走走。" * 9
    inner = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    letters = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    found = chunks_of(LongDocument("c", text), letters, tokens=40, room=120, count=9, short_share=0.5, seed=0)
    assert len(found) == 4
    assert all(one.text.endswith("。") for one in found[:3])


def test_no_part_ends_inside_a_number():
    inner = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|\W"), "isolated")
    words = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    text = "It is so, they say. Pi is 3.14 or so"
    found = chunks_of(LongDocument("c", text), words, tokens=18, room=23, count=9, short_share=0.5, seed=0)
    assert [one.text for one in found] == ["It is so, they say.", " Pi is 3.14 or so"]


def test_draws_depend_on_document_and_seed_alone():
    assert cut() == cut()
    assert [one.id for one in cut()] != [one.id for one in cut(seed=1)]
    assert {one.kind for one in cut(count=100)} == {"normal", "short"}
    assert {one.kind for one in cut(count=100, short_share=1.0)} == {"short"}


def test_a_text_without_sentences_is_cut_all_the_same():
    found = cut(LongDocument("b", "w1 " * 100), count=100, room=90)
    assert [len(one.text.split()) for one in found] == [40, 40, 10]


def test_documents_are_joined_counted_and_held_out_by_their_text(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"text number {n}\n" for n in range(40)))
    read = list(long_documents(DocumentSettings(train=[str(tmp_path / "a.txt")], join=4, most=8, held_out=0.5)))
    assert len(read) == 8
    assert read[1].text == "text number 4\ntext number 5\ntext number 6\ntext number 7"
    assert 0 < sum(one.held_out for one in read) < 8
    none = DocumentSettings(train=[str(tmp_path / "a.txt")], held_out=0)
    assert not any(one.held_out for one in long_documents(none))


def test_a_document_that_is_there_twice_counts_once(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\none\n")
    (tmp_path / "b.txt").write_text("two\nthree\n")
    settings = DocumentSettings(train=[str(tmp_path / "a.txt")], validation=[str(tmp_path / "b.txt")])
    found = [(one.text, one.held_out) for one in long_documents(settings)]
    assert found == [("one", False), ("two", False), ("three", True)]


@pytest.mark.parametrize(
    ("written", "pair"),
    [
        ("<question>Who?</question>\n<answer>Anna</answer>", ("Who?", "Anna")),
        ("Sure! <QUESTION> Who\nis it? </QUESTION><ANSWER>Anna</ANSWER> and so on", ("Who is it?", "Anna")),
        ("<question>Who?</answer>\n<answer>Anna\n\nText: more", ("Who?", "Anna")),
        ("<question>Who?</question>\n<answer>Anna", None),
        ("<question>Who?</question>", None),
        ("<question> </question><answer>Anna</answer>", None),
        ("<question>Who?</question><answer>\n</answer>", None),
        ("", None),
    ],
)
def test_pairs_are_read_by_their_tags(written, pair):
    assert wording.pair_in(written) == pair


def test_what_a_model_was_shown_is_no_pair_of_its_own():
    shown = wording._SHOWN[0][1]
    assert wording.pair_in(f"<question>{shown}</question><answer>no money</answer>") is None


@pytest.mark.parametrize(
    ("written", "verdict"),
    [
        ("Yes.", "yes"),
        (" **no**, since", "no"),
        ("Nobody knows", "unclear"),
        ("It is right", "unclear"),
        ("", "unclear"),
    ],
)
def test_verdicts(written, verdict):
    assert wording.verdict_in(written) == verdict
