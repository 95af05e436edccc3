"""One tokenizer, two encoders: equal on everything, in the ids that transformers expects."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from luthier.errors import ModelError
from luthier.models.native_encoder import MODEL_FILE, NativeEncoder
from luthier.vocabulary import load_encoder, merge_vocabularies
from luthier.vocabulary.settings import TrainerSettings
from luthier.vocabulary.tokenizer_files import fast_tokenizer, save_tokenizer
from luthier.vocabulary.unigram import NORMAL, parse_model, train_unigram
from tests.vocabulary.texts import TEXTS, fuzzed, lines_of


@pytest.mark.parametrize("normaliser", ["nmt_nfkc", "nfkc"])
def test_both_encoders_cut_alike(merged: bytes, normaliser: str):
    if normaliser == "nfkc":
        trainer = TrainerSettings(seed_pieces=50_000, character_coverage=0.98, normaliser="nfkc")
        merged = merge_vocabularies([train_unigram([(text, 3) for text in TEXTS], 600, trainer)]).content
    texts = fuzzed(3000)
    native, fast = NativeEncoder(merged), fast_tokenizer(merged)
    ours = native.encode(texts)
    theirs = [one.ids for one in fast.backend_tokenizer.encode_batch(texts, add_special_tokens=False)]
    differing = [text for text, a, b in zip(texts, ours, theirs, strict=True) if a != b]
    assert [ascii(text) for text in differing[:3]] == []
    assert any(3 in ids for ids in ours)
    assert len(native) == len(fast)


def test_on_composed_text_both_are_sentencepiece_on_the_text_as_it_is(merged: bytes):
    processor = sentencepiece.SentencePieceProcessor(model_proto=merged)
    plain = [text for text in fuzzed(500) if unicodedata.normalize("NFKC", text) == text and "▁" not in text]
    assert len(plain) > 50
    wanted = [[{0: 3, 1: 0, 2: 2}.get(i, i + 1) for i in ids] for ids in processor.encode(plain)]
    assert NativeEncoder(merged).encode(plain) == wanted


def stock(merged: bytes) -> Tokenizer:
    """The pipeline that transformers makes of such a model."""
    proto = parse_model(merged)
    made = Tokenizer(models.Unigram([(one.piece, one.score) for one in proto.pieces], unk_id=0))
    made.normalizer = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace("▁", prepend_scheme="always")]
    )
    return made


def test_where_the_stock_pipeline_differs(merged: bytes):
    """It takes letters with their marks as one, and composes them in short ones alone: decomposed kana come out
    otherwise, where SentencePiece composes them. Composed text is cut alike."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=merged)

    def differ(texts: list[str]) -> list[str]:
        cut = stock(merged).encode_batch(texts, add_special_tokens=False)
        return [t for t, a, b in zip(texts, processor.encode(texts), cut, strict=True) if a != b.ids]

    assert differ([text for text in TEXTS if unicodedata.normalize("NFC", text) == text]) == []
    decomposed = unicodedata.normalize("NFD", TEXTS[3])
    assert differ([decomposed]) == [decomposed]
    assert NativeEncoder(merged).encode([decomposed]) == NativeEncoder(merged).encode([TEXTS[3]])


def near_tie(step: float) -> tuple[list[int], list[int]]:
    """A word that can be cut in two ways, whose scores are equal in single precision and differ by 2e-6 in double."""
    model = train_unigram([("abcd", 3), ("ab cd", 2)], 40, TrainerSettings(seed_pieces=1000))
    proto = parse_model(model)
    scores = {"▁": -1.0, "▁a": -100.0, "bcd": -0.5, "▁ab": -100.25, "cd": -0.249998}
    scores |= dict.fromkeys("abcd", -200.0)
    del proto.pieces[3:]
    for piece, score in sorted(scores.items(), key=lambda one: -one[1]):
        rounded = round(score / step) * step if step else score
        proto.pieces.add(piece=piece, score=rounded, type=NORMAL)
    content = proto.SerializeToString()
    fast = fast_tokenizer(content)
    return NativeEncoder(content).encode(["abcd"])[0], fast("abcd", add_special_tokens=False)["input_ids"]


def test_without_rounded_scores_single_and_double_precision_may_part():
    exact, ours = near_tie(0.0), near_tie(2.0**-10)
    assert ours[0] == ours[1]
    assert exact[0] != exact[1]


def test_what_is_saved_loads_with_ids_and_special_tokens_in_place(tmp_path: Path, merged: bytes):
    count = save_tokenizer(tmp_path / "tokenizer", merged)
    loaded: Any = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert len(loaded) == count == len(load_encoder(tmp_path / "tokenizer"))
    assert loaded.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]) == [0, 1, 2, 3, count - 1]
    proto = parse_model((tmp_path / "tokenizer" / MODEL_FILE).read_bytes())
    assert loaded.convert_ids_to_tokens(range(4, count - 1)) == [one.piece for one in proto.pieces[3:]]
    assert loaded("tal <mask> dela").input_ids[0] == 0
    assert loaded.mask_token_id in loaded("tal <mask> dela").input_ids
    assert loaded("a", "b").input_ids.count(2) == 3
    assert loaded.decode(loaded(TEXTS[0]).input_ids, skip_special_tokens=True).replace("<unk>", "") != ""
    loaded.save_pretrained(tmp_path / "again")
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    texts = fuzzed(200)
    assert again(texts).input_ids == loaded(texts).input_ids
    with pytest.raises(ModelError, match=MODEL_FILE):
        load_encoder(tmp_path)


def test_bytes_stand_in_for_unknown_letters():
    trainer = TrainerSettings(seed_pieces=10_000, byte_fallback=True)
    content = merge_vocabularies([train_unigram([(line, 1) for line in lines_of("la", 200)], 400, trainer)]).content
    texts = ["tal ж ela", "😀", *lines_of("la", 20, 5)]
    fast = fast_tokenizer(content)
    assert NativeEncoder(content).encode(texts) == fast(texts, add_special_tokens=False)["input_ids"]
    assert fast.decode(fast("tal ж ela").input_ids, skip_special_tokens=True) == "tal ж ela"
