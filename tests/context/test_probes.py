"""Probes: exact token budgets, a model that can do the task and one that can't, the cache that serves all answers."""

from __future__ import annotations

import string
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from luthier.context import first_sentence_retrieval, fit_power_law, losses_by_position, passkey_retrieval
from luthier.context.answering import Question, answers
from luthier.context.position_losses import by_context, smoothed, text_rows
from luthier.context.probes import ASKED, FIRST, _Encoded, _Grid, stops, token_ids
from luthier.errors import DataError
from tests.context.conftest import SIZES, documents
from tests.language_modeling.models import word_pieces

PUBLISHED = {"7B": (25.4, 0.45, 1.56), "13B": (19.5, 0.48, 1.45), "34B": (17.7, 0.50, 1.41), "70B": (17.9, 0.51, 1.35)}


class ByteTokenizer:
    """A token for every character."""

    eos_token_id = 3
    all_special_ids = [3]

    def __call__(self, text: Any, **_more: Any) -> dict[str, Any]:
        return {"input_ids": [ord(c) % 500 + 10 for c in text]}

    def decode(self, ids: list[int], **_more: Any) -> str:
        return "".join(chr(max(0, i - 10)) for i in ids)


class Reader(torch.nn.Module):
    """A model that copies what follows the last earlier place with the same `order` tokens, for probes to find."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.answer, self.seen = answer, SimpleNamespace(ids=None)

    def forward(self, input_ids: Any, past_key_values: Any = None, **_more: Any) -> Any:
        cache = past_key_values or Kept()
        start = cache.length
        cache.ids = input_ids if cache.ids is None else torch.cat([cache.ids[:, :start], input_ids], dim=1)
        logits = torch.zeros(*input_ids.shape, 600)
        for row, ids in enumerate(cache.ids.tolist()):
            for place in range(input_ids.shape[1]):
                found = self.answer(ids[: start + place + 1])
                if found is not None:
                    logits[row, place, found] = 20.0
        return SimpleNamespace(logits=logits, past_key_values=cache)


class Kept:
    ids: Any = None

    @property
    def length(self) -> int:
        return 0 if self.ids is None else self.ids.shape[1]

    def crop(self, many: int) -> None:
        self.ids = self.ids[:, :many]


def finder(marker: str) -> Any:
    """Knows what stands behind `marker` in the text, and continues it when asked."""
    tokens = ByteTokenizer()(marker)["input_ids"]

    def answer(ids: list[int]) -> int | None:
        ends = [i + len(tokens) for i in range(len(ids) - len(tokens) + 1) if ids[i : i + len(tokens)] == tokens]
        if len(ends) < 2:
            return None
        first, last = ends[0], ends[-1]
        return ids[first + len(ids) - last] if first + len(ids) - last < last - len(tokens) else None

    return answer


def test_a_model_that_reads_finds_every_key_and_one_that_does_not_finds_none():
    reader = Reader(finder("pass key is"))
    probes = passkey_retrieval(reader, ByteTokenizer(), [200, 400], depths=(0.0, 0.5, 1.0), samples=4)
    assert [(one.length, one.depth) for one in probes] == [(n, d) for n in (200, 400) for d in (0.0, 0.5, 1.0)]
    assert all(one.exact.all() and one.prefers == 1.0 for one in probes)
    blind = passkey_retrieval(Reader(lambda ids: None), ByteTokenizer(), [200], samples=4)
    assert not any(one.exact.any() for one in blind)
    assert all(np.allclose(one.margins, 0) for one in blind)


@pytest.mark.parametrize("blank", [" ", "\n"])
def test_a_model_that_reads_writes_the_first_sentence(blank: str):
    """Also one that is parted over lines."""
    texts = [f"Number {n} is{blank}a fine day.{blank}{'And so on. ' * 40}" for n in range(100, 120)]

    def answer(ids: list[int]) -> int | None:
        question = ByteTokenizer()(FIRST)["input_ids"]
        at = next((i for i in range(len(ids) - len(question) + 1) if ids[i : i + len(question)] == question), None)
        if at is None:
            return None
        given = ids[at + len(question) :]
        whole = [ord(" ") + 10, *ids[: ids.index(ord(".") + 10) + 1], 3]
        return whole[len(given)] if len(given) < len(whole) else 3

    (probe,) = first_sentence_retrieval(Reader(answer), ByteTokenizer(), texts, [300], samples=6)
    assert probe.exact.all()
    assert probe.prefers == 1.0
    assert np.allclose(probe.rouge_l, 1.0)
    assert probe.written[0]["written"] == probe.written[0]["wanted"]


def prefixing() -> PreTrainedTokenizerFast:
    """Puts a blank before whatever it is given, as the tokenizer of Llama 2 does."""
    inner = Tokenizer(models.BPE({letter: n for n, letter in enumerate([*string.printable, "▁"])}, []))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Replace("▁", " ")
    return PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False)


def test_answers_are_the_tokens_of_a_text_that_goes_on():
    tokenizer = prefixing()
    assert token_ids(tokenizer, " 17") != token_ids(tokenizer, " 17", behind="is")
    for one in _Grid(tokenizer, None, 3, 0).questions(200, 0.5):
        key = tokenizer.decode(one.answer).replace(" ", "")
        assert token_ids(tokenizer, f"{ASKED} {key}") == [*token_ids(tokenizer, ASKED), *one.answer]
        assert tokenizer.decode(one.prompt).replace(" ", "").count(f"Thepasskeyis{key}") == 1
    (first, _) = _Encoded(
        tokenizer, ["The mill is at a bridge. It is warm.", "Clouds come and go on. So it is."]
    ).answers
    assert token_ids(tokenizer, f"{FIRST} The mill is at a bridge.") == [*token_ids(tokenizer, FIRST), *first]
    assert len(stops(tokenizer)) == 1


def test_a_first_sentence_may_be_of_any_script():
    texts = ["今天天气很好。我们去河边走走。", "Кошка сидит. Она спит.", "यह अच्छा है। हम चलते हैं।"]
    found = _Encoded(ByteTokenizer(), texts)
    assert found.sentences == ["今天天气很好。", "Кошка сидит.", "यह अच्छा है।"]
    assert found.texts == texts


@pytest.mark.parametrize("length", [128, 200])
def test_no_prompt_is_longer_than_its_budget_and_the_question_is_at_its_end(length: int):
    """Evaluating at n tokens needs room for what is written; what is cut is the text, never the question."""
    grid = _Grid(ByteTokenizer(), None, 5, 0)
    asked = ByteTokenizer()(ASKED)["input_ids"]
    for depth in (0.0, 0.3, 1.0):
        for one in grid.questions(length, depth):
            assert len(one.prompt) + len(one.answer) <= length
            assert len(one.prompt) + max(len(q.answer) for q in grid.questions(length, depth)) == length
            assert one.prompt[-len(asked) :] == asked
    seen: list[Question] = []
    texts = documents(40, 3)
    tokenizer = word_pieces()

    def spy(_model: Any, questions: Any, **_more: Any) -> Any:
        seen.extend(questions)
        raise StopIteration

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("luthier.context.probes.answers", spy)
        with pytest.raises(StopIteration):
            first_sentence_retrieval(None, tokenizer, texts, [length], samples=8)
    end = _Encoded(tokenizer, texts).question
    assert len(seen) == 8
    for question in seen:
        assert len(question.prompt) + max(int(1.5 * len(question.answer)), question.most) <= length
        assert question.prompt[-len(end) :] == end
    answers_ = sorted(map(str, (q.answer for q in seen)))
    assert answers_ == sorted(map(str, (q.rival for q in seen)))  # every sentence is once right and once wrong


@pytest.mark.parametrize("window", [None, 8])
def test_one_reading_serves_all_answers(decoder: Path, window: int | None):
    """Against whole passes without a cache, and transformers' own greedy decoding."""
    if window is None:
        model = AutoModelForCausalLM.from_pretrained(decoder).eval()
    else:
        torch.manual_seed(0)
        model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=window)).eval()
    draw = torch.Generator().manual_seed(1)

    def tokens(count: int) -> list[int]:
        found: list[int] = torch.randint(5, 18, (count,), generator=draw).tolist()
        return found

    questions = [Question(tokens(20), tokens(n), tokens(7 - n), most=5) for n in (2, 3, 5)]
    found = answers(model, questions, batch_size=2, stop=frozenset())
    for question, one in zip(questions, found, strict=True):
        means = []
        for answer in (question.answer, question.rival):
            ids = torch.tensor([[*question.prompt, *answer]])
            with torch.no_grad():
                logits = model(input_ids=ids, use_cache=False).logits[0, 19:-1].log_softmax(-1)
            means.append(logits.gather(1, torch.tensor(answer)[:, None]).mean().item())
        assert one.margin == pytest.approx(means[0] - means[1], abs=1e-5)
        prompt = torch.tensor([question.prompt])
        written = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, do_sample=False)
        expected = written[0, 20:].tolist()
        assert one.written[: len(expected)] == expected
        sure = Question(question.prompt, expected[:3], question.rival)
        assert answers(model, [sure], batch_size=1, stop=frozenset())[0].exact


