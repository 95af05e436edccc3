"""The model against its equations, and what neither padding, batches nor files may change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModel, T5Config, T5Model

from luthier.errors import ModelError
from luthier.extraction import AutoModelForJointExtraction, SinetForJointExtraction
from luthier.extraction.pooling import RangeMax
from luthier.extraction.telling import kept_outputs
from tests.extraction import reference
from tests.extraction.small import LABELS, asked, batch, model, row

VARIANTS: list[dict[str, Any]] = [
    {},
    {"interaction": "none"},
    {"interaction": "cls_self"},
    {"interaction": "token_cross"},
    {"interaction": "token_cross", "interaction_layers": 2, "share_attention": False},
    {"interaction": "partition"},
    {"interaction_layers": 3},
    {"share_attention": False},
    {"attention_heads": 1, "own_vector_in_keys": False},
    {"direction": "ner_from_re"},
    {"direction": "re_from_ner", "attention_heads": 8},
    {"projection_bias": True, "projection_activation": "tanh"},
    {"context_from": "relation"},
    {"sentence_in_relations": False},
    {"width_embedding": 0},
    {"pooling": "mean"},
    {"pooling": "endpoints"},
    {"pooling": "attention"},
    {"pair_chunk": 1},
]
PIECES = [([1, 2, 4, 5, 7], [2, 4, 5, 7, 8], [(0, 1), (1, 3), (1, 5)], 9), ([1, 3, 4], [3, 4, 5], [(0, 1)], 5)]
RELATED = [{(0, 1, 0), (0, 1, 1), (2, 0, 0)}, set()]
TYPES = [[1, 2, 2], [1]]


def states(made: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
    return made.encoder(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).last_hidden_state


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@torch.no_grad()
def test_logits_and_loss_are_those_of_the_equations(options: dict[str, Any]):
    made, given = model(**options), batch()
    out, hidden = made(**given), states(made, given)
    for i, (starts, ends, entities, pieces) in enumerate(PIECES):
        spans, pairs = reference.logits(made, hidden[i, :pieces], starts, ends, entities)
        there = [tuple(words.tolist()) for words in out.span_words[i][out.span_valid[i]]]
        assert sorted(there) == sorted(spans)
        expected = torch.stack([spans[span] for span in there])
        assert torch.allclose(out.entity_logits[i][out.span_valid[i]], expected, rtol=0, atol=1e-6)
        for (a, b), x in pairs.items():
            found = out.pair_logits[i, entities.index(a), entities.index(b)]
            assert torch.allclose(found, x, rtol=0, atol=1e-6)
        loss = reference.loss(spans, pairs, entities, TYPES[i], RELATED[i])
        assert torch.allclose(out.row_loss[i], loss, rtol=0, atol=1e-6)
    assert out.loss == out.row_loss.mean()


@torch.no_grad()
def test_without_interaction_it_is_spert():
    made, given = model(interaction="none"), batch()
    assert {name.split(".")[0] for name, _ in made.named_parameters()} == {
        "encoder",
        "widths",
        "entity_head",
        "relation_head",
    }
    assert made.relation_head.linear.in_features == 3 * 32 + 2 * 25
    out, hidden = made(**given), states(made, given)
    starts, ends, entities, _ = PIECES[0]
    spans, pairs = out.span_words[0][out.span_valid[0]].tolist(), [(a, b) for a in entities for b in entities if a != b]
    heads = made.entity_head.linear, made.relation_head.linear
    of_spans, of_pairs = reference.spert(hidden[0], *heads, made.widths.table.weight, starts, ends, spans, pairs)
    assert torch.allclose(out.entity_logits[0][out.span_valid[0]], torch.stack(of_spans), rtol=0, atol=1e-6)
    for (a, b), x in zip(pairs, of_pairs, strict=True):
        assert torch.allclose(out.pair_logits[0, entities.index(a), entities.index(b)], x, rtol=0, atol=1e-6)


def test_range_maxima_are_masked_maxima():
    values = torch.randn(3, 13, 5, dtype=torch.float64)
    start = torch.tensor([[first for first in range(14) for _ in range(14)]] * 3)
    end = torch.tensor([list(range(14)) * 14] * 3)
    found = RangeMax(values, 13)(start, end)
    place = torch.arange(13)
    inside = (place >= start[..., None]) & (place < end[..., None])
    masked = torch.where(inside[..., None], values[:, None], -torch.inf).amax(dim=2)
    assert torch.equal(found, masked.masked_fill(~inside.any(-1)[..., None], 0.0))


@pytest.mark.parametrize("interaction", ["cls_cross", "none", "cls_self", "token_cross", "partition"])
@torch.no_grad()
def test_what_is_told_does_not_depend_on_the_batch(interaction: str):
    made, given = model(interaction=interaction), asked()
    made.entity_head.linear.bias[0] -= 4
    whole, alone = made(**given), made(**row(given, 1, 5, 3))
    count = int((alone.found_words[0, :, 0] >= 0).sum())
    assert count > 0
    assert torch.equal(whole.found_words[1, :count], alone.found_words[0, :count])
    assert (whole.found_words[1, count:] == -1).all()
    assert torch.allclose(whole.found_scores[1, :count], alone.found_scores[0, :count], atol=1e-10)
    pairs = whole.found_pairs[1]
    assert torch.allclose(pairs[:count, :count], alone.found_pairs[0, :count, :count], atol=1e-10)
    assert not pairs[count:].any()
    assert not pairs.diagonal().any()


@torch.no_grad()
def test_unmasked_padding_makes_it_depend_as_in_the_released_code():
    made, given = model(mask_padding=False), asked()
    alone = made(**row(given, 1, 5, 3)).entity_logits[0]
    assert (made(**given).entity_logits[1, : len(alone)] - alone).abs().max() > 1e-4


@torch.no_grad()
def test_annotations_change_nothing_of_what_is_told():
    made, given = model(), batch()
    made.entity_head.linear.bias[0] -= 100.0  # every span is told, and the longest annotated one is over the limit
    told, blind = made(**given), made(**asked(given))
    for name in ("found_words", "found_types", "found_scores", "found_pairs"):
        assert torch.equal(told[name], blind[name])
    assert blind.loss is None


@torch.no_grad()
def test_only_the_likeliest_entities_are_paired():
    some, all_ = model(max_entities=2)(**asked()), model()(**asked())
    assert all_.found_words.shape[1] > 2
    for name in ("found_words", "found_types", "found_scores"):
        assert torch.equal(some[name], all_[name])  # and all are told
    assert some.found_pairs.shape[1:3] == (2, 2)
    assert torch.allclose(some.found_pairs, all_.found_pairs[:, :2, :2])
    told = [next(kept_outputs(one)) for one in (some, all_)]
    assert len(told[0]["entities"]) == len(told[1]["entities"]) > 2
    within = told[1]["relations"][(told[1]["relations"][:, :2] < 2).all(axis=1)]
    assert told[0]["relations"].tolist() == within.tolist() != []
    assert (all_.found_scores[:, 1:] <= all_.found_scores[:, :-1]).all()


@torch.no_grad()
def test_without_masks_every_piece_is_text():
    made, given = model(), row(asked(), 0, 9, 5)
    given["word_end"][:, -1] = 8  # [SEP] follows
    whole = made(**given).entity_logits
    for left_out in (["text_mask"], ["text_mask", "attention_mask"]):
        bare = {name: value for name, value in given.items() if name not in left_out}
        assert torch.equal(made(**bare).entity_logits, whole)


@torch.no_grad()
def test_of_a_model_with_a_decoder_the_encoder_is_taken(tmp_path: Any):
    sizes = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 64}
    T5Model(T5Config(**sizes, decoder_start_token_id=0)).save_pretrained(tmp_path / "t5")
    config = T5Config.from_pretrained(tmp_path / "t5", id2label=dict(enumerate(LABELS)))
    made = AutoModelForJointExtraction.from_pretrained(tmp_path / "t5", config=config)
    given = {name: value for name, value in asked().items() if name != "text_mask"}
    told = made(**given)
    made.save_pretrained(tmp_path / "own")
    again = SinetForJointExtraction.from_pretrained(tmp_path / "own")
    assert torch.equal(again(**given).entity_logits, told.entity_logits)
    assert not any("decoder" in name for name, _ in made.named_parameters())
    saved = T5Model.from_pretrained(tmp_path / "t5").encoder.state_dict()
    assert torch.equal(made.encoder.shared.weight, saved["embed_tokens.weight"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_runs_and_learns_in_other_formats(dtype: torch.dtype):
    made = model().to(dtype).train()
    out = made(**batch())
    assert out.entity_logits.dtype == dtype
    assert out.row_loss.dtype == torch.float32
    out.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)
    exact = model()(**batch())
    told = made.eval()(**batch())
    assert torch.allclose(told.row_loss.double(), exact.row_loss, rtol=1e-4 if dtype == torch.float32 else 0.05)


def test_every_parameter_of_the_head_gets_a_gradient():
    for options in ({}, {"interaction": "partition"}, {"interaction": "token_cross"}, {"pooling": "attention"}):
        made = model(**options).train()
        made(**batch()).loss.backward()
        without = [n for n, p in made.named_parameters() if p.grad is None or not p.grad.any()]
        assert [n for n in without if not n.startswith("encoder.")] in ([], ["span_pooling.piece_weight.bias"])


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForJointExtraction, SinetForJointExtraction])
@torch.no_grad()
def test_it_comes_back_from_disk(auto: Any, tmp_path: Any):
    made = model(interaction_layers=2, pooling="attention", threshold=0.4)
    made.relation_head.threshold[1] = 0.7
    made.save_pretrained(tmp_path)
    again = auto.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert again.config.types == made.config.types
    assert again.relation_head.threshold.tolist() == made.relation_head.threshold.tolist()
    assert torch.equal(again(**batch()).pair_logits, made(**batch()).pair_logits)


@torch.no_grad()
def test_a_head_on_a_saved_encoder_keeps_its_weights(tmp_path: Any):
    made = model()
    made.encoder.save_pretrained(tmp_path)
    again, told = AutoModelForJointExtraction.from_pretrained(tmp_path, output_loading_info=True)
    for name, value in made.encoder.state_dict().items():
        assert torch.equal(again.encoder.state_dict()[name].double(), value)
    new = {name for name, _ in again.named_parameters() if not name.startswith("encoder.")}
    assert set(told["missing_keys"]) == new


def test_a_sentence_without_a_first_token_is_its_mean():
    made, given = model(interaction="none"), row(asked(), 0, 8, 5)
    bare = {name: value[:, 1:] for name, value in given.items() if not name.startswith("word")}
    bare |= {"word_start": given["word_start"] - 1, "word_end": given["word_end"] - 1}
    logits, hidden = made(**bare).entity_logits, states(made, bare)
    sums = made.entity_head.linear
    x = torch.cat([hidden[0].mean(0), hidden[0, 0], made.widths.table.weight[1]])
    assert torch.allclose(logits[0, 0], sums.weight @ x + sums.bias, atol=1e-9)


def test_an_option_that_there_is_not_is_told():
    with pytest.raises(ModelError, match="`interaction` of a joint extraction head"):
        model(interaction="cross")


@pytest.mark.parametrize("interaction", ["partition", "cls_cross"])
@torch.no_grad()
def test_table_heads_are_those_of_the_equations(interaction: str):
    made, given = model(interaction=interaction, heads="table"), batch()
    made.entity_head.cells.bias += 1.0
    out, hidden = made(**given), states(made, given)
    for i, (starts, ends, entities, pieces) in enumerate(PIECES):
        E, R, e, r = reference.tasks(made, hidden[i, :pieces])
        loss, there = 0.0, out.span_words[i][out.span_valid[i]].tolist()
        for place, (a, b) in zip(out.span_valid[i].nonzero()[:, 0], there, strict=True):
            x = reference.table(made.entity_head, E[starts[a]], E[ends[b - 1] - 1], e)
            assert torch.allclose(out.entity_logits[i, place, 1:], x, rtol=0, atol=1e-6)
            kind = TYPES[i][entities.index((a, b))] if (a, b) in entities else 0
            y = torch.tensor([float(kind == 1), float(kind == 2)])
            loss -= (y * x.sigmoid().log() + (1 - y) * (1 - x.sigmoid()).log()).sum()
        related = {(entities[h][0], entities[t][0], q) for h, t, q in RELATED[i]}
        for a in range(len(starts)):
            for b in range(len(starts)):
                x = reference.table(made.relation_head, R[starts[a]], R[starts[b]], r)
                assert torch.allclose(out.pair_logits[i, a, b], x, rtol=0, atol=1e-6)
                y = torch.tensor([float((a, b, q) in related) for q in range(2)])
                loss -= (y * x.sigmoid().log() + (1 - y) * (1 - x.sigmoid()).log()).sum()
        assert torch.allclose(out.row_loss[i], loss / len(starts), rtol=0, atol=1e-6)
    found = out.found_words[0][out.found_words[0, :, 0] >= 0].tolist()
    short = out.span_words[0].diff()[:, 0] <= made.options.max_span_size
    likely = out.entity_logits[0, :, 1:].sigmoid().amax(-1) * out.span_valid[0] * short
    assert len(found) == int((likely > 0.5).sum()) > 0
    for n, (a, _) in enumerate(found):
        for m, (b, _) in enumerate(found):
            expected = out.pair_logits[0, a, b].sigmoid() if n != m else torch.zeros(2).double()
            assert torch.allclose(out.found_pairs[0, n, m], expected, atol=1e-9)
    alone = made(**row(given, 1, 5, 3))
    assert torch.allclose(alone.row_loss[0], out.row_loss[1], atol=1e-9)
