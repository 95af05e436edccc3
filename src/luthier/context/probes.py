"""Probes of what a causal model uses of a long text: its first sentence, and a key hidden at any depth.

First-sentence retrieval is that of “Effective Long-Context Scaling of Foundation Models” (Xiong et al., NAACL 2024),
section 3.1; the wording of its prompt is unpublished.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from luthier.context.answering import Answer, Question, answers
from luthier.context.beginnings import Beginnings
from luthier.context.sentence_ends import ALONE, BEFORE_BLANK
from luthier.context.text_scores import rouge_l
from luthier.errors import DataError

FIRST = "\nThe first sentence of the text above is:"
OPENING, NEEDLE = "There is a pass key in the text. Keep it in mind.\n", " The pass key is {key}."
ASKED = "\nWhat is the pass key? The pass key is"
FILLER = (
    "The river goes on past the mill and the bridge. Somebody has left a boat at the bank. Clouds come and go. "
    "It is warm, and nothing happens for a long while. "
)
_SENTENCE = re.compile(rf"\s*(\S.*?(?:{BEFORE_BLANK}(?=\s|$)|{ALONE}))", re.DOTALL)
_SHORTEST, _LONGEST, _KEY_DIGITS, _WRITTEN = 5, 64, 5, 1.5
_TOKENS_TOGETHER = 65_536


@dataclass(frozen=True)
class Probe:
    """The answers at one length, and at one depth of a passkey.

    Attributes:
        length: tokens of prompt and answer together, at most.
        depth: where the answer stands in the text, from 0, its start, to 1.
        hops: assignments that lead from a variable to its value, where variables are tracked.
        exact: (N,) whether greedy decoding writes the answer.
        margins: (N,) nats a token by which the answer is likelier than another sample's.
        rouge_l: (N,) ROUGE-L of what was written; NaN where nothing was.
        recall: (N,) share of the wanted names in what was written; NaN where nothing was, or no names are wanted.
        texts: (N,) number of the text that is asked about, among those of this length and number of hops, where
            several questions are of one text; none where each answer has a text of its own.
        written: the first of what was written, with what it should be.
    """

    length: int
    depth: float
    exact: Any
    margins: Any
    rouge_l: Any
    written: Sequence[dict[str, str]] = ()
    hops: int = 0
    recall: Any = np.nan
    texts: Sequence[int] = ()

    @property
    def prefers(self) -> float:
        """Share of samples whose own answer is likelier than another's; half by chance."""
        return float((self.margins > 0).mean())


def first_sentence_retrieval(
    model: Any,
    tokenizer: Any,
    documents: Sequence[str],
    lengths: Sequence[int],
    *,
    samples: int = 50,
    batch_size: int = 8,
    seed: int = 0,
    generate: bool = True,
) -> list[Probe]:
    """Ask for the first sentence of texts of every length.

    Args:
        model: a causal language model.
        tokenizer: of it.
        documents: held-out texts; one that is too short is followed by the next ones.
        lengths: n, tokens of text, instruction and answer together; no prompt is longer.
        samples: texts of each length.
        batch_size: prompts in one pass, fewer where they are long.
        seed: of which texts.
        generate: whether the model writes its answer, for ROUGE-L, up to 1.5 times the tokens of the sentence.

    Returns:
        A probe for every length. Each sentence is the answer of one sample and the rival of another, so that in the
        mean margin it does not matter how likely sentences are by themselves.

    Raises:
        DataError: the texts have no sentence of a fitting length, or a length leaves no room.
    """
    encoded = _Encoded(tokenizer, documents)
    return [_first_sentences(model, encoded, length, samples, batch_size, seed, generate) for length in lengths]


