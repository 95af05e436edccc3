"""SentencePiece behind a tokenizer of transformers gives what tokenizer.json gives, whatever a call asks for."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoTokenizer, DataCollatorForLanguageModeling, PreTrainedTokenizerFast

from luthier.data.batches.encoded_cache import tokenizer_identity
from luthier.errors import ModelError
from luthier.language_modeling.preparing import tokenizer_digest
from luthier.models.loading import tokenizer_in
from luthier.models.native_encoder import MODEL_FILE, PIPELINE_FILE, NativeEncoder
from luthier.models.native_tokenizer import NativeTokenizer
from luthier.vocabulary import merge_vocabularies
from luthier.vocabulary.settings import TrainerSettings
from luthier.vocabulary.tokenizer_files import save_tokenizer
from luthier.vocabulary.unigram import NORMAL, parse_model, train_unigram
from tests.vocabulary.texts import TEXTS, fuzzed, lines_of

CALLS: list[dict[str, Any]] = [
    {},
    {"add_special_tokens": False},
    {"truncation": True, "max_length": 9},
    {"truncation": True, "max_length": 9, "padding": "max_length"},
    {"truncation": "only_first", "max_length": 8, "padding": True, "pad_to_multiple_of": 8},
    {"padding": True, "return_special_tokens_mask": True, "return_offsets_mapping": True},
    {"padding": True, "padding_side": "left", "return_token_type_ids": True},
    {"truncation": True, "max_length": 7, "stride": 2, "return_overflowing_tokens": True},
    {"truncation": True, "max_length": 2},
    {"return_length": True},
    {"return_attention_mask": False},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, merged: bytes) -> Path:
    place = tmp_path_factory.mktemp("native") / "tokenizer"
    save_tokenizer(place, merged)
    return place


@pytest.fixture
def both(folder: Path) -> tuple[Any, Any]:
    native, plain = tokenizer_in(folder), PreTrainedTokenizerFast.from_pretrained(folder)
    assert type(native) is NativeTokenizer
    assert type(plain) is PreTrainedTokenizerFast
    return native, plain


def told(batch: Any) -> dict[str, Any]:
    """All that a batch says, places and words of tokens included."""
    rows = range(len(batch["input_ids"]))
    encodings = [batch[row] for row in rows]
    names = ("ids", "tokens", "offsets", "word_ids", "sequence_ids", "type_ids", "special_tokens_mask")
    return {**batch.data, **{name: [getattr(one, name) for one in encodings] for name in names}}


@pytest.mark.parametrize("options", CALLS, ids=str)
def test_a_call_gives_what_tokenizer_json_gives(both: tuple[Any, Any], options: dict[str, Any]):
    native, plain = both
    texts = [*TEXTS, *fuzzed(60)[:-1], "tal <mask> dela<mask>", " <s>", "a </s> b", ""]
    assert told(native(texts, **options)) == told(plain(texts, **options))
    for side in ("left", "right"):
        native.truncation_side = plain.truncation_side = side
        assert native(texts, **options).data == plain(texts, **options).data


def test_ids_are_those_of_sentencepiece_in_long_texts_too(both: tuple[Any, Any], merged: bytes):
    from sentencepiece import SentencePieceProcessor

    bare = SentencePieceProcessor(model_proto=merged)
    texts = [*TEXTS, " ".join(TEXTS * 100)]
    ids = [[3 if number == 0 else number + 1 for number in row] for row in bare.encode(texts)]
    assert len(ids[-1]) > 5000
    assert both[0](texts, add_special_tokens=False)["input_ids"] == ids


def test_places_and_words_are_those_of_tokenizer_json(both: tuple[Any, Any]):
    native, plain = both
    texts = fuzzed(1000)
    assert told(native(texts)) == told(plain(texts))


def test_names_of_special_tokens_can_be_text(both: tuple[Any, Any]):
    native, plain = both
    texts = [text for text in [*TEXTS, *fuzzed(60)] if "<" not in text]
    assert told(native(texts, split_special_tokens=True)) == told(plain(texts, split_special_tokens=True))
    ids = native("tal <mask></s>", split_special_tokens=True, add_special_tokens=False).input_ids
    assert native.mask_token_id not in ids
    assert native.eos_token_id not in ids


def test_pairs_and_words_that_are_parted_already(both: tuple[Any, Any]):
    native, plain = both
    others = [*TEXTS[1:], TEXTS[0]]
    for options in ({}, {"truncation": True, "max_length": 12}, {"truncation": "only_second", "max_length": 60}):
        assert told(native(TEXTS, others, **options)) == told(plain(TEXTS, others, **options))
    words = [text.split() for text in TEXTS]
    given = {"is_split_into_words": True, "truncation": True, "max_length": 20}
    assert told(native(words, **given)) == told(plain(words, **given))


def test_one_text_and_tensors(both: tuple[Any, Any]):
    native, plain = both
    for text in ("", "tal <mask>", TEXTS[3]):
        assert native(text).data == plain(text).data
        assert native(text).word_ids() == plain(text).word_ids()
        assert native.tokenize(text) == plain.tokenize(text)
        assert native.encode(text) == plain.encode(text)
        ids = plain(text).input_ids
        assert native.decode(ids) == plain.decode(ids)
        assert native.decode(ids, skip_special_tokens=True) == plain.decode(ids, skip_special_tokens=True)
    ours, theirs = (one(TEXTS, padding=True, return_tensors="pt") for one in both)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert ours.is_fast
    assert native.batch_decode(ours["input_ids"]) == plain.batch_decode(theirs["input_ids"])


def test_ids_and_tokens(both: tuple[Any, Any]):
    native, plain = both
    assert len(native) == len(plain)
    assert native.vocab_size == plain.vocab_size
    assert native.get_vocab() == plain.get_vocab()
    everything = list(range(len(plain) + 2))
    assert native.convert_ids_to_tokens(everything) == plain.convert_ids_to_tokens(everything)
    names = [*plain.get_vocab(), "nonesuch", ""]
    assert native.convert_tokens_to_ids(names) == plain.convert_tokens_to_ids(names)
    assert native.special_tokens_map == plain.special_tokens_map
    assert native.num_special_tokens_to_add(pair=True) == plain.num_special_tokens_to_add(pair=True)


def test_added_tokens_are_found_saved_and_kept(both: tuple[Any, Any], tmp_path: Path):
    native, plain = both
    for one in both:
        one.add_tokens(["Menschen", AddedToken("▁word", normalized=False)])
        one.add_special_tokens({"extra_special_tokens": ["<lang:de>"]})
    texts = ["<lang:de> Alle Menschen sind", "Menschenrechte ▁word", *fuzzed(50)]
    assert told(native(texts)) == told(plain(texts))
    assert len(native) == len(plain)
    native.model_max_length = 77
    native.save_pretrained(tmp_path)
    for again in (tokenizer_in(tmp_path), PreTrainedTokenizerFast.from_pretrained(tmp_path)):
        assert again(texts).data == plain(texts).data
        assert again.model_max_length == 77
        assert again.convert_ids_to_tokens([len(again) - 1]) == ["<lang:de>"]


def test_it_goes_to_other_processes_and_is_copied(both: tuple[Any, Any]):
    native, plain = both
    native.add_tokens(["Menschen"])
    plain.add_tokens(["Menschen"])
    texts = fuzzed(50) + TEXTS
    for again in (pickle.loads(pickle.dumps(native)), copy.deepcopy(native)):
        assert told(again(texts)) == told(plain(texts))
    batch = pickle.loads(pickle.dumps(native(texts)))
    assert told(batch) == told(plain(texts))


def test_what_the_library_reads_off_a_tokenizer(both: tuple[Any, Any]):
    native, _ = both
    assert tokenizer_digest(native) == tokenizer_digest(tokenizer_in(Path(native.name_or_path)))
    assert tokenizer_identity(native) is not None
    before = tokenizer_identity(native), tokenizer_digest(native)
    native(TEXTS, truncation=True, max_length=8, padding=True, return_offsets_mapping=True)
    assert (tokenizer_identity(native), tokenizer_digest(native)) == before
    native.add_tokens(["Menschen"])
    assert tokenizer_digest(native) != before[1]
    assert native.backend_tokenizer.encode("Menschen <mask>").ids == native("Menschen <mask>").input_ids
    torch.manual_seed(0)
    masked = DataCollatorForLanguageModeling(native)([native(text) for text in TEXTS])
    assert bool((masked["input_ids"] == native.mask_token_id).any())


def test_bytes_stand_in_for_unknown_letters(tmp_path: Path):
    trainer = TrainerSettings(seed_pieces=10_000, byte_fallback=True)
    content = merge_vocabularies([train_unigram([(line, 1) for line in lines_of("la", 200)], 400, trainer)]).content
    save_tokenizer(tmp_path, content)
    native, plain = tokenizer_in(tmp_path), PreTrainedTokenizerFast.from_pretrained(tmp_path)
    texts = ["tal ж ela", "😀ж", "aжжb", *lines_of("la", 20, 5), *fuzzed(50)]
    assert told(native(texts)) == told(plain(texts))


def test_a_folder_without_luthier_loads_as_it_is(folder: Path):
    """What transformers does with the name of a class that it does not know."""
    config = (folder / "tokenizer_config.json").read_text(encoding="utf8")
    assert '"tokenizer_class": "NativeTokenizer"' in config
    assert type(AutoTokenizer.from_pretrained(folder)) is NativeTokenizer
    other = folder.with_name("other")
    other.mkdir()
    (other / "tokenizer_config.json").write_text(config.replace("NativeTokenizer", "Nonesuch"), encoding="utf8")
    (other / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    plain = AutoTokenizer.from_pretrained(other)
    assert type(plain) is not NativeTokenizer
    assert plain(TEXTS).input_ids == tokenizer_in(folder)(TEXTS).input_ids


def test_what_is_no_model_is_refused(tmp_path: Path, folder: Path, merged: bytes):
    with pytest.raises(ModelError, match="read by SentencePiece"):
        NativeEncoder(merged[:2000])
    proto = parse_model(merged)
    proto.pieces.add(piece="▁a▁b", score=-3.0, type=NORMAL)
    with pytest.raises(ModelError, match="blank inside"):
        save_tokenizer(tmp_path / "blank", proto.SerializeToString())
    proto.pieces[1].piece = "<start>"
    with pytest.raises(ModelError, match="does not start with"):
        NativeEncoder(proto.SerializeToString())
    for name in (MODEL_FILE, PIPELINE_FILE):
        broken = tmp_path / name.replace(".", "_")
        save_tokenizer(broken, merged)
        (broken / name).write_text("{", encoding="utf8")
        with pytest.raises(ModelError, match=name):
            tokenizer_in(broken)
