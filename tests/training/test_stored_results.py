"""What is stored for later runs is used only as it was written, and for nothing but what it was made of."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from luthier.errors import DataError, WorkspaceError
from luthier.representing.shared_encoder import SharedEncoder
from luthier.representing.store import RepresentationStore
from luthier.storage import hashing
from luthier.storage.sealed_folder import check_seal, is_whole, whole_folder
from luthier.training.trunk.cache import TrunkCache, cached_features
from luthier.training.trunk.fed_rows import batch_key, row_keys
from luthier.training.trunk.sentence_vectors import compute_sentence_vectors
from luthier.training.trunk.stored_trunk import stored_trunk
from tests.processes import CONTEXT
from tests.representing.models import TEXTS, saved_model
from tests.training.trunk.test_cache import collate, rows, with_trained_head
from tests.tuning.instance_prompt_models import encoder

Compute = Callable[[Path], np.ndarray]


def of_trunk(cache: Path) -> np.ndarray:
    model, split = with_trained_head("bert")
    features = cached_features(model, split, rows(), 3, cache=TrunkCache(cache), collator=collate)
    return features.batch(range(5), torch.ones(5, 9))["pooler_output"].numpy()


def of_sentences(cache: Path) -> np.ndarray:
    return compute_sentence_vectors(encoder(vocab_size=50), rows(), cache).of_rows(rows()).numpy()


def of_representations(cache: Path) -> np.ndarray:
    folder = cache.with_name("model")
    shared = SharedEncoder(str(folder if folder.exists() else saved_model(folder)))
    return np.array(RepresentationStore(cache).vectors(shared, TEXTS))


STORES = {"trunk": of_trunk, "sentences": of_sentences, "representations": of_representations}
FILES = [
    *(("trunk", name) for name in ("0.npy", "offsets.npy", "keys.npy", "about.json", "seal.txt")),
    *(("sentences", name) for name in ("vectors.npy", "keys.npy", "about.json", "seal.txt")),
    *(("representations", name) for name in ("vectors.npy", "about.json", "seal.txt")),
]


def flip_the_last_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 4)


def put_nan(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-4] + np.float32(np.nan).tobytes())


@pytest.mark.parametrize(("kind", "name"), FILES, ids=["/".join(one) for one in FILES])
@pytest.mark.parametrize("damage", [flip_the_last_byte, truncate, put_nan])
def test_what_is_damaged_is_computed_again_told_and_replaced(kind, name, damage, tmp_path, caplog):
    compute, cache = STORES[kind], tmp_path / "cache"
    wanted = compute(cache)
    (file,) = cache.glob(f"*/{name}")
    damage(file)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(compute(cache), wanted)
    assert [f"{file.parent} is damaged and is computed again" in r.getMessage() for r in caplog.records] == [True]
    caplog.clear()
    check_seal(file.parent)
    assert np.array_equal(compute(cache), wanted)
    assert not caplog.records


@pytest.mark.parametrize("kind", STORES)
def test_what_lies_under_another_name_is_not_used(kind, tmp_path):
    cache = tmp_path / "cache"
    STORES[kind](cache)
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    folder.rename(folder.with_name("0" * 32))
    assert not is_whole(folder.with_name("0" * 32))


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    cache = tmp_path_factory.mktemp("stored")
    of_trunk(cache)
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    return folder


@given(data=st.data(), change=st.integers(1, 255))
def test_no_damage_of_one_byte_passes(stored, data, change):
    file = data.draw(st.sampled_from(sorted(stored.iterdir())))
    content = file.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    file.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1 :])
    try:
        assert not is_whole(stored)
    finally:
        file.write_bytes(content)
    assert is_whole(stored)


@pytest.mark.parametrize("change", ["missing", "added"])
def test_a_file_that_is_missing_or_added_is_damage(change, tmp_path):
    with whole_folder(tmp_path / "stored") as scratch:
        (scratch / "part").mkdir()
        (scratch / "part" / "numbers").write_text("1")
    assert is_whole(tmp_path / "stored")
    if change == "missing":
        (tmp_path / "stored" / "part" / "numbers").unlink()
    else:
        (tmp_path / "stored" / "part" / "more").write_text("2")
    assert not is_whole(tmp_path / "stored")


def _store(cache: str, barrier: Any, answers: Any) -> None:
    torch.set_num_threads(1)
    model, split = with_trained_head("bert")
    passes = 0

    def meet(*_: Any) -> None:
        nonlocal passes
        passes += 1
        if passes == 2:  # the first is a look at what is read; this one is inside of the scratch folder
            barrier.wait(60)

    model.bert.encoder.layer[0].register_forward_hook(meet)
    try:
        features = cached_features(model, split, rows(), 3, cache=TrunkCache(cache), collator=collate)
        answers.put(features.batch(range(5), torch.ones(5, 9))["pooler_output"].numpy())
    except Exception as error:
        answers.put(str(error))


@pytest.mark.parametrize("before", ["nothing", "damaged"])
def test_two_processes_store_the_same_at_once(before, tmp_path):
    wanted, cache = of_trunk(tmp_path / "own"), tmp_path / "cache"
    if before == "damaged":
        of_trunk(cache)
        put_nan(next(cache.glob("*/0.npy")))
    barrier, answers = CONTEXT.Barrier(2), CONTEXT.Queue()
    processes = [CONTEXT.Process(target=_store, args=(str(cache), barrier, answers)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=100) for _ in processes]
    for process in processes:
        process.join(60)
    assert all(np.array_equal(one, wanted) for one in found), found
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    assert is_whole(folder)


def test_the_folder_that_is_there_first_stays(tmp_path):
    folder = tmp_path / "stored"
    with whole_folder(folder) as slow:
        (slow / "numbers").write_text("slow")
        with whole_folder(folder) as fast:
            (fast / "numbers").write_text("fast")
        opened = (folder / "numbers").open()
    assert (folder / "numbers").read_text() == "fast" == opened.read()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["stored"]


def test_a_place_that_can_not_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="can't write here"), whole_folder(tmp_path / "file" / "stored"):
        pass


def with_segments(first: int) -> list[dict[str, Any]]:
    return [{**row, "token_type_ids": [int(i >= first) for i in range(len(row["input_ids"]))]} for row in rows()]


def collate_segments(some: Any) -> dict[str, torch.Tensor]:
    batch = collate(some)
    segments = [torch.tensor(row["token_type_ids"]) for row in some]
    return {**batch, "token_type_ids": torch.nn.utils.rnn.pad_sequence(segments, batch_first=True)}


def test_rows_of_the_same_ids_and_other_segments_share_no_features(tmp_path):
    model, split = with_trained_head("bert")
    cache, sets = TrunkCache(tmp_path), [with_segments(1), with_segments(2)]
    found, wanted = [], []
    for one in sets:
        features = cached_features(model, split, one, 5, cache=cache, collator=collate_segments)
        batch = collate_segments(one)
        found.append(features.batch(range(5), batch["attention_mask"])["pooler_output"])
        wanted.append(model.bert(**{k: v for k, v in batch.items() if k != "row"}).pooler_output)
    assert not torch.allclose(*wanted)
    torch.testing.assert_close(found, wanted)


def test_a_row_of_other_segments_is_not_taken_for_a_stored_one(tmp_path):
    model, split = with_trained_head("bert")
    batches = [collate_segments(with_segments(first)) for first in (1, 2)]
    for batch in batches:
        batch.pop("row")
    wanted = [model(**batch).logits for batch in batches]
    passes: list[int] = []
    model.bert.encoder.layer[0].register_forward_hook(lambda _m, args, out: passes.append(int(out is not args[0])))
    with stored_trunk(model, split, [with_segments(1)], collate_segments, TrunkCache(tmp_path), batch_size=5):
        passes.clear()
        for batch, logits in zip(batches, wanted, strict=True):
            torch.testing.assert_close(model(**batch).logits, logits)
    assert passes == [1]


def test_rows_that_find_no_room_beside_the_others_run_through_the_whole_model(tmp_path, caplog):
    model, split = with_trained_head("bert")
    stored, beside = with_segments(1), with_segments(2)
    wanted = cached_features(model, split, stored, 5, cache=TrunkCache(tmp_path), collator=collate_segments).folder
    cache = TrunkCache(tmp_path, max_bytes=TrunkCache(tmp_path).size() + 100)
    with stored_trunk(model, split, [stored, beside], collate_segments, cache, batch_size=5) as skips:
        assert skips
        assert wanted.exists()
        assert "in every epoch for some of the rows" in caplog.text
        passes: list[int] = []
        model.bert.encoder.layer[0].register_forward_hook(lambda _m, args, out: passes.append(int(out is not args[0])))
        for rows in (stored, beside):
            batch = collate_segments(rows)
            batch.pop("row")
            model(**batch)
    assert passes == [1]


def padded_on_the_left(some: Any) -> dict[str, torch.Tensor]:
    batch, places = collate(some), range(len(some))
    short = [int((row == 0).sum()) for row in batch["attention_mask"]]
    moved = {name: torch.stack([batch[name][i].roll(short[i]) for i in places]) for name in ("input_ids",)}
    return {**batch, **moved, "attention_mask": (moved["input_ids"] != 0).long()}


def test_rows_that_are_padded_on_the_other_side_share_no_features(tmp_path):
    model, split = with_trained_head("tokens")
    cache, data = TrunkCache(tmp_path), rows()
    for side in (collate, padded_on_the_left):
        features = cached_features(model, split, data, 5, cache=cache, collator=side)
        batch = side(data)
        batch.pop("row")
        real = batch["attention_mask"].bool()
        found = features.batch(range(5), batch["attention_mask"])["last_hidden_state"]
        torch.testing.assert_close(found[real], model.bert(**batch).last_hidden_state[real])


def test_a_row_of_a_batch_that_is_padded_otherwise_is_run_through_the_model(tmp_path):
    model, split = with_trained_head("tokens")
    data = rows()
    short = padded_on_the_left(data[2:3] + data[:1])
    short.pop("row")
    wanted = model(**short).logits
    with stored_trunk(model, split, [data], padded_on_the_left, TrunkCache(tmp_path), batch_size=5):
        torch.testing.assert_close(model(**short).logits, wanted)


@pytest.mark.parametrize("name", ["token_type_ids", "position_ids", "pixel_values"])
def test_every_input_counts_in_the_keys(name):
    batch = collate(rows())
    other = {**batch, name: torch.ones(5, 9)}
    another = {**batch, name: torch.ones(5, 9).index_fill(1, torch.tensor([1]), 2.0)}
    assert len({batch_key(one) for one in (batch, other, another)}) == 3
    keys = [row_keys(one) for one in (batch, other, another)]
    assert all(key is not None for key in keys)
    assert len({key for some in keys for key in some or ()}) == 15
    assert row_keys({**batch, name: True}) is None


def test_labels_and_row_numbers_do_not(tmp_path):
    batch = collate(rows())
    other = {**batch, "labels": torch.ones(5), "row": batch["row"] + 1}
    assert batch_key(other) == batch_key(batch)
    assert row_keys(other) == row_keys(batch)
    longer = {name: torch.nn.functional.pad(batch[name], (0, 3)) for name in ("input_ids", "attention_mask")}
    assert row_keys(longer) == row_keys(batch)


def test_sentences_of_the_same_ids_and_other_segments_share_no_vector(tmp_path):
    model = encoder("bert", vocab_size=50, type_vocab_size=2, pad_token_id=0)
    sets = [with_segments(1), with_segments(2)]
    store = compute_sentence_vectors(model, sets[0] + sets[1], tmp_path)
    assert len(store) == 10
    for some in sets:
        batch = collate_segments(some)
        batch.pop("row")
        wanted = model.bert(**batch).last_hidden_state[:, 0]
        torch.testing.assert_close(store.of_rows(some), wanted, rtol=1e-4, atol=1e-5)
        found = store.of_tokens(batch["input_ids"], batch["attention_mask"], None, batch["token_type_ids"])
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert store.of_tokens(batch["input_ids"], batch["attention_mask"]) is None


def test_representations_of_cut_texts_are_not_given_to_who_refuses_them(tmp_path):
    shared = SharedEncoder(str(saved_model(tmp_path / "model")), max_length=4)
    store = RepresentationStore(tmp_path / "cache")
    store.vectors(shared, TEXTS)
    with pytest.raises(DataError, match="longer than 4 tokens"):
        store.vectors(shared, TEXTS, too_long="error")


def test_a_damaged_note_of_a_digest_is_not_believed(tmp_path, monkeypatch):
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hashing, "_WORTH_REMEMBERING", 1)
    monkeypatch.setattr(hashing, "_CLOCK_TICK", -1.0)
    file = tmp_path / "weights"
    file.write_bytes(b"numbers")
    wanted = hashing.remembered_sha256(file)
    (note,) = (tmp_path / "cache" / "sha256").iterdir()
    for place in range(len(note.read_bytes())):
        content = note.read_bytes()
        note.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert hashing.remembered_sha256(file) == wanted


def test_a_file_that_was_just_written_is_hashed_again(tmp_path, monkeypatch):
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hashing, "_WORTH_REMEMBERING", 1)
    file = tmp_path / "weights"
    file.write_bytes(b"numbers")
    hashing.remembered_sha256(file)
    assert not (tmp_path / "cache").exists()
