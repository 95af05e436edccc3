"""Outputs of a frozen model, stored and trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
)

from luthier.errors import WorkspaceError
from luthier.training.trunk.cache import Features, TrunkCache, cached_features, head_split, read_fields
from luthier.training.trunk.split_point import replayed
from tests.rounding import assert_same

SHAPE = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "num_labels": 3,
    "pad_token_id": 0,
}
LENGTHS = [5, 9, 3, 7, 6]


def model_of(kind: str = "bert", **options: Any) -> Any:
    torch.manual_seed(0)
    shape = {**SHAPE, **options, "num_labels": 2 if kind == "answers" else 3}
    if kind == "llama":
        return LlamaForSequenceClassification(LlamaConfig(**shape, num_key_value_heads=2)).eval()
    if kind == "roberta":
        return RobertaForSequenceClassification(RobertaConfig(**shape)).eval()
    heads = {
        "bert": BertForSequenceClassification,
        "pooler": BertForSequenceClassification,
        "tokens": BertForTokenClassification,
        "answers": BertForQuestionAnswering,
        "top": BertForSequenceClassification,
    }
    return heads[kind](BertConfig(**shape)).eval()


def with_trained_head(kind: str, **options: Any) -> tuple[Any, str]:
    model = model_of(kind, **options)
    model.base_model.requires_grad_(False)
    if kind == "pooler":
        model.bert.pooler.requires_grad_(True)
    if kind == "top":
        model.bert.encoder.layer[2].requires_grad_(True)
        return model, "bert.encoder.layer.1"
    return model, head_split(model)


def rows(lengths: list[int] = LENGTHS) -> list[dict[str, Any]]:
    return [
        {"input_ids": torch.randint(1, 50, (n,), generator=torch.Generator().manual_seed(i)).tolist(), "row": i}
        for i, n in enumerate(lengths)
    ]


def collate(some: Any) -> dict[str, torch.Tensor]:
    width = max(len(row["input_ids"]) for row in some)
    ids = torch.tensor([row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in some])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "row": torch.tensor([r["row"] for r in some])}


def labels_for(kind: str, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if kind == "tokens":
        return {"labels": torch.where(batch["attention_mask"].bool(), batch["input_ids"] % 3, -100)}
    return {"labels": batch["row"] % 3}


KINDS = ["bert", "pooler", "roberta", "tokens", "llama", "top"]


@pytest.mark.parametrize("kind", KINDS)
def test_training_on_features_is_training_without_them(kind: str, tmp_path: Path):
    losses, weights = [], []
    for cached in (False, True):
        model, split = with_trained_head(kind, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        model.train()
        data = rows()
        if cached:
            features = cached_features(model, split, data, 3, cache=TrunkCache(tmp_path), collator=collate)
            layer = getattr(model.base_model, "encoder", model.base_model)
            (layer.layer if hasattr(layer, "layer") else layer.layers)[0].register_forward_hook(_fail)
        optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
        found = []
        for _ in range(3):
            for place in (range(3), range(3, 5)):
                batch = collate([data[i] for i in place])
                batch |= labels_for(kind, batch)
                if cached:
                    loss = on_features(model, split, features, place, batch).loss
                else:
                    batch.pop("row")
                    loss = model(**batch).loss
                loss.backward()
                optimiser.step()
                optimiser.zero_grad()
                found.append(loss.item())
        losses.append(found)
        weights.append([p.detach().clone() for p in model.parameters() if p.requires_grad])
    assert_same(torch.tensor(losses[1]), torch.tensor(losses[0]))
    assert losses[0][0] != losses[0][-2]
    for without, cached in zip(*weights, strict=True):
        assert_same(cached, without)


def on_features(model: Any, split: str, features: Any, place: Any, batch: dict[str, Any]) -> Any:
    values = features.batch(list(place), batch["attention_mask"])
    with replayed(model, split, values, batch["attention_mask"]):
        return model(**{k: v for k, v in batch.items() if k != "row"})


def _fail(module: Any, args: Any, output: Any) -> None:
    if output is not args[0]:
        raise AssertionError("a frozen layer was run")


@pytest.mark.parametrize(
    ("kind", "name", "form"),
    [
        ("bert", "pooler_output", "row"),
        ("pooler", "last_hidden_state", "first"),
        ("roberta", "last_hidden_state", "first"),
        ("tokens", "last_hidden_state", "tokens"),
        ("top", "", "tokens"),
    ],
)
def test_only_what_is_read_is_stored(kind: str, name: str, form: str):
    model, split = with_trained_head(kind)
    (field,) = read_fields(model, split, collate(rows()))
    assert (field.name, field.form, field.width) == (name, form, 16)


def test_other_batches_agree_to_rounding(tmp_path: Path):
    model, split = with_trained_head("tokens")
    features = cached_features(model, split, rows(), 2, cache=TrunkCache(tmp_path), collator=collate)
    place = [4, 0, 1]
    batch = collate([rows()[i] for i in place])
    got = on_features(model, split, features, place, batch).logits
    batch.pop("row")
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(got[real], model(**batch).logits[real], rtol=1e-4, atol=1e-5)


def test_bfloat16_halves_the_size(tmp_path: Path):
    model, split = with_trained_head("tokens")
    sizes = []
    for dtype in ("float32", "bfloat16"):
        features = cached_features(
            model, split, rows([30] * 30), 8, cache=TrunkCache(tmp_path), collator=collate, dtype=dtype
        )
        sizes.append((features.folder / "0.npy").stat().st_size)
        got = features.batch([0, 1], torch.ones(2, 30))["last_hidden_state"]
        wanted = model.bert(torch.tensor([r["input_ids"] for r in rows([30, 30])])).last_hidden_state
        torch.testing.assert_close(got, wanted, rtol=2e-2, atol=2e-2)
    assert sizes[1] < 0.52 * sizes[0]


def test_the_frozen_part_runs_without_dropout(tmp_path: Path):
    model, split = with_trained_head("bert", hidden_dropout_prob=0.5)
    model.train()
    a, b = (
        cached_features(model, split, rows(), 2, cache=TrunkCache(tmp_path / name), collator=collate) for name in "ab"
    )
    mask = torch.ones(5, 9)
    assert torch.equal(a.batch(range(5), mask)["pooler_output"], b.batch(range(5), mask)["pooler_output"])
    assert model.bert.encoder.layer[0].training


def test_features_are_found_by_content(tmp_path: Path):
    cache, passes = TrunkCache(tmp_path), []

    def computed(model: Any, data: Any = None, **options: Any) -> bool:
        """Whether more was run than the batch that shows what is read."""
        passes.clear()
        handle = model.bert.encoder.layer[0].register_forward_hook(lambda *_: passes.append(1))
        cached_features(
            model,
            head_split(model),
            data or rows(),
            options.pop("batch_size", 2),
            cache=cache,
            collator=collate,
            **options,
        )
        handle.remove()
        return len(passes) > 1

    model = with_trained_head("bert")[0]
    assert computed(model)
    assert not computed(model)
    with torch.no_grad():
        model.classifier.weight.add_(1)
    assert not computed(model)
    assert computed(model, dtype="bfloat16")
    assert computed(model, rows(LENGTHS[:3]))
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.bias[0] += 1
    assert computed(model)


def test_a_head_finds_no_features_of_one_that_reads_less(tmp_path: Path):
    by_first, split = with_trained_head("roberta")
    by_tokens = RobertaForTokenClassification(by_first.config).eval()
    by_tokens.roberta.load_state_dict(by_first.roberta.state_dict())
    by_tokens.roberta.requires_grad_(False)
    found = [
        cached_features(model, split, rows(), 5, cache=TrunkCache(tmp_path), collator=collate)
        for model in (by_first, by_tokens, by_first)
    ]
    assert [features.fields[0].form for features in found] == ["first", "tokens", "first"]
    assert found[0].folder == found[2].folder
    order = [1, 3, 4, 0, 2]
    batch = collate([rows()[i] for i in order])
    got = on_features(by_tokens, split, found[1], order, batch).logits
    assert_same(got[batch["attention_mask"].bool()], whole(by_tokens, batch)[batch["attention_mask"].bool()])


def whole(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path):
    import os

    model, split = with_trained_head("tokens")
    sets = [rows([20] * n) for n in (8, 9, 10)]
    first = cached_features(model, split, sets[0], 4, cache=TrunkCache(tmp_path), collator=collate)
    second = cached_features(model, split, sets[1], 4, cache=TrunkCache(tmp_path), collator=collate)
    os.utime(second.folder, (1, 1))
    cache = TrunkCache(tmp_path, max_bytes=TrunkCache(tmp_path).size() + 4000)
    cached_features(model, split, sets[2], 4, cache=cache, collator=collate)
    assert first.folder.exists()
    assert not second.folder.exists()
    assert cache.size() <= cache.max_bytes
    with pytest.raises(WorkspaceError, match="may hold 100"):
        cached_features(model, split, sets[1], 4, cache=TrunkCache(tmp_path, max_bytes=100), collator=collate)


@pytest.mark.parametrize("name", ["about.json", "0.npy", "offsets.npy"])
def test_damaged_features_are_computed_again(name: str, tmp_path: Path):
    model, split = with_trained_head("bert")
    features = cached_features(model, split, rows(), 2, cache=TrunkCache(tmp_path), collator=collate)
    wanted = features.batch([1], torch.ones(1, 9))["pooler_output"]
    file = features.folder / name
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match="holds no features"):
        Features(features.folder)
    again = cached_features(model, split, rows(), 2, cache=TrunkCache(tmp_path), collator=collate)
    assert torch.equal(again.batch([1], torch.ones(1, 9))["pooler_output"], wanted)


def test_a_split_above_something_trained_is_refused(tmp_path: Path):
    model = model_of("bert")
    with pytest.raises(ValueError, match="name the split point"):
        head_split(model)
    with pytest.raises(ValueError, match="a trained parameter runs before"):
        cached_features(model, "bert.encoder", rows(), cache=TrunkCache(tmp_path), collator=collate)
    answers, split = with_trained_head("answers")
    with pytest.raises(ValueError, match="scored against padding"):
        cached_features(answers, split, rows(), cache=TrunkCache(tmp_path), collator=collate)
    with pytest.raises(ValueError, match="has no task head"):
        head_split(model.bert)
    assert not list(tmp_path.iterdir())
