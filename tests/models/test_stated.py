"""What the files of a model say about the text that it writes."""

import json
from pathlib import Path

import pytest
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from luthier.models.stated import ENCODERS, cannot_write


def folder_of(place: Path, config: dict, tokenizer: dict | None) -> str:
    place.mkdir()
    (place / "config.json").write_text(json.dumps(config))
    if tokenizer is not None:
        (place / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return str(place)


LLAMA = {"model_type": "llama"}


@pytest.mark.parametrize(
    ("config", "tokenizer", "exchanges", "told"),
    [
        ({"model_type": "bert"}, {"chat_template": "x"}, False, "a bert model writes no text"),
        ({"model_type": "bert", "is_decoder": True}, {}, False, None),
        ({"model_type": "roberta"}, None, True, "a roberta model writes no text"),
        ({"model_type": "t5", "is_encoder_decoder": True}, {}, False, None),
        ({"model_type": "something-new"}, {}, False, None),
        (LLAMA, {}, False, None),
        (LLAMA, {}, True, "has no chat template"),
        (LLAMA, {"chat_template": None}, True, "has no chat template"),
        (LLAMA, {"chat_template": "{{ messages }}"}, True, None),
        (LLAMA, {"chat_template": [{"name": "default", "template": "x"}]}, True, None),
        (LLAMA, None, True, None),
    ],
)
def test_what_writes_no_text_or_has_no_template_is_told(tmp_path, config, tokenizer, exchanges, told):
    error = cannot_write(folder_of(tmp_path / "model", config, tokenizer), exchanges=exchanges)
    assert (error is None) is (told is None)
    if error is not None and told is not None:
        assert told in error.what
        assert "tuned to chat" in str(error.fix)


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json"])
def test_a_template_beside_the_tokenizer_counts(tmp_path, name):
    model = folder_of(tmp_path / "model", LLAMA, {})
    (tmp_path / "model" / name).write_text("x")
    assert cannot_write(model, exchanges=True) is None


@pytest.mark.parametrize("reference", ["org/name", "package:not_there", "./gone"])
def test_nothing_is_told_of_what_can_t_be_seen(tmp_path, monkeypatch, reference):
    monkeypatch.chdir(tmp_path)
    assert cannot_write(reference, exchanges=True) is None


def test_files_with_faults_tell_nothing(tmp_path):
    model = folder_of(tmp_path / "model", LLAMA, {})
    for content in ("[", "[1]", ""):
        (tmp_path / "model" / "config.json").write_text(content)
        assert cannot_write(model, exchanges=True) is None


def test_the_encoders_are_those_that_transformers_knows_without_a_decoder():
    masked = set(MODEL_FOR_MASKED_LM_MAPPING_NAMES) - set(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)
    assert masked >= ENCODERS