def passkey_retrieval(
    model: Any,
    tokenizer: Any,
    lengths: Sequence[int],
    *,
    depths: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    samples: int = 10,
    batch_size: int = 8,
    seed: int = 0,
    haystack: Sequence[str] | None = None,
    reuse: bool = True,
) -> list[Probe]:
    """Hide a number in filler text at every depth of every length, and ask for it.

    Args:
        model: a causal language model.
        tokenizer: of it.
        lengths: n, tokens of the whole prompt and the answer; no prompt is longer.
        depths: where the key stands, as shares of the filler.
        samples: keys of each cell of the grid.
        batch_size: prompts in one pass, fewer where they are long.
        seed: of the keys.
        haystack: texts to hide it in; default four plain sentences again and again.
        reuse: whether the filler before a key is read once for all keys at that depth, and for the deeper ones. The
            answers are the same.

    Raises:
        DataError: a length leaves no room for filler.
    """
    grid = _Grid(tokenizer, haystack, samples, seed)
    found: list[Probe] = []
    for length in lengths:
        order = sorted(set(depths))
        asked = [
            replace(one, group=group) for group, depth in enumerate(order) for one in grid.questions(length, depth)
        ]
        answers_ = ask(model, tokenizer, asked, length, batch_size, reuse=reuse)
        for depth in depths:
            start = order.index(depth) * samples
            found.append(probe_of(answers_[start : start + samples], length, depth))
    return found


