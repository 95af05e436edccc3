"""Sentence vectors kept on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from luthier.errors import WorkspaceError
from luthier.training.trunk.sentence_vectors import (
    SentenceVectors,
    compute_sentence_vectors,
    compute_word_vectors,
    read_word_vectors,
    with_sentence_vectors,
)
from tests.tuning.cases import VOCABULARY, base_model, batch_of
from tests.tuning.instance_prompt_models import encoder, pairs, tuned
from tests.tuning.test_instance_prompt_peft import with_prompt

LENGTHS = [(4, 2), (2, 6), (5, 5), (1, 1)]


def rows_of(batch: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
    return [
        {"input_ids": ids[mask.bool()].tolist(), "row": row}
        for row, (ids, mask) in enumerate(zip(batch["input_ids"], batch["attention_mask"], strict=True))
    ]


def count_passes(model: Any) -> list[int]:
    passes: list[int] = []
    model.base_model.prompt_layer.trunk.layers[0].register_forward_hook(lambda *_: passes.append(1))
    return passes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_vectors_are_those_of_the_pass_without_prompts(dtype: str, tmp_path: Path):
    model, batch = tuned(encoder()), pairs(LENGTHS)
    with model.disable_adapter(), torch.no_grad():
        wanted = model.get_base_model().roberta(**batch).last_hidden_state[:, 0]
    rows = datasets.Dataset.from_list(rows_of(batch))
    store = compute_sentence_vectors(model, rows, tmp_path, batch_size=3, dtype=dtype)
    assert (len(store), store.width) == (4, 16)
    tolerance = {"float32": 1e-5, "bfloat16": 2e-2}[dtype]
    torch.testing.assert_close(store.of_rows(list(rows)), wanted, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(
        store.of_tokens(batch["input_ids"], batch["attention_mask"]), wanted, rtol=tolerance, atol=tolerance
    )


def test_with_a_store_no_pass_is_computed_and_nothing_changes(tmp_path: Path):
    model, batch = tuned(encoder()), pairs(LENGTHS)
    wanted = model(**batch).logits
    store = compute_sentence_vectors(model, rows_of(batch), tmp_path)
    passes = count_passes(model)
    collate = with_sentence_vectors(lambda rows: {k: v[[r["row"] for r in rows]] for k, v in batch.items()}, store)
    rows = [rows_of(batch)[i] for i in (2, 0)]
    torch.testing.assert_close(model(**collate(rows)).logits, wanted[[2, 0]], rtol=1e-4, atol=1e-5)
    model.base_model.use_sentence_vectors(store)
    torch.testing.assert_close(model(**batch).logits, wanted, rtol=1e-4, atol=1e-5)
    assert len(passes) == 2
    unseen = pairs([(3, 3)])
    model(**unseen)
    assert len(passes) == 4
    model.base_model.use_sentence_vectors(None)
    model(**batch)
    assert len(passes) == 6


def test_a_store_is_used_again_until_weights_texts_or_settings_change(tmp_path: Path):
    model, rows = encoder(), rows_of(pairs(LENGTHS))
    done: list[int] = []

    def computed(changed: Any = model, texts: Any = rows, **options: Any) -> int:
        done.clear()
        compute_sentence_vectors(changed, texts, tmp_path, on_batch=done.append, **options)
        return len(done)

    assert computed() == 1
    assert computed() == 0
    assert computed(texts=rows[::-1] + rows) == 0
    assert computed(tuned(encoder())) == 0
    assert computed(texts=rows[:3]) == 1
    assert computed(pooling="mean") == 1
    assert computed(dtype="bfloat16") == 1
    with torch.no_grad():
        model.roberta.encoder.layer[0].output.dense.bias[0] += 1e-3
    assert computed() == 1


@pytest.mark.parametrize("name", ["about.json", "keys.npy", "vectors.npy"])
def test_a_damaged_store_is_made_again(name: str, tmp_path: Path):
    model, rows = encoder(), rows_of(pairs(LENGTHS))
    store = compute_sentence_vectors(model, rows, tmp_path)
    wanted = store.of_rows(rows)
    file = store.folder / name
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match="holds no sentence vectors"):
        SentenceVectors(store.folder)
    assert torch.equal(compute_sentence_vectors(model, rows, tmp_path).of_rows(rows), wanted)


def test_a_stopped_computation_leaves_nothing(tmp_path: Path):
    def stop(_done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute_sentence_vectors(encoder(), rows_of(pairs(LENGTHS)), tmp_path, on_batch=stop)
    assert not list(tmp_path.iterdir())


def test_dropout_is_off_while_vectors_are_computed(tmp_path: Path):
    model, rows = encoder(hidden_dropout_prob=0.5).train(), rows_of(pairs(LENGTHS))
    a, b = (compute_sentence_vectors(model, rows, tmp_path / name).of_rows(rows) for name in "ab")
    assert torch.equal(a, b)
    assert model.roberta.encoder.layer[0].training


def test_a_language_models_vectors_end_before_the_labels(tmp_path: Path):
    model, batch = with_prompt("decoder"), batch_of("decoder", [8, 6])
    labels = torch.where(torch.arange(8) < 4, -100, batch["input_ids"]) * batch["attention_mask"] - 100 * (
        1 - batch["attention_mask"]
    )
    rows = [
        {**row, "labels": one[mask.bool()].tolist()}
        for row, one, mask in zip(rows_of(batch), labels, batch["attention_mask"], strict=True)
    ]
    wanted = model(**batch, labels=labels).logits
    store = compute_sentence_vectors(model, rows, tmp_path)
    model.base_model.use_sentence_vectors(store)
    passes = count_passes(model)
    torch.testing.assert_close(model(**batch, labels=labels).logits, wanted, rtol=1e-4, atol=1e-5)
    assert len(passes) == 1
    context = {k: v[:1, :4] for k, v in batch.items()}
    assert store.of_tokens(context["input_ids"], context["attention_mask"]) is not None


def test_a_row_that_was_not_computed_is_named(tmp_path: Path):
    store = compute_sentence_vectors(encoder(), rows_of(pairs(LENGTHS)), tmp_path)
    with pytest.raises(KeyError, match="no sentence vector"):
        store.of_rows([{"input_ids": [5, 5, 5]}])


@pytest.mark.parametrize(
    ("rows", "options", "complaint"),
    [([], {}, "no rows"), ([{"input_ids": [4]}], {"dtype": "int8"}, "float32, bfloat16")],
)
def test_what_can_not_be_computed_is_refused(rows: Any, options: Any, complaint: str, tmp_path: Path):
    with pytest.raises(ValueError, match=complaint):
        compute_sentence_vectors(encoder(), rows, tmp_path, **options)


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="can't write here"):
        compute_sentence_vectors(encoder(), [{"input_ids": [4]}], tmp_path / "file")


class Words:
    """A tokenizer whose token is a word."""

    words = ("", "Good", "film,", "GOOD", "bad", "unknown")

    def decode(self, ids: Any, skip_special_tokens: bool) -> str:
        return " ".join(self.words[i] for i in ids)


def test_word_vectors_are_averaged_and_unknown_text_is_zero(tmp_path: Path):
    file = tmp_path / "vectors.txt"
    file.write_text("good 1 2 3\nfilm 3 2 1\nbad -1 -1 -1\nother 9 9 9\n")
    rows = [{"input_ids": [1, 2]}, {"input_ids": [3, 5, 4]}, {"input_ids": [5]}]
    store = compute_word_vectors(file, rows, Words(), tmp_path / "store")
    wanted = torch.tensor([[2.0, 2, 2], [0, 0.5, 1], [0, 0, 0]])
    torch.testing.assert_close(store.of_rows(rows), wanted)
    model = with_prompt("encoder", vector_source="given", vector_width=3, generator="dnn")
    model.base_model.use_sentence_vectors(store)
    ids = torch.tensor([[1, 2]])
    assert model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.shape == (1, 3)
    file.write_text("good 1 2 4\n")
    assert compute_word_vectors(file, rows, Words(), tmp_path / "store").folder != store.folder


@pytest.mark.parametrize(
    ("text", "complaint"), [("", "no word vectors"), ("a 1 2\nb 1\n", "line 2: 1 numbers"), ("a 1 x\n", "line 1")]
)
def test_a_word_file_of_another_form_is_refused(text: str, complaint: str, tmp_path: Path):
    (tmp_path / "words").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        read_word_vectors(tmp_path / "words", {"a"})


def test_static_vectors_are_the_mean_token_embedding():
    model, batch = with_prompt("encoder", vector_source="static"), batch_of("encoder", [5, 8])
    seen: list[torch.Tensor] = []
    generator = model.base_model.prompt_layer.instance_prompt_generators["default"]
    generator.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    model(**batch)
    table = base_model("encoder").get_input_embeddings().weight
    assert table.shape[0] == VOCABULARY
    torch.testing.assert_close(seen[0][0], table[batch["input_ids"][0, :5]].mean(0))


def test_vectors_are_read_from_disk_as_they_are_needed(tmp_path: Path):
    store = compute_sentence_vectors(encoder(), rows_of(pairs(LENGTHS)), tmp_path)
    assert isinstance(store._vectors, np.memmap)
