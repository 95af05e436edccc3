"""Rows of a curriculum: every token once, whatever the lengths and wherever it stops; documents apart."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from luthier.context.corpus_settings import MixtureSettings
from luthier.context.curriculum import LengthCurriculum
from luthier.context.mixture import mixture_of
from luthier.context.rows import CurriculumRows, collate_rows, restarted_positions
from luthier.data.schemas import IGNORED
from luthier.errors import DataError
from luthier.language_modeling import causal_lm_loss
from luthier.language_modeling.packing import Frame
from luthier.language_modeling.stream import Share
from tests.context.conftest import SIZES, documents, write
from tests.language_modeling.models import word_pieces

STEPS, STEP_ROWS = 8, 2


def rows_of(corpus: Any, *, length: int = 32, stages: Any = ((8, 0.5), (32, 0.5)), **more: Any) -> CurriculumRows:
    tokenizer = word_pieces()
    mixture = mixture_of(MixtureSettings.model_validate(corpus), tokenizer, 7)
    frame = Frame.of(tokenizer, length, masked=False)
    return CurriculumRows(mixture, frame, LengthCurriculum(stages), steps=STEPS, step_rows=STEP_ROWS, **more)


def taken(rows: CurriculumRows, count: int) -> list[dict[str, Any]]:
    return list(itertools.islice(rows, count))


def tokens_of(texts: list[str]) -> list[int]:
    tokenizer = word_pieces()
    return [one for text in texts for one in [*tokenizer(text, add_special_tokens=False)["input_ids"], 3]]


@pytest.fixture
def corpus(tmp_path: Path) -> dict[str, Any]:
    return {"train": write(tmp_path / "a.txt", documents(60, 0)), "held_out": 0, "shuffle": 0}


@pytest.mark.parametrize("stages", [((32, 1.0),), ((8, 0.5), (32, 0.5)), ((8, 0.25), (16, 0.25), (32, 0.5))])
def test_no_token_is_lost_or_seen_twice_whatever_the_lengths(corpus: dict[str, Any], stages: Any):
    rows = taken(rows_of(corpus, stages=stages), STEPS * STEP_ROWS)
    seen = np.concatenate([row["input_ids"].reshape(-1) for row in rows])
    assert seen.tolist() == tokens_of(documents(60, 0))[: len(seen)]
    for number, row in enumerate(rows):
        length = LengthCurriculum(stages).length_at(number // STEP_ROWS, STEPS)
        assert row["input_ids"].shape == (32 // length, length)  # the same tokens in every step
    batch = collate_rows(rows[:2])
    assert batch["input_ids"].numel() == 64
    assert batch["row"].tolist() == [0, 1]


@pytest.mark.parametrize("after", range(1, 13))
def test_going_on_in_the_middle_of_a_document_and_around_a_switch_is_exact(corpus: dict[str, Any], after: int):
    """Documents have up to 152 tokens and rows 32, so that most states are inside one."""
    corpus |= {"shuffle": 7, "domains": {"b": corpus["train"]}, "long_documents": {"kind": "upsample", "threshold": 20}}
    straight = rows_of(corpus, mask="block")
    whole = taken(straight, 24)
    first = rows_of(corpus, mask="block")
    taken(first, after)
    state = first.state_dict()
    second = rows_of(corpus, mask="block")
    second.load_state_dict(torch_round_trip(state))
    rest = taken(second, 24 - after)
    for expected, found in zip(whole[after:], rest, strict=True):
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert np.array_equal(value, found[name]), name
    assert second.state_dict() == straight.state_dict()
    assert second.report.total == 24 * 32


def torch_round_trip(state: dict[str, Any]) -> dict[str, Any]:
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def test_processes_share_the_rows_of_every_step(corpus: dict[str, Any]):
    whole = taken(rows_of(corpus), 8)
    shares = [taken(rows_of(corpus, share=Share(number, 2, 1)), 4) for number in (0, 1)]
    assert [row["row"] for row in shares[0]] == [0, 2, 4, 6]
    merged = sorted([*shares[0], *shares[1]], key=lambda row: int(row["row"]))
    assert all(np.array_equal(a["input_ids"], b["input_ids"]) for a, b in zip(whole, merged, strict=True))


def test_domains_have_the_share_of_tokens_of_their_weights(tmp_path: Path, corpus: dict[str, Any]):
    other = {"train": write(tmp_path / "b.txt", documents(40, 1, (9,))), "held_out": 0, "weight": 3.0}
    rows = rows_of({**corpus, "domains": {"b": other}})
    taken(rows, 400)
    found = rows.report.tokens
    assert sum(found.values()) == rows.report.total == 400 * 32
    assert found["b"] / rows.report.total == pytest.approx(0.75, abs=0.02)
    assert rows.mixture.passes()["b"] > 1  # the smaller one is read again and again


def test_long_documents_are_dropped_or_have_their_share(corpus: dict[str, Any]):
    lengths = {"long_documents": {"kind": "drop", "threshold": 100}}
    rows = rows_of({**corpus, **lengths})
    taken(rows, 100)
    assert rows.report.lengths["main"][2:] == [0] * 5  # none of more than 256
    assert all(whole <= 100 for _, whole, _ in rows._owners.values())
    rows = rows_of({**corpus, "long_documents": {"kind": "upsample", "threshold": 100, "share": 0.8}})
    taken(rows, 400)
    assert rows.report.lengths["main"][1] / rows.report.total == pytest.approx(0.8, abs=0.04)  # of 65 to 256 tokens
    with pytest.raises(DataError, match="no document"):
        taken(rows_of({**corpus, "long_documents": {"kind": "upsample", "threshold": 1000}}), 1)


def test_the_report_counts_left_context(tmp_path: Path):
    """One document of 3,000 tokens in rows of 4,096: 3,000 - 1,025 tokens have more than 1,024 before them."""
    text = " ".join(["cat"] * 2999)
    corpus = {"train": write(tmp_path / "long.txt", [text]), "held_out": 0, "shuffle": 0}
    rows = rows_of(corpus, length=4096, stages=((4096, 1.0),))
    taken(rows, 1)
    assert rows.report.left == [3000 - 1025 + 4096 - 3000 - 1025, 0, 0]
    assert rows.report.documents == {"main": 1}
    cut = rows_of(corpus, length=4096, stages=((1024, 1.0),))
    taken(cut, 1)
    assert cut.report.left == [0, 0, 0]


def test_positions_restart_with_documents_and_rows():
    documents_ = np.array([[0, 0, 1, 1], [1, 2, 3, 3]])
    assert restarted_positions(documents_).tolist() == [[0, 1, 0, 1], [0, 0, 0, 1]]


def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    made = LlamaForCausalLM(LlamaConfig(**SIZES)).double()
    made.model.rotary_emb.inv_freq = made.model.rotary_emb.inv_freq.double()
    made.config.use_cache = False
    return made


def test_packed_is_padded_in_losses_and_gradients(corpus: dict[str, Any]):
    """Documents in a row under the block mask, against each alone beside padding."""
    batch = collate_rows(taken(rows_of(corpus, mask="block", stages=((32, 1.0),)), 8))
    packed = model()
    loss = causal_lm_loss(packed, {name: value for name, value in batch.items() if name != "row"})
    loss.backward()
    pieces = [
        ids[start:end]
        for ids, positions in zip(batch["input_ids"], batch["position_ids"], strict=True)
        for start, end in itertools.pairwise([*positions.eq(0).nonzero()[:, 0].tolist(), len(ids)])
    ]
    longest = max(map(len, pieces))
    padded = torch.stack([F.pad(one, (0, longest - len(one)), value=0) for one in pieces])
    mask = torch.stack([F.pad(torch.ones_like(one), (0, longest - len(one))) for one in pieces])
    alone = model()
    labels = padded.masked_fill(mask.eq(0), IGNORED)
    expected = causal_lm_loss(alone, {"input_ids": padded, "attention_mask": mask, "labels": labels})
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    for (name, one), other in zip(packed.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-5, msg=name)


def test_the_first_token_of_a_document_is_no_label(corpus: dict[str, Any]):
    batch = collate_rows(taken(rows_of(corpus, mask="block", stages=((32, 1.0),)), 8))
    starts = batch["position_ids"].eq(0)
    assert starts.sum() > 8
    assert batch["labels"][starts].eq(IGNORED).all()
    assert batch["labels"][~starts].ge(0).all()
    inputs = {name: value for name, value in batch.items() if name not in ("row", "labels")}
    right = causal_lm_loss(model(), {**inputs, "labels": batch["labels"]})
    crossing = causal_lm_loss(model(), {**inputs, "labels": batch["input_ids"]})
    assert abs(right.item() - crossing.item()) > 1e-5


def test_without_a_mask_rows_are_one_text_with_an_attention_mask_of_ones(corpus: dict[str, Any]):
    """Any step other than +1 in positions would be taken for a new document."""
    (row,) = taken(rows_of(corpus), 1)
    assert set(row) == {"input_ids", "attention_mask", "labels", "row"}
    assert row["attention_mask"].all()
    (masked,) = taken(rows_of(corpus, mask="block"), 1)
    assert "attention_mask" not in masked  # beside one, documents see each other without a word
    steps = np.diff(masked["position_ids"], axis=1)
    assert set(np.unique(steps[steps != 1] + masked["position_ids"][:, :-1][steps != 1])) <= {0}
