"""Tokenizers with fewer and with more pieces: what has to stay as it was, whatever the tokenizer does to text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, normalizers
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from luthier.stages.base import StageInputs
from luthier.vocabulary import extend_tokenizer, merge_vocabularies, prune_tokenizer, transplant_embeddings
from luthier.vocabulary.piece_views import ROLES
from luthier.vocabulary.settings import TrainerSettings
from luthier.vocabulary.stage import Transplant
from luthier.vocabulary.tokenizer_files import fast_tokenizer
from luthier.vocabulary.transplant_run import new_tokenizer
from luthier.vocabulary.unigram import train_unigram
from tests.vocabulary.test_transplanting import TRAINER, bert, rows, unigram, word_pieces
from tests.vocabulary.texts import lines_of

LINES = lines_of("la", 60)
NEW = [(word, 2) for line in lines_of("ka", 150) for word in line.split()]


def changed(kind: str, tokenizer: Any) -> Any:
    if kind == "pruned":
        return prune_tokenizer(tokenizer, LINES)
    return extend_tokenizer(tokenizer, NEW, pieces=120, trainer=TRAINER)


@pytest.mark.parametrize("kind", ["pruned", "extended", "the same"])
def test_added_tokens_keep_their_rows_and_stay_what_they_are(kind: str):
    old = unigram("la")
    old.add_special_tokens({"additional_special_tokens": ["<first>", "<second>"]})
    old.add_tokens(["covid-19"])
    model = bert(old)
    before, bias = rows(model).clone(), model.get_output_embeddings().bias.detach().clone()
    new = old if kind == "the same" else changed(kind, old)
    done = transplant_embeddings(model, old, new)
    for name in ("<first>", "<second>", "covid-19"):
        number, was = new.convert_tokens_to_ids(name), old.convert_tokens_to_ids(name)
        assert done.copied[number] == was
        assert torch.equal(rows(model)[number], before[was])
        assert model.get_output_embeddings().bias[number] == bias[was]
        assert (number in new.all_special_ids) == (was in old.all_special_ids)
    assert new.tokenize("la<second>covid-19") == old.tokenize("la<second>covid-19")


@pytest.mark.parametrize("kind", ["pruned", "extended"])
def test_sides_template_and_decoding_are_those_of_the_old_tokenizer(kind: str):
    old = unigram("la")
    old.padding_side, old.truncation_side, old.chat_template = "left", "left", "{{ messages }}"
    old.clean_up_tokenization_spaces = True
    new = changed(kind, old)
    assert (new.padding_side, new.truncation_side, new.chat_template) == ("left", "left", "{{ messages }}")
    assert new.clean_up_tokenization_spaces


def test_bytes_stay_so_that_letters_that_the_text_lacks_are_not_unknown():
    units = [(word, 1) for line in LINES for word in line.split()]
    bytewise = TrainerSettings(seed_pieces=10_000, byte_fallback=True)
    old = fast_tokenizer(merge_vocabularies([train_unigram(units, 380, bytewise)]).content)
    new = prune_tokenizer(old, LINES[:5])
    assert len(new) < len(old)
    assert new.tokenize("la ж") == old.tokenize("la ж")
    assert new.unk_token_id not in new("la ж").input_ids


def test_new_pieces_are_those_that_the_tokenizer_s_own_normaliser_leaves():
    state = json.loads(unigram("la").backend_tokenizer.to_str())
    inner = Tokenizer.from_str(json.dumps(state))
    steps = [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), inner.normalizer]
    inner.normalizer = normalizers.Sequence(steps)
    names = {f"{role}_token": getattr(unigram("la"), f"{role}_token") for role in ROLES}
    old = PreTrainedTokenizerFast(tokenizer_object=inner, **names)
    text = [line.upper().replace("А", "Ä") for line in lines_of("ka", 150)]
    units = [(word, 2) for line in text for word in line.split()]
    new = extend_tokenizer(old, units, pieces=120, trainer=TRAINER)
    added = [new.convert_ids_to_tokens(number) for number in range(len(old), len(new))]
    assert all(piece == piece.lower() for piece in added)
    used = {token for line in text for token in new.tokenize(line)}
    assert len(used & set(added)) > 0.8 * len(added)
    assert new.unk_token not in used


def test_a_text_that_gives_fewer_pieces_than_asked_for_is_told(caplog: pytest.LogCaptureFixture):
    extend_tokenizer(unigram("la"), NEW, pieces=60, trainer=TRAINER)
    assert not caplog.text
    extend_tokenizer(unigram("la"), NEW, pieces=5000, trainer=TRAINER)
    assert "pieces of 5,000" in caplog.text


def test_a_stage_prunes_by_the_text_as_it_is_used(tmp_path: Path):
    names = [*sorted(word_pieces().get_vocab(), key=word_pieces().get_vocab().get), "…", "½"]
    old = BertTokenizerFast(vocab={name: number for number, name in enumerate(names)})
    (tmp_path / "en.txt").write_text("the film … ½\n", encoding="utf8")
    stage = Transplant.model_validate({"prune": {"text": str(tmp_path)}, "init": "copy"})
    new = new_tokenizer(stage, StageInputs({}, 0), old)
    assert new.tokenize("the film … ½") == ["the", "film", "…", "½"]
    assert len(new) < len(old)
