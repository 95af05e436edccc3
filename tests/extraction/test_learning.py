"""What a sentence is trained on, and that its draw depends on nothing but itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from luthier.extraction.spans import candidates, drawn, marked
from tests.extraction.small import batch, model, row


def test_a_draw_is_uniform_without_replacement_and_of_what_is_allowed():
    allowed = torch.ones(4000, 10, dtype=torch.bool)
    allowed[:, 3] = False
    found = drawn(allowed, torch.arange(10), torch.randint(1 << 62, (4000,)), 4)
    assert (found.sum(1) == 4).all()
    assert not found[:, 3].any()
    shares = found.double().mean(0)
    assert torch.allclose(shares[allowed[0]], torch.full((9,), 4 / 9, dtype=torch.float64), atol=0.035)
    together = (found[:, 0] & found[:, 1]).double().mean().item()
    assert together == pytest.approx(4 / 9 * 3 / 8, abs=0.03)


def test_a_draw_takes_all_where_there_are_fewer_and_depends_on_seed_and_numbers_alone():
    allowed = torch.tensor([[True, False, True, True, False, False]])
    assert torch.equal(drawn(allowed, torch.arange(6), torch.tensor([5]), 4), allowed)
    assert not drawn(allowed, torch.arange(6), torch.tensor([5]), 0).any()
    wide = torch.ones(2, 50, dtype=torch.bool)
    both = drawn(wide, torch.arange(50), torch.tensor([7, 8]), 10)
    alone = drawn(torch.nn.functional.pad(wide[1:], (0, 9)), torch.arange(59), torch.tensor([8]), 10)
    assert torch.equal(both[1], alone[0, :50])
    assert not torch.equal(both[0], both[1])


def test_annotated_spans_have_their_place_even_beyond_the_limit():
    given = batch()
    spans, places = candidates(given["word_start"], given["word_end"], 3, given["entity_words"])
    for i, some in enumerate(places.tolist()):
        for place, words in zip(some, given["entity_words"][i].tolist(), strict=True):
            assert place == -1 or spans.words[i, place].tolist() == words
    assert (places >= 0).tolist() == [[True, True, True], [True, False, False]]
    assert marked(places, spans.valid.shape[1]).sum(1).tolist() == [3, 1]


def losses(made: Any, given: dict[str, torch.Tensor], seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    found: torch.Tensor = made(**given).row_loss
    return found


@pytest.mark.parametrize("train_pairs", ["gold", "predicted", "mixed"])
def test_negatives_are_drawn_anew_and_no_batch_changes_a_draw(train_pairs: str):
    options = {"negative_spans": 2, "negative_pairs": 1, "train_pairs": train_pairs}
    made, given = model(**options, head_dropout=0.0, attention_dropout=0.0).train(), batch()
    seen = {round(losses(made, given, seed)[0].item(), 9) for seed in range(12)}
    assert len(seen) > 4
    together = losses(made, given, 5)
    torch.manual_seed(5)
    apart = [made(**row(given, 0, 9, 5)).row_loss, made(**row(given, 1, 5, 3)).row_loss]
    assert torch.allclose(together, torch.cat(apart), atol=1e-10)


def test_without_a_limit_training_costs_what_evaluation_does():
    made, given = model(head_dropout=0.0, attention_dropout=0.0), batch()
    assert torch.allclose(made.train()(**given).row_loss, made.eval()(**given).row_loss, atol=1e-12)


def test_negatives_are_no_annotated_spans_and_no_related_pairs():
    made, given = model(negative_spans=0, negative_pairs=0, head_dropout=0.0, attention_dropout=0.0).train(), batch()
    out = made(**given)
    _, places = candidates(given["word_start"], given["word_end"], 3, given["entity_words"])
    entity = -out.entity_logits[0].log_softmax(-1)[places[0], given["entity_types"][0]].mean()
    targets = torch.zeros(3, 3, 2, dtype=torch.float64)
    for head, tail, kind in given["relations"][0].tolist():
        targets[head, tail, kind] = 1
    bce = torch.nn.functional.binary_cross_entropy_with_logits(out.pair_logits[0], targets, reduction="none").mean(-1)
    related = targets.any(-1)
    assert torch.allclose(out.row_loss[0], entity + bce[related].mean(), atol=1e-10)


def test_predicted_pairs_learn_relations_of_annotated_spans_alone():
    made, given = model(train_pairs="predicted", head_dropout=0.0, attention_dropout=0.0).train(), batch()
    with torch.no_grad():
        made.entity_head.linear.bias[0] -= 100.0  # every span is predicted
    predicted = made(**given)
    made.options = made.options.model_copy(update={"train_pairs": "gold"})
    gold = made(**given)
    assert predicted.pair_logits.shape[1] > gold.pair_logits.shape[1]
    assert predicted.row_loss[0] != gold.row_loss[0]
    made.options = made.options.model_copy(update={"train_pairs": "mixed"})
    assert made(**given).pair_logits.shape[1] >= predicted.pair_logits.shape[1]
