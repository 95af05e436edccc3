"""Fixed representations of a frozen encoder and the prefixes of tasks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model
from transformers import AutoModel, AutoTokenizer

from luthier.errors import DataError, ModelError
from luthier.models.artifacts import load_model, save_artifact
from luthier.models.card import describe
from luthier.models.loading import load_tokenizer
from luthier.representing import TaskPrefixConfig, activate_prefixes, fold_task_prefix
from luthier.tuning import SharedEncoder
from tests.representing.models import PAIRS, TEXTS, saved_model, with_prefix

CLOSE = {"rtol": 0, "atol": 1e-6}
EXACT = {"rtol": 0, "atol": 1e-12}


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return saved_model(tmp_path_factory.mktemp("models") / "bert")


def encoder_of(bert: Path, tasks: str = "abc", double: bool = True, **how: Any) -> SharedEncoder:
    """Prefixes a and b have one length, c another."""
    encoder = SharedEncoder(str(bert), **how)
    for task in tasks:
        encoder.add(task, with_prefix(bert, seed=ord(task), prefix_length=3 if task in "ab" else 2))
    if double:
        encoder.base.model.double()
    return encoder


def pooled(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    if pooling == "mean":
        return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return hidden[:, 0] if pooling == "first" else hidden[torch.arange(len(mask)), mask.sum(1) - 1]


@torch.no_grad()
def by_hand(model: Any, bert: Path, texts: list[Any], pooling: str) -> np.ndarray:
    """One text at a time, so that nothing is padded."""
    tokenizer = AutoTokenizer.from_pretrained(bert)
    found = []
    for text in texts:
        batch = tokenizer(*([text] if isinstance(text, str) else text), return_tensors="pt")
        found.append(pooled(model(**batch).last_hidden_state, batch["attention_mask"], pooling))
    return torch.cat(found).numpy()


@pytest.mark.parametrize("pooling", ["first", "mean", "last"])
@pytest.mark.parametrize("texts", [TEXTS, PAIRS], ids=["texts", "pairs"])
def test_without_prefixes_it_is_the_base(bert: Path, pooling: str, texts: Any) -> None:
    wanted = by_hand(AutoModel.from_pretrained(bert).eval(), bert, texts, pooling)
    for combine in ("joint", "mean", "concat"):
        encoder = SharedEncoder(str(bert), combine=combine, pooling=pooling)
        np.testing.assert_allclose(encoder.encode(texts, batch_size=3), wanted, **CLOSE)
        assert (encoder.width, encoder.passes) == (32, 1)


def test_one_prefix_is_what_peft_computes(bert: Path) -> None:
    model = with_prefix(bert, seed=97, prefix_length=3)
    wanted = by_hand(model, bert, TEXTS, "first")
    for combine in ("joint", "mean", "concat"):
        found = encoder_of(bert, "a", double=False, combine=combine).encode(TEXTS)
        np.testing.assert_allclose(found, wanted, **CLOSE)
    assert np.abs(wanted - by_hand(AutoModel.from_pretrained(bert).eval(), bert, TEXTS, "first")).max() > 0.1


def test_joint_is_several_adapters_at_once(bert: Path) -> None:
    model = get_peft_model(load_model(str(bert), "encoder"), TaskPrefixConfig(prefix_length=3), adapter_name="a")
    for task, length in (("b", 3), ("c", 2)):
        model.add_adapter(task, TaskPrefixConfig(prefix_length=length))
    encoder = SharedEncoder(str(bert))
    torch.manual_seed(3)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "task_prefix_parts" in name:
                p.normal_()
    for task, weight in (("c", 0.4), ("b", 1.0), ("a", 3.0)):
        model.set_adapter(task)
        model.peft_config[task].weight = weight
        encoder.add(task, model)
    activate_prefixes(model, ["a", "b", "c"])
    assert dict(encoder.weights) == {"a": 3.0, "b": 1.0, "c": 0.4}
    encoder.base.model.double()
    wanted = by_hand(model.double().eval(), bert, TEXTS, "first")
    np.testing.assert_allclose(encoder.encode(TEXTS, dtype="float64"), wanted, **EXACT)


def test_the_three_ways_of_combining(bert: Path) -> None:
    single = {task: encoder_of(bert, task).encode(TEXTS, dtype="float64") for task in "abc"}
    encoder = encoder_of(bert, "abc", combine="mean")
    mean = encoder.encode(TEXTS, dtype="float64")
    np.testing.assert_allclose(mean, sum(single.values()) / 3, **EXACT)
    encoder.set_weight("b", 2.0)
    encoder.set_weight("c", 0.5)
    weighted = (single["a"] + 2 * single["b"] + 0.5 * single["c"]) / 3.5
    np.testing.assert_allclose(encoder.encode(TEXTS, dtype="float64"), weighted, **EXACT)
    encoder.configure(combine="concat")
    blocks = np.concatenate([single["a"], 2 * single["b"], 0.5 * single["c"]], axis=1)
    np.testing.assert_allclose(encoder.encode(TEXTS, dtype="float64"), blocks, **EXACT)
    assert (encoder.width, encoder.passes) == (96, 3)
    encoder.configure(normalise=True)
    lengths = np.linalg.norm(encoder.encode(TEXTS, dtype="float64").reshape(len(TEXTS), 3, 32), axis=-1)
    np.testing.assert_allclose(lengths, np.tile([1, 2, 0.5], (len(TEXTS), 1)), **EXACT)
    encoder.configure(combine="joint", normalise=False)
    assert encoder.passes == 1
    assert np.abs(encoder.encode(TEXTS, dtype="float64") - mean).max() > 0.01


@pytest.mark.parametrize("combine", ["mean", "concat"])
def test_passes_in_one_batch_equal_passes_in_turn(bert: Path, combine: Any) -> None:
    encoder = encoder_of(bert, "abc", combine=combine)
    calls: list[int] = []
    encoder.base.model.encoder.layer[0].register_forward_hook(lambda _m, args, _o: calls.append(len(args[0])))
    together = encoder.encode(PAIRS, dtype="float64")
    assert sorted(calls) == [3, 6]  # a and b are of one form
    calls.clear()
    np.testing.assert_allclose(encoder.encode(PAIRS, dtype="float64", batched=False), together, **EXACT)
    assert calls == [3, 3, 3]


@pytest.mark.parametrize("combine", ["joint", "mean", "concat"])
def test_neither_batch_nor_padding_nor_order_matter(bert: Path, combine: Any) -> None:
    encoder = encoder_of(bert, "abc", combine=combine)
    wanted = encoder.encode(TEXTS, batch_size=1, dtype="float64")
    for texts, order in ((TEXTS, range(len(TEXTS))), (TEXTS[::-1], range(len(TEXTS))[::-1]), ([TEXTS[3]], [3])):
        for size in (2, 64):
            found = encoder.encode(texts, batch_size=size, dtype="float64")
            np.testing.assert_allclose(found, wanted[list(order)], **EXACT)


def test_dropout_never_acts(bert: Path) -> None:
    encoder = encoder_of(bert, "ab", double=False)
    wanted = encoder.encode(TEXTS)
    encoder.base.model.train()
    assert np.array_equal(encoder.encode(TEXTS), wanted)
    assert encoder.base.model.training


@pytest.mark.parametrize("combine", ["joint", "mean", "concat"])
def test_weight_zero_is_removed_and_removing_restores(bert: Path, combine: Any) -> None:
    encoder = encoder_of(bert, "ac", double=False, combine=combine)
    before, fingerprint = encoder.encode(TEXTS), encoder.fingerprint
    encoder.add("b", with_prefix(bert, seed=5))
    added = encoder.encode(TEXTS)
    assert added.shape != before.shape or np.abs(added - before).max() > 1e-3
    assert encoder.fingerprint != fingerprint
    encoder.set_weight("b", 0.0)
    assert np.array_equal(encoder.encode(TEXTS), before)
    assert encoder.fingerprint == fingerprint
    encoder.set_weight("b", 1.0)
    encoder.remove("b")
    assert np.array_equal(encoder.encode(TEXTS), before)
    assert encoder.fingerprint == fingerprint
    encoder.replace("c", with_prefix(bert, seed=6))
    assert encoder.fingerprint != fingerprint
    assert np.abs(encoder.encode(TEXTS) - before).max() > 1e-3
    encoder.replace("c", with_prefix(bert, seed=ord("c"), prefix_length=2))
    assert np.array_equal(encoder.encode(TEXTS), before)


def test_the_order_of_adding_changes_no_bit(bert: Path) -> None:
    one, other = encoder_of(bert, "abc", double=False), encoder_of(bert, "cab", double=False)
    for combine in ("joint", "mean", "concat"):
        one.configure(combine=combine)
        other.configure(combine=combine)
        assert one.fingerprint == other.fingerprint
        assert np.array_equal(one.encode(TEXTS), other.encode(TEXTS))


def test_a_fingerprint_stands_for_the_vectors(bert: Path, tmp_path: Path) -> None:
    encoder = encoder_of(bert, "ab", double=False)
    known = {encoder.fingerprint}
    for change in ({"combine": "mean"}, {"pooling": "mean"}, {"normalise": True}, {"max_length": 7}):
        encoder.configure(**change)
        known.add(encoder.fingerprint)
    encoder.set_weight("a", 2.0)
    known.add(encoder.fingerprint)
    encoder.base.model.double()
    known.add(encoder.fingerprint)
    known.add(SharedEncoder(str(saved_model(tmp_path / "other", hidden_act="relu"))).fingerprint)
    assert len(known) == 8


def test_the_mass_that_prefixes_take(bert: Path) -> None:
    encoder = encoder_of(bert, "ab", double=False)
    encoder.add("top", with_prefix(bert, seed=8, prefix_length=4, layers=[1]))
    encoder.base.model.double()
    mass = encoder.prefix_mass(TEXTS, batch_size=2)
    assert list(mass) == ["a", "b", "top"]
    assert all(share.shape == (2,) for share in mass.values())
    assert mass["top"][0] == 0 < mass["top"][1]
    assert 0.1 < sum(mass.values()).max() < 1
    for size in (1, 64):
        again = encoder.prefix_mass(TEXTS, batch_size=size)
        for task, share in mass.items():
            np.testing.assert_allclose(again[task], share, **EXACT)
    encoder.set_weight("top", 1e6)
    assert encoder.prefix_mass(TEXTS)["top"][1] > 0.999
    encoder.set_weight("top", 0)
    assert list(encoder.prefix_mass(TEXTS)) == ["a", "b"]
    encoder.configure(combine="mean")
    alone = encoder_of(bert, "a").prefix_mass(TEXTS)["a"]
    np.testing.assert_allclose(encoder.prefix_mass(TEXTS)["a"], alone, **EXACT)
    assert (alone > mass["a"]).any()
    assert SharedEncoder(str(bert)).prefix_mass(TEXTS) == {}


def test_the_mass_equals_that_of_eager_attention(bert: Path) -> None:
    model = with_prefix(bert, seed=97, prefix_length=3).double()
    model.get_base_model().set_attn_implementation("eager")
    tokenizer = AutoTokenizer.from_pretrained(bert)
    taken, tokens = torch.zeros(2, dtype=torch.float64), 0
    with torch.no_grad():
        for text in TEXTS:
            batch = tokenizer(text, return_tensors="pt")
            attentions = model(**batch, output_attentions=True).attentions
            taken += torch.stack([a[..., :3].sum(-1).mean(1).sum() for a in attentions])
            tokens += batch["input_ids"].shape[1]
    np.testing.assert_allclose(encoder_of(bert, "a").prefix_mass(TEXTS)["a"], (taken / tokens).numpy(), **EXACT)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_decoders_and_encoder_decoders(kind: str, tmp_path: Path) -> None:
    folder = saved_model(tmp_path / kind, kind)
    encoder = SharedEncoder(str(folder), combine="mean")
    assert encoder.pooling == {"llama": "last", "t5": "mean"}[kind]
    bare = encoder.encode(TEXTS)
    if kind == "llama":
        encoder.add("a", with_prefix(folder, seed=1, task_type="FEATURE_EXTRACTION"))
    else:
        encoder.add("a", with_prefix(folder, seed=1, sites=["encoder", "cross"]))
        with pytest.raises(ModelError, match="in the decoder alone"):
            encoder.add("b", with_prefix(folder, seed=1, sites=["cross"]))
    found = encoder.encode(TEXTS, batch_size=4)
    assert np.abs(found - bare).max() > 1e-2
    np.testing.assert_allclose(encoder.encode(TEXTS, batch_size=1), found, rtol=0, atol=1e-5)
    assert len(encoder.prefix_mass(TEXTS)["a"]) == 2


def saved_tune(model: Any, bert: Path, folder: Path) -> Path:
    head = "sequence_classification"
    return save_artifact(model, load_tokenizer(str(bert)), folder, describe(str(bert), head, schema="single_sentence"))


def test_a_prefix_comes_from_a_folder_a_file_or_a_model(bert: Path, tmp_path: Path) -> None:
    model = with_prefix(bert, 4, head="sequence_classification", task_type="SEQ_CLS", projection=True, weight=0.5)
    folder = saved_tune(model, bert, tmp_path / "tuned")
    encoder = SharedEncoder(str(bert))
    encoder.add("model", model)
    encoder.add("folder", folder)
    encoder.save(tmp_path / "encoder")
    encoder.add("file", tmp_path / "encoder" / "prefixes" / "folder.safetensors")
    encoder.add("folded", fold_task_prefix(copy.deepcopy(model)))
    digests = {prefix.digest for prefix in encoder.prefixes.values()}
    assert len(digests) == 1
    assert dict(encoder.weights) == {"file": 1.0, "folded": 0.5, "folder": 0.5, "model": 0.5}
    assert encoder.prefixes["file"].length == 5


def test_saving_and_loading(bert: Path, tmp_path: Path) -> None:
    encoder = encoder_of(bert, "ab", double=False, combine="mean", pooling="mean", normalise=True, max_length=9)
    encoder.set_weight("a", 0.25)
    folder = encoder.save(tmp_path / "run" / "model")
    prefixes = {path.name: path.read_bytes() for path in (folder / "prefixes").iterdir()}
    assert sorted(prefixes) == ["a.safetensors", "b.safetensors"]
    assert max(map(len, prefixes.values())) < 5000
    for place in (folder, tmp_path / "run"):
        loaded = SharedEncoder.load(place)
        assert loaded.fingerprint == encoder.fingerprint
        assert np.array_equal(loaded.encode(TEXTS), encoder.encode(TEXTS))
    loaded.add("c", with_prefix(bert, seed=9))
    loaded.replace("b", with_prefix(bert, seed=10))
    loaded.save(folder)
    assert (folder / "prefixes" / "a.safetensors").read_bytes() == prefixes["a.safetensors"]
    assert (folder / "prefixes" / "b.safetensors").read_bytes() != prefixes["b.safetensors"]
    loaded.remove("c")
    loaded.save(folder)
    assert {path.name for path in (folder / "prefixes").iterdir()} == set(prefixes)
    moved = saved_model(tmp_path / "moved")
    assert SharedEncoder.load(folder, base=str(moved)).fingerprint == loaded.fingerprint


@pytest.mark.parametrize("file", ["prefixes/a.safetensors", "shared_encoder.json", "luthier.json"])
def test_a_flipped_byte_is_refused(bert: Path, tmp_path: Path, file: str) -> None:
    path = encoder_of(bert, "a", double=False).save(tmp_path / "encoder") / file
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="does not match its SHA-256"):
        SharedEncoder.load(tmp_path / "encoder")


def test_a_flipped_byte_in_a_lone_prefix_is_refused(bert: Path, tmp_path: Path) -> None:
    path = encoder_of(bert, "a", double=False).save(tmp_path / "encoder") / "prefixes" / "a.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ModelError, match="does not match the SHA-256 in its header"):
        SharedEncoder(str(bert)).add("a", path)


def test_another_base_is_refused(bert: Path, tmp_path: Path) -> None:
    other = saved_model(tmp_path / "other", hidden_act="relu")
    wider = saved_model(tmp_path / "wider", num_hidden_layers=3)
    model = with_prefix(bert, 4, head="sequence_classification", task_type="SEQ_CLS")
    tuned = saved_tune(model, bert, tmp_path / "tuned")
    encoder = encoder_of(bert, "a", double=False)
    folder = encoder.save(tmp_path / "encoder")
    with pytest.raises(ModelError, match="for another base"):
        SharedEncoder.load(folder, base=str(other))
    for place in (tuned, folder / "prefixes" / "a.safetensors"):
        with pytest.raises(ModelError, match="for another base"):
            SharedEncoder(str(other)).add("a", place)
    with pytest.raises(ModelError, match="for another base"):
        SharedEncoder(str(wider)).add("a", model)
    with pytest.raises(ModelError, match="for another base"):
        encoder.add("b", with_prefix(bert, 4, head="encoder").to(torch.bfloat16))


def test_what_holds_no_prefix_is_refused(bert: Path, tmp_path: Path) -> None:
    from peft import LoraConfig

    encoder = encoder_of(bert, "a", double=False)
    lora = get_peft_model(load_model(str(bert), "encoder"), LoraConfig(target_modules=["query"]))
    plain = saved_model(tmp_path / "plain")
    for source in (lora, load_model(str(bert), "encoder"), plain, plain / "model.safetensors", tmp_path / "nowhere"):
        with pytest.raises(ModelError):
            encoder.add("b", source)
    card = describe(str(bert), "encoder")
    with pytest.raises(ModelError, match="kind LORA"):
        encoder.add("b", save_artifact(lora, load_tokenizer(str(bert)), tmp_path / "lora", card))
    with pytest.raises(ModelError, match="no shared encoder"):
        SharedEncoder.load(plain)
    assert list(encoder.prefixes) == ["a"]


def test_mistakes_are_named(bert: Path) -> None:
    encoder = encoder_of(bert, "a", double=False)
    model = with_prefix(bert, seed=1)
    with pytest.raises(ModelError, match="there is a task 'a' already"):
        encoder.add("a", model)
    with pytest.raises(ModelError, match="can't be the name"):
        encoder.add("../a", model)
    with pytest.raises(ModelError, match="there is no task 'sentiment'"):
        encoder.remove("sentiment")
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight"):
            encoder.set_weight("a", weight)
    with pytest.raises(ValueError, match="combine is 'sum'"):
        encoder.configure(combine="sum")
    with pytest.raises(ModelError, match="max_length is 65"):
        encoder.configure(max_length=65)
    for texts, message in ((["good", 3], "text 2 is 3"), ([("a", "b"), "c"], "text 2")):
        with pytest.raises(DataError, match=message):
            encoder.encode(texts)
    with pytest.raises(ValueError, match="dtype"):
        encoder.encode(TEXTS, dtype="int8")


def test_long_texts_are_cut_with_a_word_or_refused(bert: Path, caplog: Any) -> None:
    encoder = encoder_of(bert, "a", max_length=5)
    found = encoder.encode(["very " * 9, "very very very"], dtype="float64")
    np.testing.assert_allclose(found[0], found[1], **EXACT)
    assert "1 of 2 rows were cut to 5 tokens" in caplog.text
    with pytest.raises(DataError, match="longer than 5 tokens"):
        encoder.encode(["very " * 9], too_long="error")


def test_no_texts_give_no_vectors(bert: Path) -> None:
    assert encoder_of(bert, "ab", combine="concat").encode([]).shape == (0, 64)


def test_a_single_string_is_one_text_and_one_name(bert: Path, tmp_path: Path):
    from luthier.representing.store import RepresentationStore

    encoder, text = encoder_of(bert), TEXTS[0]
    wanted = encoder.encode([text])
    assert wanted.shape == (1, encoder.width)
    assert np.array_equal(encoder.encode(text), wanted)
    assert np.array_equal(RepresentationStore(tmp_path).vectors(encoder, text), wanted)
    ((places, vectors),) = encoder.batches(text)
    assert places.tolist() == [0]
    assert np.array_equal(vectors.float().numpy(), wanted)
    assert {task: mass.shape for task, mass in encoder.prefix_mass(text).items()}.keys() == set("abc")
    encoder.fit_head("tone", list(TEXTS), ["a", "b"] * (len(TEXTS) // 2) + ["a"] * (len(TEXTS) % 2))
    assert encoder.predict(text)["tone"].labels == encoder.predict([text], heads=["tone"])["tone"].labels
    assert list(encoder.predict(text, heads="tone")) == ["tone"]
