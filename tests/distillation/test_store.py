"""Stored teacher outputs: what is lost, that they are found again, and that damage and foreign files are seen."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from luthier.distillation import store as store_module
from luthier.distillation.divergences import StoredRows, divergence, divergence_from_stored
from luthier.distillation.settings import StoredOutputs
from luthier.distillation.store import Kept, StoredTeacher, some_of, stored_outputs
from luthier.errors import TrainingError, WorkspaceError
from luthier.language_modeling.masking import Masking
from luthier.language_modeling.packing import Block
from luthier.language_modeling.stream import encoded_row
from luthier.storage.folder_cache import bytes_of
from luthier.storage.keys import digest_of
from tests.distillation.test_language import collate, masked
from tests.distillation.test_training import Tokens, tagger
from tests.robustness import tiny

DIRECTIONS = ["forward", "reverse", "jsd"]


def kept(**changes: Any) -> Kept:
    settings: dict[str, Any] = {
        "teacher": "one",
        "top_k": 3,
        "temperature": 1.0,
        "everywhere": False,
        "shifted": False,
        "language": False,
    }
    return Kept(**settings | changes)


def likeliest(logits: Tensor, k: int, temperature: float) -> StoredRows:
    """By sorting, one row at a time."""
    log_p, tokens, rest = [], [], []
    for row in (logits / temperature).softmax(-1).tolist():
        order = sorted(range(len(row)), key=lambda i: -row[i])[:k]
        log_p.append([np.log(row[i]) for i in order])
        tokens.append(order)
        rest.append(np.log(sum(p for i, p in enumerate(row) if i not in order)) if k < len(row) else -np.inf)
    return StoredRows(torch.tensor(log_p), torch.tensor(tokens), torch.tensor(rest))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_what_is_not_stored_counts_as_one(direction: Any) -> None:
    learner, teacher = torch.randn(2, 6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = divergence_from_stored(
        learner, likeliest(teacher, 4, 2.0), temperature=2.0, direction=direction, chunk_elements=9
    )
    joined = []
    for one in (learner, teacher):  # distributions over four tokens and the rest, as logits
        p, order = (one / 2).softmax(-1), teacher.argsort(-1, descending=True)[:, :4]
        joined.append(torch.cat([p.gather(1, order), 1 - p.gather(1, order).sum(1, keepdim=True)], 1).log())
    torch.testing.assert_close(found, divergence(*joined, direction=direction))
    assert found < divergence(learner, teacher, temperature=2.0, direction=direction)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_all_that_there_are_lose_nothing(direction: Any) -> None:
    learner, teacher = torch.randn(2, 6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    learner.requires_grad_()
    found = divergence_from_stored(learner, likeliest(teacher, 9, 1.0), direction=direction)
    whole = divergence(learner, teacher, direction=direction)
    torch.testing.assert_close(found, whole)
    mine, theirs = (torch.autograd.grad(x, learner)[0] for x in (found, whole))
    torch.testing.assert_close(mine, theirs)


def test_the_gradient_is_that_of_plain_operations() -> None:
    learner, teacher = torch.randn(2, 6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    learner.requires_grad_()
    stored = likeliest(teacher, 4, 2.0)
    found = divergence_from_stored(learner, stored, temperature=2.0, chunk_elements=18)
    q = (learner / 2).softmax(-1).gather(1, stored.tokens)
    q, p = (torch.cat([one, 1 - one.sum(1, keepdim=True)], 1) for one in (q, stored.log_p.exp()))
    plain = (p * (p / q).log()).sum()
    torch.testing.assert_close(torch.autograd.grad(found, learner)[0], torch.autograd.grad(plain, learner)[0])


def teacher() -> Any:
    return tagger(1).float().eval().requires_grad_(False)


def batches(size: int = 5) -> list[dict[str, Tensor]]:
    return list(some_of(Tokens().rows, 12, size, Tokens.collate))


def never() -> Any:
    raise AssertionError("the teacher was loaded")


def stored(folder: Path, load: Any = teacher, **changes: Any) -> StoredTeacher:
    return stored_outputs(kept(**changes), batches(), load, most_bytes=10**8, where=folder)


@pytest.mark.parametrize("everywhere", [False, True])
def test_rows_are_found_by_content_in_any_batch(tmp_path: Path, everywhere: bool) -> None:
    found = stored(tmp_path, everywhere=everywhere)
    rows = Tokens().rows
    batch = Tokens.collate([rows[i] for i in (7, 0, 5, 11)])
    counted = batch["attention_mask"].bool() if everywhere else batch["labels"] != -100
    with torch.no_grad():
        logits = teacher()(batch["input_ids"], batch["attention_mask"]).logits[counted]
    expected = likeliest(logits, 3, 1.0)
    given = found.rows(batch, torch.device("cpu"))
    torch.testing.assert_close(given.log_p.double(), expected.log_p.double(), atol=1e-5, rtol=1e-5)
    assert torch.equal(given.tokens, expected.tokens)
    assert found.left_out["mean"] == 0  # three labels, three kept


def test_a_row_has_one_key_however_it_is_padded() -> None:
    rows = [{"input_ids": [5, 6], "labels": [1, -100]}, {"input_ids": [5, 6, 7], "labels": [1, -100, 2]}]

    def batch(width: int, left: bool, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        def padded(values: list[int], filler: int) -> list[int]:
            more = [filler] * (width - len(values))
            return more + values if left else values + more

        return {
            "input_ids": torch.tensor([padded(row["input_ids"], 0) for row in rows]),
            "attention_mask": torch.tensor([padded([1] * len(row["input_ids"]), 0) for row in rows]),
            "labels": torch.tensor([padded(row["labels"], -100) for row in rows]),
        }

    expected = kept().keys(batch(3, False, rows))
    assert len(set(expected)) == 2
    for left in (False, True):
        assert kept().keys(batch(5, left, rows)) == expected
        assert kept().keys(batch(2, left, rows[:1])) == expected[:1]


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    found = stored(tmp_path, top_k=1)
    log_rest = torch.cat([torch.from_numpy(np.array(shard.rest)) for shard in found.shards])
    assert found.left_out["mean"] == pytest.approx(float(log_rest.exp().mean()))
    assert 0 < found.left_out["mean"] <= found.left_out["largest"] < 1
    assert 0 < found.left_out["entropy"] < np.log(3)


def test_a_second_run_never_loads_the_teacher(tmp_path: Path) -> None:
    one = stored(tmp_path)
    two = stored(tmp_path, never)
    for batch in batches(3):
        assert torch.equal(one.rows(batch, torch.device("cpu")).log_p, two.rows(batch, torch.device("cpu")).log_p)


@pytest.mark.parametrize("change", [{"teacher": "two"}, {"top_k": 2}, {"temperature": 2.0}, {"everywhere": True}])
def test_anything_else_is_computed_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    stored(tmp_path)
    with pytest.raises(AssertionError, match="the teacher was loaded"):
        stored(tmp_path, never, **change)


@pytest.mark.parametrize("harm", ["bytes", "gone", "foreign"])
def test_a_damaged_or_foreign_shard_is_found_and_computed_again(
    tmp_path: Path, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SHARD_ROWS", 5)
    found = stored(tmp_path)
    assert len(found.shards) == 3
    expected = [found.rows(batch, torch.device("cpu")).log_p for batch in batches(4)]
    folders = sorted(path for path in tmp_path.iterdir() if path.is_dir())
    if harm == "bytes":
        content = bytearray((folders[1] / "log_p.npy").read_bytes())
        content[-3] ^= 1
        (folders[1] / "log_p.npy").write_bytes(content)
    elif harm == "gone":
        (folders[1] / "tokens.npy").unlink()
    else:
        shutil.rmtree(folders[1])
        shutil.copytree(folders[0], folders[1])
    loads = []
    again = stored(tmp_path, lambda: loads.append(1) or teacher())
    assert loads == [1]
    for batch, log_p in zip(batches(4), expected, strict=True):
        assert torch.equal(again.rows(batch, torch.device("cpu")).log_p, log_p)


def test_every_seed_of_the_masks_has_its_own(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    blocks = [Block(draw.integers(2, tiny.WORDS, 8), None, np.zeros(8, np.int64)) for _ in range(6)]

    def rows(seed: int) -> list[dict[str, Tensor]]:
        masking = Masking(1, np.arange(2, tiny.WORDS), frozenset({0}), rate=0.4, seed=seed)
        made = [encoded_row(block, number, masking) for number, block in enumerate(blocks)]
        return [collate([{k: torch.from_numpy(v) for k, v in row.items() if k != "row"} for row in made])]

    model = masked(16, 0).float().eval()
    how = kept(top_k=5, language=True)
    for seed in (1, 2):
        stored_outputs(how, rows(seed), lambda: model, most_bytes=10**8, where=tmp_path)
    one = stored_outputs(how, rows(1), never, most_bytes=10**8, where=tmp_path)
    batch = rows(1)[0]
    with torch.no_grad():
        logits = model(batch["input_ids"], batch["attention_mask"]).logits[batch["labels"] != -100]
    expected = logits.log_softmax(-1).topk(5)
    given = one.rows(batch, torch.device("cpu"))
    torch.testing.assert_close(given.log_p, expected.values, atol=1e-5, rtol=1e-5)
    with pytest.raises(TrainingError, match="not among those whose teacher's outputs are stored"):
        one.rows(rows(2)[0], torch.device("cpu"))


def test_a_cache_that_is_too_small_says_so(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"a shard of the teacher's outputs would take"):
        stored_outputs(kept(), batches(), teacher, most_bytes=100, where=tmp_path)


def test_what_the_cache_may_hold_is_no_part_of_a_key() -> None:
    assert digest_of(StoredOutputs(gigabytes=1)) == digest_of(StoredOutputs())
    assert digest_of(StoredOutputs(top_k=1)) != digest_of(StoredOutputs())


def test_shards_of_one_run_never_make_room_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SHARD_ROWS", 5)
    stored(tmp_path / "large")
    needed = bytes_of(tmp_path / "large")
    with pytest.raises(WorkspaceError, match=r"bytes beside [\d,]+ that it is used with.*\n.*raise `store.gigabytes`"):
        stored_outputs(kept(), batches(), teacher, most_bytes=needed * 2 // 3, where=tmp_path / "small")


def test_shards_that_another_run_removes_meanwhile_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def removed(kept: Kept, folders: list[Path]) -> StoredTeacher:
        shutil.rmtree(folders[0])
        return StoredTeacher(kept, folders)

    monkeypatch.setattr(store_module, "StoredTeacher", removed)
    with pytest.raises(WorkspaceError, match=r"did not stay until all were there.*\n.*start again"):
        stored(tmp_path)


def test_a_stored_teacher_holds_no_file_open(tmp_path: Path) -> None:
    import psutil

    found = stored(tmp_path)
    assert not [file.path for file in psutil.Process().open_files() if str(tmp_path) in file.path]
    expected = [found.rows(batch, torch.device("cpu")).log_p for batch in batches(4)]
    shutil.rmtree(tmp_path)  # as another run may that makes room
    assert all(
        torch.equal(found.rows(b, torch.device("cpu")).log_p, p) for b, p in zip(batches(4), expected, strict=True)
    )
