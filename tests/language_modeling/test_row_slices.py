"""Slices of rows: columns, labels, documents, and attention from a slice to the whole row beside a dense mask."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right

from luthier.data.schemas import IGNORED
from luthier.language_modeling.row_slices import RowSlices, SlicedBatches
from luthier.language_modeling.sliced_attention import _attended, _seen_by_last_first, spans_of

LENGTH = 48
# Of each row, tokens of its documents: some end inside of a piece, one with it, one is a token long.
ROWS = ((20, 1, 27), (48,), (12, 5, 7, 24))


def all_slices(processes: int) -> list[RowSlices]:
    return [RowSlices(processes, number) for number in range(processes)]


def batch() -> dict[str, Tensor]:
    ids = torch.randint(5, 90, (len(ROWS), LENGTH), generator=torch.Generator().manual_seed(1))
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in ROWS])
    labels = torch.where(positions == 0, IGNORED, ids)
    return {"input_ids": ids, "position_ids": positions, "labels": labels, "row": torch.arange(len(ROWS))}


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_every_column_is_in_one_slice_and_all_look_back_at_as_many(processes: int):
    columns = [one.of(torch.arange(LENGTH)).tolist() for one in all_slices(processes)]
    assert sorted(itertools.chain(*columns)) == list(range(LENGTH))
    assert {len(own) for own in columns} == {LENGTH // processes}
    assert len({sum(own) for own in columns}) == 1


def test_a_row_that_pieces_do_not_fit_is_refused():
    with pytest.raises(ValueError, match="6 equal pieces"):
        RowSlices(3, 0).pieces(32)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_slices_make_the_row_again(processes: int):
    rows = torch.randn(2, 5, LENGTH, 3)
    slices = torch.stack([one.of(rows.mT).mT for one in all_slices(processes)])
    assert torch.equal(all_slices(processes)[0].in_order(slices), rows)
    assert torch.equal(all_slices(processes)[0].by_process(rows), slices)


@pytest.mark.parametrize("processes", [2, 4])
def test_a_label_is_at_the_position_that_predicts_it_in_another_slice_too(processes: int):
    given, predicted = batch(), []
    for one in all_slices(processes):
        made, columns = one.of_batch(given), one.of(torch.arange(LENGTH)).tolist()
        assert torch.equal(made["row"], given["row"])
        for row, lengths in enumerate(ROWS):
            begins = [sum(lengths[:n]) for n in range(len(lengths))]
            for place, column in enumerate(columns):
                last = column + 1 in (*begins, LENGTH)
                wanted = IGNORED if last else int(given["input_ids"][row, column + 1])
                assert made["labels"][row, place] == wanted
                assert made["input_ids"][row, place] == given["input_ids"][row, column]
                assert made["position_ids"][row, place] == given["position_ids"][row, column]
                first = max(begin for begin in begins if begin <= column)
                assert made["attention_mask"][row, 0, 0, place] == first
                predicted.append((row, column))
    assert len(set(predicted)) == len(ROWS) * LENGTH


def test_rows_without_documents_are_one_text():
    rows = {name: values for name, values in batch().items() if name != "position_ids"}
    rows["attention_mask"] = torch.ones_like(rows["input_ids"])
    made = SlicedBatches(lambda some: some[0], RowSlices(2, 1))([rows])
    assert torch.equal(made["position_ids"][0], RowSlices(2, 1).of(torch.arange(LENGTH)))
    assert not made["attention_mask"].any()


def tensors() -> list[Tensor]:
    """Queries of four heads, keys and values of two, in double precision."""
    draw = torch.Generator().manual_seed(2)
    shapes = [(len(ROWS), heads, LENGTH, 6) for heads in (4, 2, 2)]
    return [torch.randn(shape, dtype=torch.float64, generator=draw).requires_grad_() for shape in shapes]


def dense(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of whole rows as it is defined, with each document alone."""
    numbers = torch.stack([torch.arange(len(row)).repeat_interleave(torch.tensor(row)) for row in ROWS])
    seen = (numbers[:, :, None] == numbers[:, None]) & torch.ones(LENGTH, LENGTH).tril().bool()
    scores = query @ key.repeat_interleave(2, 1).mT / query.shape[-1] ** 0.5
    weights = scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
    return (weights @ value.repeat_interleave(2, 1)).transpose(1, 2)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_attention_from_slices_is_that_of_the_row(processes: int):
    query, key, value = tensors()
    expected = dense(query, key, value)
    slope = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    wanted = torch.autograd.grad((expected * slope).sum(), (query, key, value))
    gradients = [torch.zeros_like(one) for one in wanted]
    for one in all_slices(processes):
        own = one.of(query.mT).mT
        spans = spans_of(one.of_batch(batch())["attention_mask"][:, 0, 0], one)
        rows = [slice(n, n + 1) for n in range(len(ROWS))]
        parts = [_attended(own[n], key[n], value[n], of, {}) for n, of in zip(rows, spans, strict=True)]
        found, pick = torch.cat(parts), lambda x, one=one: one.of(x.movedim(1, -1)).movedim(-1, 1)
        torch.testing.assert_close(found, pick(expected), atol=1e-12, rtol=0)
        own_part = torch.autograd.grad((found * pick(slope)).sum(), (query, key, value))
        gradients = [total + part for total, part in zip(gradients, own_part, strict=True)]
    for found, one in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(found, one, atol=1e-12, rtol=0)


def test_nothing_of_the_square_of_a_row_is_kept():
    query, key, value = tensors()
    kept: list[int] = []

    def noted(tensor: Tensor) -> Tensor:
        kept.append(tensor.untyped_storage().nbytes())
        return tensor

    last = RowSlices(2, 0)
    spans = spans_of(torch.zeros(1, LENGTH // 2, dtype=torch.long), last)
    own = last.of(query.mT).mT.contiguous()
    with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
        _attended(own, key, value, spans[0], {})
    assert len(kept) > 5
    assert max(kept) <= query.untyped_storage().nbytes()


def test_the_bias_for_accelerators_says_the_same():
    query, key, value = (one.detach() for one in tensors())
    last = query[:, :2, -9:]
    found = F.scaled_dot_product_attention(last, key, value, attn_mask=causal_lower_right(9, LENGTH))
    mask = _seen_by_last_first(last, LENGTH)
    own = F.scaled_dot_product_attention(last.flip(2), key, value, attn_mask=mask).flip(2)
    torch.testing.assert_close(own, found, atol=1e-12, rtol=0)
