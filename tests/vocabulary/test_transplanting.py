"""Embeddings of a new vocabulary: each start against a reference, ties, biases, padding, blocks, kinds of pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    LlamaConfig,
    LlamaForCausalLM,
    MPNetConfig,
    MPNetForMaskedLM,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from luthier.errors import ModelError
from luthier.vocabulary import extend_tokenizer, merge_vocabularies, prune_tokenizer, transplant_embeddings
from luthier.vocabulary.auxiliary import token_vectors
from luthier.vocabulary.piece_views import PieceView
from luthier.vocabulary.settings import TrainerSettings
from luthier.vocabulary.tokenizer_files import fast_tokenizer
from luthier.vocabulary.transplanting import _Plan, sparsemax
from luthier.vocabulary.unigram import train_unigram
from tests.vocabulary.texts import lines_of

LETTERS = "abdeilmnorst"
WORDS = ["the", "film", "was", "fine", "bright", "and", "warm", "cold", "dull", "##ly", "##er", "##ing"]
WORDS += [*LETTERS, *(f"##{letter}" for letter in LETTERS)]
TRAINER = TrainerSettings(seed_pieces=10_000)
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def unigram(*languages: str, pieces: int = 120) -> Any:
    units = [(word, 1) for name in languages for line in lines_of(name, 150) for word in line.split()]
    return fast_tokenizer(merge_vocabularies([train_unigram(units, pieces, TRAINER)]).content)


def word_pieces() -> Any:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    return BertTokenizerFast(vocab={name: number for number, name in enumerate(names)}, do_lower_case=True)


def byte_pairs() -> Any:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        lines_of("la", 100),
        trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<end>"], show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<end>")


def bert(tokenizer: Any) -> Any:
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **SIZES)).eval()
    torch.nn.init.normal_(model.cls.predictions.bias)
    return model


@pytest.fixture(scope="module")
def old() -> Any:
    return unigram("la")


@pytest.fixture(scope="module")
def new() -> Any:
    return unigram("la", "lb", "ka", pieces=200)


def rows(model: Any) -> torch.Tensor:
    return model.get_input_embeddings().weight.detach()


@pytest.mark.parametrize("init", ["copy", "subword_mean", "focus"])
def test_the_same_vocabulary_changes_nothing(old: Any, init: str):
    model = bert(old)
    ids = old(lines_of("la", 4), padding=True, return_tensors="pt")
    before = model(**ids).logits
    with torch.no_grad():
        padding = rows(model)[1].clone()
    done = transplant_embeddings(model, old, old, init=init, texts=lines_of("la", 50))
    with torch.no_grad():
        model.get_input_embeddings().weight[1] = padding
    assert torch.equal(model(**ids).logits, before)
    assert done.copied == {number: number for number in range(len(old))}
    assert not done.composed
    assert not done.drawn


@pytest.mark.parametrize("rescale", [None, True])
def test_rows_and_biases_are_those_of_the_reference(old: Any, new: Any, rescale: bool | None):
    model = bert(old)
    before, bias = rows(model).clone(), model.cls.predictions.bias.detach().clone()
    done = transplant_embeddings(model, old, new, rescale=rescale)
    after, new_bias = rows(model), model.get_output_embeddings().bias.detach()
    assert after.shape == (len(new), 16)
    assert new_bias.shape == (len(new),)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert done.tied
    known = old.get_vocab()
    view = PieceView(old)
    length = float(before[list(done.copied.values())].norm(dim=1).median())
    for piece, number in new.get_vocab().items():
        if number == 1:
            assert not after[number].any()
        elif piece in known:
            assert done.copied[number] == known[piece]
            assert torch.equal(after[number], before[known[piece]])
            assert new_bias[number] == bias[known[piece]]
        else:
            parts = view.cut(piece)
            mean = before[parts].mean(dim=0) if parts else before.mean(dim=0)
            wanted = mean * (length / mean.norm()) if rescale else mean
            assert torch.allclose(after[number], wanted, atol=1e-5), piece
            assert new_bias[number] == pytest.approx(float(bias[parts].mean() if parts else bias.min()), abs=1e-6)
    cut = old.backend_tokenizer.model.tokenize("▁dela")
    assert view.cut("▁dela") == [one.id for one in cut if one.id != 3]
    assert set(done.drawn) == {n for p, n in new.get_vocab().items() if p not in known and not view.cut(p)}
    assert done.drawn
    loss = model(**new(lines_of("kb", 3), padding=True, return_tensors="pt")).logits
    assert torch.isfinite(loss).all()


@pytest.mark.parametrize("init", ["subword_mean", "focus", "wechsel", "gaussian", "mean", "random"])
def test_blocks_change_nothing_and_every_start_has_its_own_look(old: Any, new: Any, init: str):
    found = []
    for block in (7, 100_000):
        model = bert(old)
        before = rows(model).clone()
        done = transplant_embeddings(
            model, old, new, init=init, texts=[*lines_of("lb", 200), *lines_of("la", 200)], seed=4, block_rows=block
        )
        found.append(rows(model).clone())
    if init in ("gaussian", "random"):
        assert found[0].shape == found[1].shape
    else:
        assert torch.allclose(found[0], found[1], atol=1e-6)
    own = [number for number in range(len(new)) if number not in done.copied]
    made = found[1][own]
    if init == "mean":
        assert torch.allclose(made, before.mean(dim=0).expand_as(made), atol=1e-6)
    elif init == "random":
        assert float(made.std()) == pytest.approx(0.02, rel=0.15)
    elif init == "gaussian":
        assert torch.allclose(torch.cov(made.T).diag().mean(), torch.cov(before.T).diag().mean(), rtol=0.4)
    assert len(made) == len(done.composed) + len(done.drawn)


def test_composed_rows_are_as_long_as_copied_ones_where_no_token_is_predicted_by_them(old: Any, new: Any):
    model = bert(old).bert
    before = rows(model).clone()
    done = transplant_embeddings(model, old, new)
    lengths = before[list(done.copied.values())].norm(dim=1)
    length = lengths[lengths > 0].median()
    assert torch.allclose(rows(model)[done.composed].norm(dim=1), length.expand(len(done.composed)), rtol=1e-4)


def test_focus_and_wechsel_follow_their_equations(old: Any, new: Any):
    texts = [*lines_of("lb", 200), *lines_of("la", 200)]
    ids = [new(text, add_special_tokens=False)["input_ids"] for text in texts]
    vectors = token_vectors(ids, len(new), seed=0).astype(np.float64)
    for init in ("focus", "wechsel"):
        model = bert(old)
        before = rows(model).double().clone()
        done = transplant_embeddings(model, old, new, init=init, texts=texts)
        anchors = [one for one in done.copied if vectors[one].any() and one not in new.all_special_ids]
        number = next(one for one in done.composed if vectors[one].any())
        similar = torch.tensor(vectors[anchors] @ vectors[number])
        if init == "focus":
            low, high = float(similar.min()) - 1, float(similar.max())
            for _ in range(200):  # the threshold at which what is above it adds up to 1
                middle = (low + high) / 2
                low, high = (middle, high) if (similar - middle).clamp_min(0).sum() > 1 else (low, middle)
            weights = (similar - low).clamp_min(0)
        else:
            weights = torch.zeros_like(similar)
            top = similar.topk(10)
            weights[top.indices] = (top.values / 0.1).softmax(dim=0)
        wanted = weights @ before[[done.copied[one] for one in anchors]]
        assert torch.allclose(rows(model)[number].double(), wanted, atol=1e-5)


def test_sparsemax_is_the_nearest_distribution():
    torch.manual_seed(0)
    scores = torch.randn(5, 7, dtype=torch.float64)
    found = sparsemax(scores)
    assert torch.allclose(found.sum(dim=1), torch.ones(5, dtype=torch.float64))
    assert (found >= 0).all()
    for other in torch.distributions.Dirichlet(torch.ones(7, dtype=torch.float64) * 0.3).sample((200,)):
        assert (((other - scores) ** 2).sum(dim=1) >= ((found - scores) ** 2).sum(dim=1) - 1e-12).all()


def test_untied_projections_and_decoders(new: Any):
    old = byte_pairs()
    config = LlamaConfig(vocab_size=len(old), num_key_value_heads=2, tie_word_embeddings=False, **SIZES)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    source, target = rows(model).clone(), model.lm_head.weight.detach().clone()
    done = transplant_embeddings(model, old, new)
    assert not done.tied
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    number = next(one for one in done.copied if one not in new.all_special_ids)
    assert torch.equal(rows(model)[number], source[done.copied[number]])
    assert torch.equal(model.lm_head.weight[number], target[done.copied[number]])
    assert PieceView(old).pieces[done.copied[number]] == PieceView(new).pieces[number]
    assert (model.config.vocab_size, model.config.pad_token_id, model.config.eos_token_id) == (len(new), 1, 2)
    model(**{k: v for k, v in new("tal dela", return_tensors="pt").items() if k != "token_type_ids"})


def test_every_id_that_the_configuration_names_moves_with_its_token(old: Any, new: Any):
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    named = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    model = BartForConditionalGeneration(
        BartConfig(vocab_size=len(word_pieces()), **sizes, **heads, **named, forced_eos_token_id=3)
    )
    model.config.sep_token_id, model.config.other_token_id = 3, 7
    model.generation_config.eos_token_id = [3, 6]
    transplant_embeddings(model, word_pieces(), new)
    found = {name: getattr(model.config, name) for name in [*named, "sep_token_id", "other_token_id"]}
    assert found == {
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "sep_token_id": 2,
        "other_token_id": None,
    }
    assert (model.generation_config.eos_token_id, model.generation_config.forced_eos_token_id) == ([2], 2)


def test_rows_that_fill_the_matrix_up_count_for_nothing(old: Any, new: Any):
    padded, plain = bert(old), bert(old)
    padded.resize_token_embeddings(len(old) + 28, mean_resizing=False)
    with torch.no_grad():
        padded.get_input_embeddings().weight[len(old) :] = 100.0
        padded.get_output_embeddings().bias[len(old) :] = -1e9
    for model in (padded, plain):
        assert transplant_embeddings(model, old, new).drawn
    assert torch.equal(rows(padded), rows(plain))
    assert torch.equal(padded.get_output_embeddings().bias, plain.get_output_embeddings().bias)


def test_ids_may_have_gaps():
    names = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "the": 7, "film": 9}
    special = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    gaps = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordPiece(names, unk_token="[UNK]")), **special)
    whole = word_pieces()
    with pytest.raises(ModelError, match="embeds 9 tokens, and its tokenizer has 10"):
        transplant_embeddings(BertForMaskedLM(BertConfig(vocab_size=9, **SIZES)), gaps, whole)
    model = BertForMaskedLM(BertConfig(vocab_size=10, **SIZES))
    before = rows(model).clone()
    transplant_embeddings(model, gaps, whole)
    assert torch.equal(rows(model)[whole.convert_tokens_to_ids("film")], before[9])
    transplant_embeddings(model, whole, gaps)
    assert rows(model).shape[0] == 10
    assert torch.equal(rows(model)[9], before[9])
    small = prune_tokenizer(gaps, ["film"])
    assert small.get_vocab() == {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "film": 5}


def test_pieces_of_every_kind_of_tokenizer_meet():
    words, pairs = PieceView(word_pieces()), PieceView(byte_pairs())
    assert words.pieces[5:8] == ["▁the", "▁film", "▁was"]
    assert words.pieces[words.backend.model.token_to_id("##ly")] == "ly"
    assert [words.pieces[n] for n in words.cut("▁Brightly")] == ["▁bright", "ly"]
    assert [words.pieces[n] for n in words.cut("ing")] == ["ing"]
    assert [words.pieces[n] for n in words.cut("▁film.fine")][:1] == ["▁film"]
    word = lines_of("la", 1)[0].split()[0]
    assert "".join(pairs.pieces[n] for n in pairs.cut(f"▁{word}")) == f"▁{word}"
    assert pairs.cut("ж")
    assert pairs.common("Ã") == "\0Ã"
    assert words.with_role("bos") == words.roles["cls"]


def test_what_word_piece_parts_everywhere_is_one_piece_with_two_spellings():
    names = "[PAD] [UNK] [CLS] [SEP] [MASK] ##, ##国 ##中 ##' , 国 中 ' s ##s".split()
    bert = BertTokenizerFast(vocab={name: number for number, name in enumerate(names)}, do_lower_case=True)
    marked = ["<unk>", "<pad>", "▁,", ",", "国", "▁中", "中国", "'s", "s"]
    inner = Tokenizer(models.Unigram([(name, -float(n)) for n, name in enumerate(marked)], unk_id=0))
    plain = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", pad_token="<pad>")
    view, other = PieceView(bert), PieceView(plain)
    plan = _Plan.of(view, other, "uniform")
    assert {marked[n]: names[o] for n, o in plan.copied.items() if n > 1} == {
        "▁,": ",",
        ",": ",",
        "国": "国",
        "▁中": "中",
        "s": "##s",
    }
    made = dict(zip(plan.composed_ids, plan.parts, strict=True))
    pieces = {marked[n]: " ".join(names[o] for o in parts) for n, parts in made.items()}
    assert pieces == {"中国": "中 国", "'s": "' s"}
    back = _Plan.of(other, view, "uniform").copied
    assert {names[n]: marked[o] for n, o in back.items() if n > 4} == {
        "##,": "▁,",
        ",": "▁,",
        "##国": "国",
        "国": "国",
        "##中": "▁中",
        "中": "▁中",
        "##s": "s",
    }
    again = _Plan.of(view, view, "uniform").copied
    assert again == {number: number for number in range(len(names))}


def test_what_is_refused(old: Any, new: Any):
    with pytest.raises(ModelError, match="not in the old vocabulary"):
        transplant_embeddings(bert(old), old, new, init="copy")
    with pytest.raises(ModelError, match="compares tokens by text"):
        transplant_embeddings(bert(old), old, new, init="focus")
    with pytest.raises(ModelError, match="no token of the old vocabulary occurs"):
        transplant_embeddings(bert(old), old, new, init="focus", texts=["", ""])
    with pytest.raises(ModelError, match="the model embeds"):
        transplant_embeddings(bert(old), new, old)
    for config, kind in ((XLMRobertaConfig, XLMRobertaForMaskedLM), (MPNetConfig, MPNetForMaskedLM)):
        model = kind(config(vocab_size=len(word_pieces()), pad_token_id=0, **SIZES))
        with pytest.raises(ModelError, match="counts positions from its padding id, 0"):
            transplant_embeddings(model, word_pieces(), new)


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_a_pruned_model_says_the_same_on_the_text_that_it_was_pruned_to(kind: str, new: Any):
    tokenizer = new if kind == "unigram" else word_pieces()
    text = lines_of("la", 60) if kind == "unigram" else ["the film was dully fine", "warmer and cold", "bel."]
    model = bert(tokenizer)
    small = prune_tokenizer(tokenizer, text)
    assert len(small) < len(tokenizer)
    assert [small.tokenize(one) for one in text] == [tokenizer.tokenize(one) for one in text]
    before = model(**tokenizer(text, padding=True, return_tensors="pt")).logits
    done = transplant_embeddings(model, tokenizer, small, init="copy")
    after = model(**small(text, padding=True, return_tensors="pt")).logits
    kept = torch.tensor([done.copied[number] for number in range(len(small))])
    wanted = before[..., kept]
    mask = small(text, padding=True, return_tensors="pt")["attention_mask"].bool()
    padding = small.pad_token_id
    columns = [n for n in range(len(small)) if n != padding]
    assert torch.allclose(after[mask][:, columns], wanted[mask][:, columns], atol=1e-5)
    assert small.mask_token_id is not None
    assert small(text[0]).input_ids[0] == small.cls_token_id


def test_an_extended_tokenizer_keeps_old_ids_and_cuts_the_new_language_into_fewer_tokens(old: Any, tmp_path: Path):
    text = lines_of("ka", 150)
    units = [(word, 1) for line in text for word in line.split()]
    larger = extend_tokenizer(old, units, pieces=150, trainer=TRAINER)
    names = old.convert_ids_to_tokens(list(range(len(old))))
    assert larger.convert_ids_to_tokens(list(range(len(old)))) == names
    assert larger.mask_token_id == old.mask_token_id
    assert len(larger) > len(old)
    assert 3 not in [token for line in text for token in larger(line).input_ids]
    before = sum(len(old(line).input_ids) for line in lines_of("la", 30))
    assert sum(len(larger(line).input_ids) for line in lines_of("la", 30)) <= before
    larger.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert again(text).input_ids == larger(text).input_ids
    model = bert(old)
    done = transplant_embeddings(model, old, larger)
    assert all(done.copied[number] == number for number in range(len(old)))
    with pytest.raises(ModelError, match="WordPiece vocabulary"):
        extend_tokenizer(word_pieces(), units, pieces=100)
    with pytest.raises(ModelError, match="merges build on one another"):
        prune_tokenizer(byte_pairs(), text)