def test_losses_by_position_are_the_models_own(decoder: Path):
    model = AutoModelForCausalLM.from_pretrained(decoder).eval()
    rows = text_rows(documents(20, 0), word_pieces(), 24, 5)
    losses = losses_by_position(model, rows, batch_size=2)
    assert losses.shape == (5, 23)
    with torch.no_grad():
        expected = model(input_ids=torch.as_tensor(rows), labels=torch.as_tensor(rows)).loss.item()
    assert losses.mean() == pytest.approx(expected, abs=1e-5)
    places, means = smoothed(losses, 10)
    assert places.tolist() == [5.0, 15.0, 21.5]
    assert means[2] == pytest.approx(losses[:, 20:].mean())
    assert smoothed(losses, 100)[0].tolist() == [11.5]
    contexts, by_row = by_context(losses, points=6, least=1)
    assert by_row.shape == (5, len(contexts))
    assert (np.diff(contexts) > 0).all()
    assert [len(one) for one in by_context(losses[:, :15])] == [0, 5]


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_published_laws_come_back(size: str):
    alpha, beta, gamma = PUBLISHED[size]
    contexts = np.geomspace(16, 32_768, 24)
    exact = (alpha / contexts) ** beta + gamma
    law = fit_power_law(contexts, exact)
    assert (law.alpha, law.beta, law.gamma) == pytest.approx(PUBLISHED[size], rel=1e-3)
    assert law.doubling == pytest.approx({"7B": 0.73, "13B": 0.72, "34B": 0.71, "70B": 0.70}[size], abs=0.005)
    assert float(law(32_768)) == pytest.approx({"7B": 1.600, "13B": 1.478, "34B": 1.433, "70B": 1.372}[size], abs=0.001)
    noisy = exact + np.random.default_rng(0).normal(0, 0.02, (40, 24))
    found = fit_power_law(contexts, noisy, draws=50)
    assert found.intervals is not None
    for name, value in zip(("alpha", "beta", "gamma"), PUBLISHED[size], strict=True):
        low, high = found.intervals[name]
        assert low < high
        assert value == pytest.approx(getattr(found, name), rel=0.05)
    assert not found.at_bound


def test_losses_that_do_not_fall_follow_no_law():
    law = fit_power_law(np.geomspace(16, 4096, 16), np.full(16, 5.0))
    assert law.at_bound or law.residual < 1e-3


def test_too_little_text_is_said():
    with pytest.raises(DataError, match="first sentences"):
        first_sentence_retrieval(None, word_pieces(), ["no end of a sentence"], [128])
    with pytest.raises(DataError, match="no room for filler"):
        passkey_retrieval(None, word_pieces(), [10])
    with pytest.raises(DataError, match="fill no row"):
        text_rows(["the cat"], word_pieces(), 100, 3)