class _Encoded:
    """Documents as tokens, and where each one's first sentence ends."""

    def __init__(self, tokenizer: Any, documents: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        texts = [text.strip() for text in documents if text.strip()]
        firsts = [_SENTENCE.match(text) for text in texts]
        self.sentences = ["" if found is None else " ".join(found[1].split()) for found in firsts]
        # A sentence that goes over several lines stands in the text as it is asked for, on one.
        self.texts = [
            text if found is None else sentence + text[found.end() :]
            for text, found, sentence in zip(texts, firsts, self.sentences, strict=True)
        ]
        self.ids = [token_ids(tokenizer, text) for text in self.texts]
        self.newline = token_ids(tokenizer, "\n", behind=".")
        self.answers = [
            token_ids(tokenizer, f" {sentence}", behind=FIRST) if sentence else [] for sentence in self.sentences
        ]
        self.question = token_ids(tokenizer, FIRST, behind=".")

    def starting_with(self, most: int) -> list[int]:
        """Documents whose first sentence has from 5 to `most` tokens, none twice."""
        seen: dict[str, int] = {}
        for number, ids in enumerate(self.answers):
            if _SHORTEST <= len(ids) <= most:
                seen.setdefault(self.sentences[number], number)
        return list(seen.values())

    def text_from(self, number: int, tokens: int) -> list[int]:
        """The first tokens of a document and those that follow it, round the end."""
        found: list[int] = []
        place = number
        while len(found) < tokens:
            found += [*self.ids[place % len(self.ids)], *self.newline]
            place += 1
        return found[:tokens]


def _first_sentences(
    model: Any, texts: _Encoded, length: int, samples: int, batch_size: int, seed: int, generate: bool
) -> Probe:
    most = max(_SHORTEST, min(_LONGEST, length // 8))
    chosen = texts.starting_with(most)
    if len(chosen) < 2:
        raise DataError(
            f"the texts have {len(chosen)} first sentences of {_SHORTEST} to {most} tokens, and 2 are needed",
            fix="give other texts, or longer lengths",
        )
    draw = np.random.default_rng([seed, length])
    some = [chosen[i] for i in draw.permutation(len(chosen))[:samples]]
    budget = int(_WRITTEN * most)
    room = length - len(texts.question) - budget
    if room < most + 1:
        raise DataError(
            f"{length} tokens leave no room for a text beside the instruction and the answer", fix="take longer lengths"
        )
    questions = [
        Question(
            [*texts.text_from(number, room), *texts.question],
            texts.answers[number],
            texts.answers[some[(place + 1) % len(some)]],
            int(_WRITTEN * len(texts.answers[number])) if generate else 0,
        )
        for place, number in enumerate(some)
    ]
    wanted = [texts.sentences[number] for number in some]
    found = ask(model, texts.tokenizer, questions, length, batch_size)
    scores, written = _compared(texts.tokenizer, found, wanted if generate else None)
    return probe_of(found, length, rouge_l=scores, written=written)


class _Grid:
    """Prompts with a key in filler."""

    def __init__(self, tokenizer: Any, haystack: Sequence[str] | None, samples: int, seed: int) -> None:
        self.tokenizer, self.samples, self.seed = tokenizer, samples, seed
        self.opening, self.asked = token_ids(tokenizer, OPENING), token_ids(tokenizer, ASKED, behind=".")
        text = FILLER if haystack is None else "\n".join(one.strip() for one in haystack)
        self.filler = token_ids(tokenizer, text)

    def questions(self, length: int, depth: float) -> list[Question]:
        draw = np.random.default_rng([self.seed, length, round(1000 * depth)])
        low = 10 ** (_KEY_DIGITS - 1)
        keys = (low + draw.permutation(9 * low)[: 2 * self.samples]).tolist()
        answers_ = [token_ids(self.tokenizer, f" {key}.", behind=ASKED) for key in keys]
        longest = max(map(len, answers_))
        made = []
        for place in range(self.samples):
            needle = token_ids(self.tokenizer, NEEDLE.format(key=keys[place]), behind=".")
            room = length - longest - len(self.opening) - len(needle) - len(self.asked)
            if room < 1:
                raise DataError(
                    f"{length} tokens leave no room for filler around a pass key", fix="take longer lengths"
                )
            filler = (self.filler * (room // len(self.filler) + 1))[:room]
            cut = round(depth * room)
            prompt = [*self.opening, *filler[:cut], *needle, *filler[cut:], *self.asked]
            made.append(Question(prompt, answers_[place], answers_[self.samples + place]))
        return made


def ask(
    model: Any, tokenizer: Any, questions: Sequence[Question], length: int, batch_size: int, *, reuse: bool = True
) -> list[Answer]:
    """Answers to questions of `length` tokens at most, in passes that fit in memory."""
    together = max(1, min(batch_size, _TOKENS_TOGETHER // length))
    kept = Beginnings(model, reuse=reuse)
    return answers(model, questions, batch_size=together, stop=stops(tokenizer), beginnings=kept)


def probe_of(found: Sequence[Answer], length: int, depth: float = 0.0, **more: Any) -> Probe:
    """The answers of one cell of a grid."""
    unwritten = np.full(len(found), np.nan)
    exact, margins = (np.array([getattr(one, name) for one in found]) for name in ("exact", "margin"))
    return Probe(length, depth, exact, margins, **{"rouge_l": unwritten, "recall": unwritten, **more})


def _compared(
    tokenizer: Any, found: Sequence[Answer], wanted: Sequence[str] | None
) -> tuple[Any, list[dict[str, str]]]:
    if wanted is None:
        return np.full(len(found), np.nan), []
    texts = [tokenizer.decode(one.written, skip_special_tokens=True).partition("\n")[0].strip() for one in found]
    scores = np.array([rouge_l(text, one) for text, one in zip(texts, wanted, strict=True)])
    return scores, [{"wanted": one, "written": text} for text, one in zip(texts[:3], wanted, strict=False)]


def stops(tokenizer: Any) -> frozenset[int]:
    """What ends an answer: the end of text, and a newline where it is one token of its own."""
    newline = token_ids(tokenizer, "\n", behind=".")
    stops = {*(newline if len(newline) == 1 and tokenizer.decode(newline) == "\n" else []), tokenizer.eos_token_id}
    return frozenset(token for token in stops if token is not None)


def token_ids(tokenizer: Any, text: str, *, behind: str = "") -> list[int]:
    """Tokens of a text, without special ones.

    Args:
        behind: what stands before it. Tokenizers such as that of Llama 2 put a blank before whatever they are given, so
            that they read a text by itself otherwise than where it goes on from another one.
    """

    def ids(written: str) -> list[int]:
        found: list[int] = tokenizer(written, add_special_tokens=False, verbose=False)["input_ids"]
        return found

    head, whole = ids(behind) if behind else [], ids(behind + text)
    return whole[len(head) :] if whole[: len(head)] == head else ids(text)
