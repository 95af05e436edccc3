"""What Luthier saves: whole or not at all, loadable by others, and every changed byte found."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from tokenizers.models import BPE, Unigram, WordLevel, WordPiece
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from luthier.errors import ModelError, WorkspaceError
from luthier.methods.base import MethodContext
from luthier.models import artifacts, load
from luthier.models.artifacts import check_merges, load_artifact, load_model, save_artifact
from luthier.models.card import ModelCard, describe, read_card, write_card
from luthier.models.inspect import bytes_on_disk, parameter_counts
from luthier.models.loading import empty_model, load_config, load_tokenizer
from luthier.models.manifest import verify_manifest, write_manifest
from luthier.models.references import resolve
from luthier.models.settings import ModelSettings
from luthier.prediction import predict_texts
from luthier.prediction.loading import load_predictor
from luthier.registry import METHODS
from luthier.tasks.base import task_named

from .builders import bert_config, build_tokenizer, save_tiny

CLASSIFY = "sequence_classification"
ADAPTERS = {
    "lora": lambda: peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query"], init_lora_weights=False),
    "ia3": lambda: peft.IA3Config(
        task_type="SEQ_CLS", target_modules=["key"], feedforward_modules=[], init_ia3_weights=False
    ),
    "prompt": lambda: peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3),
    "p_tuning": lambda: peft.PromptEncoderConfig(task_type="SEQ_CLS", num_virtual_tokens=3, encoder_hidden_size=8),
    "prefix": lambda: peft.PrefixTuningConfig(
        task_type="SEQ_CLS", num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=8
    ),
}


def text(tokenizer: Any) -> Any:
    return tokenizer(["a good film", "the plot was very bad"], padding=True, return_tensors="pt")


def scores(model: Any, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**batch).logits


def assert_same(one: torch.Tensor, other: torch.Tensor, name: str) -> None:
    """Equal to the bit, but for a prefix, which is saved without the network that computed it."""
    if name == "prefix":
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-6)
    else:
        assert torch.equal(one, other)


def adapted(folder: Path, name: str = "lora") -> tuple[Any, Any, ModelCard]:
    base = load_model(str(folder), CLASSIFY, labels=["bad", "good"])
    torch.manual_seed(5)
    model = peft.get_peft_model(base, ADAPTERS[name]())
    return model, load_tokenizer(str(folder)), describe(str(folder), CLASSIFY, labels=["bad", "good"], schema="single")


@pytest.fixture
def saved(bert: Path, tmp_path: Path) -> Path:
    """A saved full model."""
    model = load_model(str(bert), CLASSIFY, labels=["bad", "good"])
    return save_artifact(model, load_tokenizer(str(bert)), tmp_path / "model", describe(str(bert), CLASSIFY))


def test_a_full_model_comes_back_equal_here_and_in_transformers(bert: Path, tmp_path: Path):
    model, tokenizer = load_model(str(bert), CLASSIFY, labels=["bad", "good"], seed=8), load_tokenizer(str(bert))
    card = describe(str(bert), CLASSIFY, labels=["bad", "good"], schema="single", metrics={"accuracy": 0.5})
    folder = save_artifact(model, tokenizer, tmp_path / "deep" / "model", card)
    batch = text(tokenizer)
    again, words, back = load_artifact(folder)
    stock = AutoModelForSequenceClassification.from_pretrained(folder)
    assert torch.equal(scores(again, batch), scores(model, batch))
    assert torch.equal(scores(stock, batch), scores(model, batch))
    for other in (words, AutoTokenizer.from_pretrained(folder)):
        assert text(other)["input_ids"].tolist() == batch["input_ids"].tolist()
    assert back == card
    assert stock.config.id2label == {0: "bad", 1: "good"}
    assert again.luthier_new_parameters == ()


@pytest.mark.parametrize("name", sorted(ADAPTERS))
@pytest.mark.parametrize("trainable", [False, True])
def test_an_adapter_comes_back_equal_and_trainable_where_asked(bert: Path, tmp_path: Path, name: str, trainable: bool):
    model, tokenizer, card = adapted(bert, name)
    folder = save_artifact(model, tokenizer, tmp_path / "adapter", card)
    batch = text(tokenizer)
    again, _, back = load_artifact(folder, trainable=trainable)
    assert_same(scores(again, batch), scores(model, batch), name)
    assert back == card
    assert not (folder / "config.json").exists()
    assert bytes_on_disk(folder) < bytes_on_disk(bert)
    if not trainable:
        assert parameter_counts(again)[0] == 0
        return
    again.train()(**batch, labels=torch.tensor([0, 1])).loss.backward()
    learning = {n for n, p in again.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any("classifier" in n for n in learning)
    assert any("lora_B" in n or "ia3" in n or "prompt_encoder" in n for n in learning)
    assert not any("word_embeddings" in n for n in learning)
    once_more = save_artifact(again, tokenizer, tmp_path / "again", card)
    assert_same(scores(load_artifact(once_more)[0], batch), scores(model, batch), name)


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_stock_peft_loads_a_saved_adapter(bert: Path, tmp_path: Path, name: str):
    model, tokenizer, card = adapted(bert, name)
    folder = save_artifact(model, tokenizer, tmp_path / "adapter", card)
    base = AutoModelForSequenceClassification.from_pretrained(bert, num_labels=2)
    stock = peft.PeftModel.from_pretrained(base, folder)
    assert_same(scores(stock, text(tokenizer)), scores(model, text(tokenizer)), name)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(bert)


def test_an_adapter_under_another_name_is_saved_the_same_way(bert: Path, tmp_path: Path):
    base = load_model(str(bert), CLASSIFY, num_labels=2)
    model = peft.get_peft_model(base, ADAPTERS["lora"](), adapter_name="mine")
    folder = save_artifact(model, load_tokenizer(str(bert)), tmp_path / "a", describe(str(bert), CLASSIFY))
    batch = text(load_tokenizer(str(bert)))
    assert torch.equal(scores(load_artifact(folder)[0], batch), scores(model, batch))


def test_labels_are_remembered_where_the_card_names_none(bert: Path, tmp_path: Path):
    base = load_model(str(bert), CLASSIFY, num_labels=5)
    model = peft.get_peft_model(base, ADAPTERS["lora"]())
    folder = save_artifact(model, load_tokenizer(str(bert)), tmp_path / "a", describe(str(bert), CLASSIFY))
    assert load_artifact(folder)[0].get_base_model().classifier.modules_to_save["default"].out_features == 5


def test_labels_of_a_card_keep_their_order(tmp_path: Path):
    """Of equally frequent ones the first is the constant answer that a model is held against."""
    shares = {"yes": 0.4, "no": 0.4, "maybe": 0.2}
    write_card(tmp_path, ModelCard(base="x", base_fingerprint="x", head=CLASSIFY, prior={"rows": 5, "shares": shares}))
    kept = read_card(tmp_path).prior
    assert list(kept["shares"]) == list(shares)
    assert task_named("single_sentence").told_prior(kept) == "always 'yes'"


def test_a_regression_head_comes_back(bert: Path, tmp_path: Path):
    model = peft.get_peft_model(load_model(str(bert), CLASSIFY, regression=True), ADAPTERS["lora"]())
    card = describe(str(bert), CLASSIFY, regression=True)
    folder = save_artifact(model, load_tokenizer(str(bert)), tmp_path / "a", card)
    again, tokenizer, _ = load_artifact(folder)
    assert torch.equal(scores(again, text(tokenizer)), scores(model, text(tokenizer)))
    assert again.config.problem_type == "regression"


def test_a_next_stage_starts_from_the_merged_adapter(bert: Path, tmp_path: Path):
    model, tokenizer, card = adapted(bert)
    folder = save_artifact(model, tokenizer, tmp_path / "adapter", card)
    merged = load_model(str(folder), CLASSIFY)
    assert type(merged).__name__ == "BertForSequenceClassification"
    assert all(p.requires_grad for p in merged.parameters())
    torch.testing.assert_close(scores(merged, text(tokenizer)), scores(model, text(tokenizer)))
    total = parameter_counts(merged)[1]
    chained = peft.get_peft_model(merged, ADAPTERS["prompt"]())
    second = save_artifact(chained, tokenizer, tmp_path / "second", describe(str(folder), CLASSIFY))
    assert torch.equal(scores(load_artifact(second)[0], text(tokenizer)), scores(chained, text(tokenizer)))
    assert load_config(str(second)).hidden_size == 32
    assert parameter_counts(empty_model(str(second), CLASSIFY))[1] == total


def test_an_attached_adapter_is_known_not_to_merge_before_it_is_loaded(bert: Path, tmp_path: Path):
    model, tokenizer, card = adapted(bert)
    attached = METHODS.get("bottleneck")().applied(model.unload(), MethodContext("SEQ_CLS"))
    folder = save_artifact(attached, tokenizer, tmp_path / "a", card)
    with pytest.raises(ModelError, match="BOTTLENECK adapter can't be merged"):
        check_merges(resolve(str(folder)))


def test_a_prompt_can_not_be_merged(bert: Path, tmp_path: Path):
    folder = save_artifact(*adapted(bert, "prompt")[:2], tmp_path / "a", adapted(bert, "prompt")[2])
    with pytest.raises(ModelError, match="PROMPT_TUNING adapter can't be merged") as caught:
        load_model(str(folder), CLASSIFY)
    assert str(bert) in caught.value.fix
    check_merges(resolve(str(save_artifact(*adapted(bert)[:2], tmp_path / "b", adapted(bert)[2]))))


@pytest.mark.parametrize(
    ("head", "options", "outputs"),
    [
        ("token_classification", {"labels": ["O", "B"]}, 2),
        (CLASSIFY, {"labels": ["a", "b", "c"]}, 3),
        (CLASSIFY, {"labels": ["sour", "sweet"]}, 2),
        (CLASSIFY, {"regression": True, "num_labels": 1}, 1),
    ],
)
@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_a_head_that_was_trained_for_something_else_starts_anew(
    bert: Path, tmp_path: Path, kind: str, head: str, options: dict[str, Any], outputs: int
):
    if kind == "adapter":
        model, tokenizer, card = adapted(bert)
        assert card.labels == ["bad", "good"]
    else:
        model = load_model(str(bert), CLASSIFY, labels=["bad", "good"], seed=8)
        tokenizer, card = load_tokenizer(str(bert)), describe(str(bert), CLASSIFY, labels=["bad", "good"])
    folder = save_artifact(model, tokenizer, tmp_path / "a", card)
    before = load_model(str(folder), CLASSIFY, labels=["bad", "good"])
    next_one = load_model(str(folder), head, seed=1, **options)
    again, other = (load_model(str(folder), head, seed=seed, **options) for seed in (1, 2))
    assert next_one.classifier.out_features == outputs
    assert set(next_one.luthier_new_parameters) >= {"classifier.bias", "classifier.weight"}
    assert torch.equal(next_one.classifier.weight, again.classifier.weight)
    assert not torch.equal(next_one.classifier.weight, other.classifier.weight)
    if outputs == 2:
        assert not torch.equal(next_one.classifier.weight, before.classifier.weight)
    body = before.bert.encoder.state_dict()
    assert all(torch.equal(value, body[name]) for name, value in next_one.bert.encoder.state_dict().items())


def test_load_takes_both_kinds_of_reference(bert: Path, saved: Path, tmp_path: Path):
    model, tokenizer, card = adapted(bert)
    adapter = save_artifact(model, tokenizer, tmp_path / "adapter", card)
    assert isinstance(load(str(adapter))[0], peft.PeftModel)
    assert type(load(str(saved))[0]).__name__ == "BertForSequenceClassification"
    assert type(load(str(bert))[0]).__name__ == "BertModel"


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_a_flipped_byte_in_any_file_is_found(bert: Path, tmp_path: Path, kind: str):
    if kind == "full":
        model, tokenizer = load_model(str(bert), CLASSIFY), load_tokenizer(str(bert))
        folder = save_artifact(model, tokenizer, tmp_path / "m", describe(str(bert), CLASSIFY))
    else:
        model, tokenizer, card = adapted(bert)
        folder = save_artifact(model, tokenizer, tmp_path / "m", card)
    names = sorted(path.name for path in folder.iterdir() if path.name != "manifest.json")
    assert len(names) >= 4
    for name in names:
        content = (folder / name).read_bytes()
        damaged = bytearray(content)
        damaged[-2] ^= 1
        (folder / name).write_bytes(damaged)
        for read in (load_artifact, load):
            with pytest.raises(ModelError, match=r"does not match its SHA-256 in manifest.json\n  fix: ") as caught:
                read(str(folder))
            assert caught.value.where == str(folder / name)
        (folder / name).write_bytes(content)
    load_artifact(folder)


def test_a_flipped_byte_is_found_when_a_stage_starts_from_the_model(saved: Path):
    weights = saved / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="does not match its SHA-256"):
        load_model(str(saved), CLASSIFY)


def test_missing_added_and_unlisted_files(saved: Path):
    (saved / "notes.txt").write_text("x")
    with pytest.raises(ModelError, match=r"notes\.txt: the file is not in manifest\.json"):
        verify_manifest(saved)
    (saved / "notes.txt").unlink()
    (saved / "config.json").rename(saved.parent / "config.json")
    with pytest.raises(ModelError, match=r"config\.json: the file is missing"):
        verify_manifest(saved)
    (saved / "manifest.json").unlink()
    with pytest.raises(ModelError, match="not saved to its end\n  fix: run the stage again"):
        load_artifact(saved)


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/passwd", "a/../../secret.txt"])
def test_a_manifest_that_names_files_elsewhere_is_refused(saved: Path, name: str):
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["sha256"][name] = "0" * 64
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="outside its folder\n  fix: do not use this folder") as caught:
        load_artifact(saved)
    assert name in caught.value.what


def test_an_adapter_for_another_base_is_refused(bert: Path, tmp_path: Path):
    model, tokenizer, card = adapted(bert)
    folder = save_artifact(model, tokenizer, tmp_path / "adapter", card)
    copy, other = tmp_path / "copy", tmp_path / "other"
    shutil.copytree(bert, copy)
    save_tiny(
        "BertModel", bert_config(hidden_act="relu"), other, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    moved, _, _ = load_artifact(folder, base=str(copy))
    assert torch.equal(scores(moved, text(tokenizer)), scores(model, text(tokenizer)))
    with pytest.raises(ModelError, match="adapter for another base") as caught:
        load_artifact(folder, base=str(other))
    assert str(bert) in caught.value.what
    assert str(other) in caught.value.what
    assert str(bert) in caught.value.fix
    assert caught.value.where == str(folder)


@pytest.mark.parametrize("changes", [{"use_dora": True}, {"target_modules": ["query", "value"]}])
def test_an_adapter_whose_file_lacks_what_its_configuration_names_is_refused(bert: Path, tmp_path: Path, changes):
    model, tokenizer, card = adapted(bert)
    folder = save_artifact(model, tokenizer, tmp_path / "adapter", card)
    place = folder / "adapter_config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | changes))
    write_manifest(folder)
    with pytest.raises(ModelError, match="weights that the adapter's configuration names are not in its file"):
        load_artifact(folder)


@pytest.mark.parametrize("limit", ["64", True, [64], {}])
def test_a_tokenizer_whose_limit_is_no_number_is_refused(bert: Path, limit: Any):
    place = bert / "tokenizer_config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"model_max_length": limit}))
    with pytest.raises(ModelError, match="`model_max_length` is"):
        load_tokenizer(str(bert))


CLOSED = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3}


@pytest.mark.parametrize(
    "model",
    [
        WordLevel(CLOSED, unk_token="[UNK]"),
        WordPiece(CLOSED, unk_token="[UNK]"),
        BPE(CLOSED, [], unk_token="[UNK]"),
        Unigram([(piece, -1.0) for piece in CLOSED], None),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_tokenizer_without_a_token_for_what_it_does_not_know_is_refused(bert: Path, model: Any):
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), pad_token="[PAD]").save_pretrained(bert)
    with pytest.raises(ModelError, match="can't cut letters that it does not know") as caught:
        load_tokenizer(str(bert))
    assert "name an unknown token" in str(caught.value)


def test_a_tokenizer_whose_parts_do_not_fit_is_refused(bert: Path):
    place = bert / "tokenizer.json"
    content = json.loads(place.read_text())
    content["post_processor"]["special_tokens"].pop("[SEP]")
    place.write_text(json.dumps(content))
    with pytest.raises(ModelError, match="the tokenizer can't be"):
        load_tokenizer(str(bert))


def test_an_adapter_whose_base_changed_or_went_away(bert: Path, tmp_path: Path):
    folder = save_artifact(*adapted(bert)[:2], tmp_path / "adapter", adapted(bert)[2])
    weights = bert / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="adapter for another base"):
        load_artifact(folder)
    shutil.rmtree(bert)
    with pytest.raises(ModelError, match=r"base .* is no longer there\n  fix: .*pass its new place as `base`"):
        load_artifact(folder)


def test_a_new_head_outside_the_adapter_is_not_lost_in_silence(bert: Path, tmp_path: Path):
    base = load_model(str(bert), CLASSIFY, num_labels=2)
    model = peft.get_peft_model(base, peft.LoraConfig(target_modules=["query"]))
    with pytest.raises(ModelError, match=r"would be lost: classifier.bias[\s\S]*modules_to_save=\['classifier'\]"):
        save_artifact(model, load_tokenizer(str(bert)), tmp_path / "a", describe(str(bert), CLASSIFY))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bert"]


@pytest.mark.parametrize(
    "failure",
    [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device (os error 28)")],
)
def test_nothing_is_left_of_a_save_that_fails(
    bert: Path, saved: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    model, tokenizer = load_model(str(bert), CLASSIFY, seed=99), load_tokenizer(str(bert))

    def full(directory: Path) -> None:
        raise failure

    monkeypatch.setattr(artifacts, "write_manifest", full)
    with pytest.raises(WorkspaceError, match=r"can't be saved: .*No space left on device.*\n  fix: ") as caught:
        save_artifact(model, tokenizer, saved, describe(str(bert), CLASSIFY))
    assert caught.value.where == str(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert sorted(path.name for path in saved.parent.iterdir()) == ["bert", "model"]


def test_saving_again_replaces_and_saving_over_something_else_is_refused(bert: Path, saved: Path, tmp_path: Path):
    model, tokenizer = load_model(str(bert), CLASSIFY, seed=99), load_tokenizer(str(bert))
    save_artifact(model, tokenizer, saved, describe(str(bert), CLASSIFY))
    assert torch.equal(load_artifact(saved)[0].classifier.weight, model.classifier.weight)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(WorkspaceError, match="something that Luthier did not save"):
        save_artifact(model, tokenizer, tmp_path / "mine", describe(str(bert), CLASSIFY))
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "x"
    with pytest.raises(WorkspaceError, match="something that Luthier did not save"):
        save_artifact(model, tokenizer, tmp_path / "mine" / "thesis.tex", describe(str(bert), CLASSIFY))


def test_the_place_a_model_was_loaded_from_is_not_saved(saved: Path, bert: Path):
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        assert str(bert) not in (saved / name).read_text()


def test_cards(saved: Path):
    card = read_card(saved)
    assert card.labels == ["bad", "good"]
    for change, message in [
        ({"format_version": 99}, "newer Luthier"),
        ({"colour": "red"}, "`colour`"),
        ({"head": "tail"}, "`head`"),
    ]:
        (saved / "luthier.json").write_text(json.dumps(dataclasses.asdict(card) | change))
        with pytest.raises(ModelError, match=message) as caught:
            read_card(saved)
        assert caught.value.where == str(saved / "luthier.json")
    write_manifest(saved)
    with pytest.raises(ModelError, match="`head`"):
        load_artifact(saved)


def test_a_folder_that_luthier_did_not_save(bert: Path):
    with pytest.raises(ModelError, match="Luthier did not save this folder\n  fix: use load_model"):
        load_artifact(bert)


def test_an_adapter_type_that_nothing_defines_is_not_imported(bert: Path, tmp_path: Path):
    model, tokenizer, card = adapted(bert)
    folder = save_artifact(model, tokenizer, tmp_path / "adapter", card)
    config = json.loads((folder / "adapter_config.json").read_text())
    for name in ("os.path", "LORAX"):
        (folder / "adapter_config.json").write_text(json.dumps(config | {"peft_type": name}))
        write_manifest(folder)
        with pytest.raises(ModelError, match=f"nothing installed defines the adapter type '{name.upper()}'") as caught:
            load_artifact(folder)
        assert caught.value.where == str(folder / "adapter_config.json")
    assert "did you mean LORA?" in caught.value.fix


def test_a_decoders_prompt_stands_beside_the_text_after_loading(llama: Path, tmp_path: Path):
    from luthier.peft_bridge.prompt_placement import keep_prompt_beside_text

    base = load_model(str(llama), "causal_lm")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = peft.get_peft_model(base, config)
    keep_prompt_beside_text(base, "CAUSAL_LM", 3)
    folder = save_artifact(model, load_tokenizer(str(llama)), tmp_path / "a", describe(str(llama), "causal_lm"))
    again, tokenizer, _ = load_artifact(folder)
    tokenizer.padding_side = "left"
    batch = tokenizer(["a good film", "bad"], padding=True, return_tensors="pt", return_token_type_ids=False)
    assert torch.equal(scores(again, batch), scores(model, batch))
    alone = tokenizer(["bad"], return_tensors="pt", return_token_type_ids=False)
    torch.testing.assert_close(scores(again, batch)[1, -1], scores(again, alone)[0, -1], atol=1e-5, rtol=1e-4)


def test_settings_choose_the_number_format(saved: Path):
    model, _, _ = load_artifact(saved, settings=ModelSettings(reference="ignored", dtype="bfloat16"))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_predict_takes_the_number_format_of_the_training(bert: Path, tmp_path: Path, kind: str):
    settings = ModelSettings(reference=str(bert), dtype="bfloat16")
    model: Any = load_model(settings, CLASSIFY, labels=["bad", "good"])
    if kind != "full":
        model = peft.get_peft_model(model, ADAPTERS[kind]())
    card = describe(settings, CLASSIFY, labels=["bad", "good"], schema="single_sentence", max_length=16)
    place = save_artifact(model, load_tokenizer(str(bert)), tmp_path / "model", card)
    answer = predict_texts(place, "a good film")[0]
    with torch.inference_mode():
        logits = model.eval()(**load_tokenizer(str(bert))("a good film", return_tensors="pt")).logits
    assert answer["probabilities"]["good"] == pytest.approx(float(logits.float().softmax(-1)[0, 1]), abs=1e-6)
    assert load_predictor(place).loaded[0].get_input_embeddings().weight.dtype == torch.bfloat16
    assert load(str(place))[0].get_input_embeddings().weight.dtype == torch.bfloat16
    asked = ModelSettings(reference=str(place), dtype="float32")
    assert load(asked)[0].get_input_embeddings().weight.dtype == torch.float32
    content = json.loads((place / "luthier.json").read_text())
    del content["dtype"]
    (place / "luthier.json").write_text(json.dumps(content | {"format_version": 4}))
    write_manifest(place)
    assert load_predictor(place).loaded[0].get_input_embeddings().weight.dtype == torch.float32


def test_a_decoder_keeps_its_padding_token(llama: Path, tmp_path: Path):
    assert build_tokenizer(eos_token="</s>").pad_token is None
    model, tokenizer = load_model(str(llama), CLASSIFY, num_labels=2), load_tokenizer(str(llama))
    folder = save_artifact(model, tokenizer, tmp_path / "a", describe(str(llama), CLASSIFY))
    again, words, _ = load_artifact(folder)
    assert again.config.pad_token_id == words.pad_token_id == 6
    assert AutoTokenizer.from_pretrained(folder).pad_token == "</s>"
