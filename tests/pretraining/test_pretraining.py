"""The `pretrain` stage: what it starts from, what it writes, two processes beside one, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

import luthier
from luthier.cli.arguments import main
from luthier.errors import DataError, RecipeError
from luthier.models.artifacts import load_artifact
from luthier.pretraining import cloze_scores, new_tokenizer
from luthier.pretraining.answering import answer
from luthier.pretraining.sentences import Sentence, read_sentences
from luthier.pretraining.stage import Pretrain, TokenizerSettings
from luthier.storage.jsonlines import read_log
from tests.cli.conftest import sentences, tiny_model
from tests.language_modeling.models import MASKED, made, word_pieces
from tests.processes import ranks

__all__ = ["tiny_model"]
TINY = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TINY |= {"intermediate_size": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
DECODER = {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
DECODER |= {"intermediate_size": 32, "num_key_value_heads": 1}


def recipe(folder: Path, model: Path | None, **more: Any) -> dict[str, Any]:
    """A recipe of one stage on a small text."""
    for split, seed in (("train", 0), ("held", 1)):
        lines = [words for words, _ in sentences(120, seed)]
        (folder / f"{split}.txt").write_text("".join(f"{line}\n" for line in lines))
    corpus = {"train": str(folder / "train.txt"), "validation": str(folder / "held.txt"), "shuffle": 30}
    stage = {"corpus": corpus, "length": 16, "max_steps": 6, "batch_size": 4, "learning_rate": 5e-3, **more}
    stage = {"evaluate_every": 3, "checkpoint_every": 2, "pseudo_perplexity_tokens": 4, **stage}
    whole: dict[str, Any] = {"name": "run", "stages": [{"pretrain": stage}]}
    return whole | ({"model": str(model)} if model else {})


def run(folder: Path, content: dict[str, Any]) -> Path:
    place = folder / f"{content['name']}.yaml"
    place.write_text(json.dumps(content))
    record = luthier.run(place, output=folder / "runs")
    return Path(record.folder) / "00-pretrain"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize("architecture", [TINY, DECODER], ids=["bert", "llama"])
def test_what_it_writes_is_loaded_by_transformers_with_the_same_logits(
    tmp_path: Path, kind: str, architecture: dict[str, Any]
):
    given = {"architecture": architecture, "tokenizer": {"kind": kind, "vocabulary": 300}}
    folder = run(tmp_path, recipe(tmp_path, None, **given)) / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    auto = AutoModelForMaskedLM if architecture is TINY else AutoModelForCausalLM
    stock = auto.from_pretrained(folder).eval()
    ours, own_tokenizer, card = load_artifact(folder)
    text = "the film was lovely and bright"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert ids.tolist() == own_tokenizer(text, return_tensors="pt")["input_ids"].tolist()
    assert tokenizer.decode(ids[0], skip_special_tokens=True).strip() == text
    with torch.no_grad():
        assert torch.equal(stock(input_ids=ids).logits, ours(input_ids=ids).logits)
    assert card.head == ("masked_lm" if architecture is TINY else "causal_lm")
    assert stock.config.vocab_size == len(tokenizer)
    assert read_metrics(folder.parent)["details"]["tokens"] == 6 * 4 * 16


def read_metrics(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return content


def test_an_encoder_without_its_head_gets_one_that_is_tied_to_its_embeddings(tmp_path: Path, tiny_model: Path):
    """The base has the body alone; what is saved has one matrix for embeddings and projection."""
    before = load_file(tiny_model / "model.safetensors")
    assert not any("cls" in name for name in before)
    folder = run(tmp_path, recipe(tmp_path, tiny_model)) / "model"
    model = AutoModelForMaskedLM.from_pretrained(folder)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    start = before["embeddings.word_embeddings.weight"]
    assert not torch.equal(model.get_input_embeddings().weight, start)
    assert (model.get_input_embeddings().weight - start).abs().max() < 0.1
    log = read_log(folder.parent / "log.jsonl")
    assert [line["step"] for line in log if line["event"] == "evaluate"] == [3, 6]


def test_the_recipe_that_is_written_out_can_be_run_again(tmp_path: Path, tiny_model: Path):
    folder = run(tmp_path, recipe(tmp_path, tiny_model, objective="masked", cloze="english"))
    assert main(["validate", str(folder.parent / "recipe.yaml")]) == 0
    assert main(["run", str(folder.parent / "recipe.yaml"), "--output", str(tmp_path / "runs"), "--quiet"]) == 0
    assert not (folder.parent / "replaced").exists()


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_the_same_tokenizer_and_weights_come_out_again(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved = []
    for name in ("a", "b"):
        monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / f"cache-{name}"))
        tokenizer = {"kind": kind, "vocabulary": 300 if kind == "bpe" else 60}
        content = recipe(tmp_path, None, architecture=TINY, tokenizer=tokenizer) | {"name": name}
        saved.append(run(tmp_path, content) / "model")
    for name in ("tokenizer.json", "model.safetensors"):
        assert (saved[0] / name).read_bytes() == (saved[1] / name).read_bytes(), name


def test_two_processes_train_as_one_with_the_whole_batch(tmp_path: Path, tiny_model: Path):
    given = {"architecture": TINY, "adam_epsilon": 1e-3, "tokenizer": {"vocabulary": 60}}
    one = run(tmp_path, recipe(tmp_path, None, batch_size=4, **given))
    content = recipe(tmp_path, None, batch_size=2, **given) | {"name": "two"}
    (tmp_path / "two.yaml").write_text(json.dumps(content))
    command = ("-m", "luthier.cli", "run", "two.yaml", "--output", "runs", "--quiet", "--no-report")
    for done in ranks(2, *command, cwd=tmp_path):
        assert done.returncode == 0, done.stderr[:6000]
    two = tmp_path / "runs" / "two" / "00-pretrain"
    expected, found = (load_file(folder / "model" / "model.safetensors") for folder in (one, two))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=2e-5, rtol=1e-4, msg=name)
    scores = read_metrics(one)["scores"]
    assert read_metrics(two)["scores"] == pytest.approx(scores, rel=1e-4)
    assert read_metrics(two)["details"]["tokens"] == read_metrics(one)["details"]["tokens"]


def test_a_masked_model_is_asked_for_words_and_for_likelihoods(tmp_path: Path, tiny_model: Path, capsys):
    folder = run(tmp_path, recipe(tmp_path, tiny_model))
    capsys.readouterr()
    assert main(["predict", str(folder), "--text", "the [MASK] was dull [MASK]", "--text", "a fine film"]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    model, tokenizer, _ = load_artifact(folder / "model")
    ids = tokenizer("the [MASK] was dull [MASK]", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        chances = model(input_ids=ids).logits.softmax(-1)[0]
    for fills, place in zip(first["fills"], (ids[0] == tokenizer.mask_token_id).nonzero(), strict=True):
        best = chances[place[0]].topk(5)
        assert [one["token"] for one in fills] == [tokenizer.decode([t]).strip() for t in best.indices.tolist()]
        assert [one["probability"] for one in fills] == pytest.approx(best.values.tolist(), rel=1e-4)
    whole = tokenizer("a fine film", return_tensors="pt")["input_ids"]
    total = 0.0
    for place in range(1, whole.shape[1] - 1):
        seen = whole.clone()
        seen[0, place] = tokenizer.mask_token_id
        with torch.no_grad():
            total += model(input_ids=seen).logits[0, place].log_softmax(-1)[whole[0, place]].item()
    assert second["pseudo_log_likelihood"] == pytest.approx(total, rel=1e-4)


def test_a_tokenizer_that_is_larger_than_the_model_is_refused(tmp_path: Path, tiny_model: Path, capsys):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(model)
    (tmp_path / "run.yaml").write_text(json.dumps(recipe(tmp_path, model)))
    capsys.readouterr()
    assert main(["plan", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "runs")]) == 4
    assert "the model embeds" in capsys.readouterr().err


# -- words to guess ----------------------------------------------------------------------------------------


def test_a_word_counts_by_its_rank():
    model, tokenizer = made(MASKED["bert"]), word_pieces()
    given = [Sentence("the ", "cat", " runs."), Sentence("a ", "dog", "."), Sentence("", "undoing", " the dog")]
    for sentence in given[:2]:
        ids = tokenizer(sentence.whole, return_tensors="pt")["input_ids"]
        place = (ids[0] == tokenizer.convert_tokens_to_ids(sentence.word)).nonzero()[0, 0]
        word = int(ids[0, place])
        ids[0, place] = tokenizer.mask_token_id
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, place]
        rank = int((logits > logits[word]).sum())
        found = cloze_scores(model, tokenizer, [sentence], masked=True, top=rank + 1)
        assert (found.ranks[sentence.marked], found.share) == (rank, 1.0)
        if rank:
            assert cloze_scores(model, tokenizer, [sentence], masked=True, top=rank).share == 0.0
    found = cloze_scores(model, tokenizer, given, masked=True)
    assert found.left_out == ["[[undoing]] the dog"]
    assert found.chance == pytest.approx(10 / 67)


def test_two_words_of_one_sentence_are_two_questions(tmp_path: Path):
    place = tmp_path / "words.txt"
    place.write_bytes(b"\xef\xbb\xbf# as some editors save it\r\nthe [[cat]] runs.\r\n[[the]] cat runs.\r\n")
    found = cloze_scores(made(MASKED["bert"]), word_pieces(), read_sentences(place), masked=True)
    assert list(found.ranks) == ["the [[cat]] runs.", "[[the]] cat runs."]


def test_sentences_that_can_not_be_asked_are_left_out_and_not_all_of_them():
    model, tokenizer = made(MASKED["bert"]), word_pieces()
    long = Sentence("the " * 70, "cat", "")
    assert len(cloze_scores(model, tokenizer, [long, Sentence("a ", "dog", ".")], masked=True).left_out) == 1
    with pytest.raises(DataError, match="none of the 2 words"):
        cloze_scores(model, tokenizer, [long, Sentence("", "undoing", " it")], masked=True)


def test_a_text_without_a_token_has_no_likelihood():
    with pytest.raises(DataError, match="no token to guess"):
        answer(made(MASKED["bert"]), word_pieces(), " ", None)


def test_the_sentences_that_come_with_it_have_one_word_each():
    found = read_sentences(Pretrain(corpus="x.txt", cloze="english").cloze_file())
    assert len(found) >= 100
    assert len({one.whole for one in found}) == len(found)
    assert all(one.word.isalpha() and one.before.strip() for one in found)


@pytest.mark.parametrize("line", ["no word", "[[two]] of [[them]]"])
def test_a_sentence_without_its_one_word_is_told(tmp_path: Path, line: str):
    path = tmp_path / "words.txt"
    path.write_text(f"# fine\nSnow is [[white]].\n\n{line}\n")
    with pytest.raises(DataError, match="line 4 has"):
        read_sentences(path)


def test_rows_of_the_embeddings_that_are_updated_late_end_with_the_same_weights(tmp_path: Path, tiny_model: Path):
    weights = []
    for late in (False, True):
        content = recipe(tmp_path, tiny_model, sampled_softmax=5, row_updates=late) | {"name": f"late-{late}"}
        weights.append(load_file(run(tmp_path, content) / "model" / "model.safetensors"))
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-5, rtol=1e-4, msg=name)
    assert not all(torch.equal(weights[1][name], value) for name, value in weights[0].items())


# -- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"tokenizer": {}}, "needs a new model"),
        ({"tokenizer": {}, "architecture": TINY, "model": "some/model"}, "no effect"),
        ({"tokenizer": {"kind": "bpe", "vocabulary": 260}, "architecture": TINY}, "is at least 261"),
        ({"cloze_top": 3}, "no effect without `cloze`"),
        ({"row_updates": False}, "no effect without `sampled_softmax`"),
        ({"row_updates": True, "sampled_softmax": 9, "precision": "float16"}, "can't be done: the loss scaler"),
        ({"row_updates": True, "sampled_softmax": 9, "adam_betas": [0.9, 0.8]}, "can't be done: the first of"),
        ({"corpus": {"train": "a.txt", "validation": "b.txt", "held_out": 0.1}}, "keep one of them"),
        ({"corpus": {"train": ["a.txt", "b.txt"], "validation": "b.txt"}}, "same text"),
        ({"corpus": {"train": "a.txt", "held_out": 0}, "patience": 2}, "no text is held out"),
    ],
)
def test_settings_that_do_not_fit_are_refused(given: dict[str, Any], told: str):
    with pytest.raises(ValidationError, match=told):
        Pretrain(**{"corpus": "text.txt", **given})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"architecture": {"model_type": "bret"}}, "did you mean 'bert'"),
        ({"architecture": {**TINY, "hiden_size": 32}}, "did you mean 'hidden_size'"),
        ({"architecture": {**TINY, "num_attention_heads": 3}}, "multiple"),
        ({"architecture": {**TINY, "vocab_size": 7}}, "the tokenizer has"),
        ({"architecture": {"model_type": "t5"}}, "an encoder and a decoder"),
        ({"objective": "causal", "architecture": {"model_type": "distilbert"}}, "no causal_lm head"),
        ({"length": 512}, "takes 64 tokens"),
        ({"sampled_softmax": 5000, "row_updates": True}, "so every step moves all of them"),
        ({"max_steps": None, "max_tokens": 10}, "of a step"),
        ({"architecture": DECODER, "masking": {"rate": 0.4}}, "`masking` has no effect on a causal model"),
        ({"corpus": "nowhere.txt"}, "no such file"),
        ({"cloze": "nowhere.txt"}, "stages.0.pretrain.cloze: nowhere.txt: there is no such file"),
        ({"cloze": "."}, "can't be read"),
    ],
)
def test_what_can_not_be_done_is_told_before_anything_is_trained(
    tmp_path: Path, tiny_model: Path, given: dict[str, Any], told: str, capsys
):
    content = recipe(tmp_path, tiny_model, **given)
    place = tmp_path / "run.yaml"
    place.write_text(json.dumps(content))
    capsys.readouterr()
    assert main(["run", str(place), "--output", str(tmp_path / "runs"), "--quiet", "--no-report"]) in (2, 3, 4)
    assert told in capsys.readouterr().err


def test_a_tokenizer_has_the_vocabulary_that_is_asked_for():
    words = [line for line, _ in sentences(300, 0)]
    for kind in ("wordpiece", "bpe", "unigram"):
        size = 290 if kind == "bpe" else 70
        made_of = new_tokenizer(words, TokenizerSettings(kind=kind, vocabulary=size))
        assert len(made_of) <= size
        assert made_of.decode(made_of("a Fine film")["input_ids"], skip_special_tokens=True).strip() == "a fine film"
        assert made_of("film")["input_ids"][0] == made_of.cls_token_id
    with pytest.raises(DataError, match="no words"):
        new_tokenizer([" "], TokenizerSettings())


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize("lowercase", [True, False])
def test_text_that_looks_like_a_special_token_stays_text(kind: str, lowercase: bool):
    words = [line for line, _ in sentences(300, 0)] + ["[MASK] [SEP] ]["]
    made = new_tokenizer(
        words, TokenizerSettings(kind=kind, vocabulary=290 if kind == "bpe" else 90, lowercase=lowercase)
    )
    ids = made("a [MASK] film [SEP]", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert not set(ids) & (set(made.all_special_ids) - {made.unk_token_id})
    assert made.mask_token_id in made("a [MASK] film")["input_ids"]


def test_a_new_architecture_goes_by_its_own_positions(tmp_path: Path):
    """And not by those of the model that its tokenizer came with."""
    short = word_pieces()
    short.model_max_length = 16
    short.save_pretrained(tmp_path / "tokenizer")
    made(MASKED["bert"]).save_pretrained(tmp_path / "tokenizer")
    given = {"architecture": TINY | {"max_position_embeddings": 48}, "length": 32, "max_steps": 1}
    folder = run(tmp_path, recipe(tmp_path, tmp_path / "tokenizer", **given)) / "model"
    assert AutoTokenizer.from_pretrained(folder).model_max_length == 48


def test_a_script_of_many_letters_keeps_to_the_vocabulary_or_is_told():
    han = ["".join(chr(0x4E00 + n) for n in range(start, start + 20)) for start in range(0, 200, 5)]
    for kind, size in (("wordpiece", 100), ("bpe", 261), ("bpe", 300)):
        assert len(new_tokenizer(han, TokenizerSettings(kind=kind, vocabulary=size))) <= size, kind
    with pytest.raises(DataError, match="more characters than"):
        new_tokenizer(han, TokenizerSettings(kind="unigram", vocabulary=100))


def test_a_new_architecture_is_checked_without_a_run():
    from luthier.pretraining.checking import configuration
    from luthier.pretraining.stage import ArchitectureSettings

    with pytest.raises(RecipeError, match="no architecture"):
        configuration(ArchitectureSettings(model_type="nothing"))


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "llama"])
def test_a_new_configuration_names_the_special_tokens_of_its_tokenizer(model_type: str):
    from luthier.pretraining.stage import ArchitectureSettings
    from luthier.pretraining.start import new_configuration

    tokenizer = word_pieces()
    config = new_configuration(ArchitectureSettings(model_type=model_type), tokenizer, 16)
    for name in ("pad", "cls", "sep"):
        if name == "pad" or hasattr(config, f"{name}_token_id"):
            assert getattr(config, f"{name}_token_id") == getattr(tokenizer, f"{name}_token_id"), name
    assert hasattr(config, "cls_token_id") == (model_type == "modernbert")


def test_positions_that_are_asked_for_by_another_name_stay():
    from luthier.pretraining.stage import ArchitectureSettings
    from luthier.pretraining.start import new_configuration

    for name in ("n_positions", "max_position_embeddings"):
        architecture = ArchitectureSettings(model_type="gpt2", **{name: 64})
        assert new_configuration(architecture, word_pieces(), 16).n_positions == 64, name
