"""Documents of several domains by weight, from any place in each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from luthier.context.corpus_settings import DomainSettings, MixtureSettings
from luthier.errors import DataError
from luthier.language_modeling.documents import START, Corpus, Document, is_held_out
from luthier.language_modeling.stream import tokenized

# Documents and characters after which a window is full, and those that are tokenized together.
_UNSHUFFLED, _WINDOW_CHARACTERS = 128, 32_000_000
_TOGETHER, _TOGETHER_CHARACTERS = 64, 2_000_000


class Lane:
    """The tokenized documents of one domain, or its long or short ones, without an end.

    A pass reads windows of documents, shuffles each, and begins again when the text ends. Where it is, is the place of
    the window in the text, the documents of it that were tokenized together, and how many of these were given.

    Args:
        name: of the domain.
        weight: share of the tokens, beside those of other lanes.
        settings: of the domain.
        tokenizer: a fast one.
        seed: of the order.
        keeps: which documents, by their tokens.
    """

    def __init__(
        self,
        name: str,
        weight: float,
        settings: DomainSettings,
        tokenizer: Any,
        seed: Sequence[int],
        keeps: Callable[[int], bool],
    ) -> None:
        self.name, self.weight, self.settings, self.tokenizer = name, weight, settings, tokenizer
        self.corpus, self.seed, self.keeps = Corpus(settings.train, settings), list(seed), keeps
        self.epoch = 0
        self._place, self._window, self._taken, self._given = START, 0, 0, 0
        self._running: Iterator[np.ndarray[Any, Any]] | None = None

    def next(self) -> Any:
        """The token ids of the next document, (n,) int64, without special tokens.

        Raises:
            DataError: a source can't be read, or a whole pass gives no document.
        """
        if self._running is None:
            self._running = self._documents()
        return next(self._running)

    def state_dict(self) -> dict[str, Any]:
        """Where the lane is, behind the document that was given last."""
        return {
            "epoch": self.epoch,
            "place": dict(self._place),
            "window": self._window,
            "taken": self._taken,
            "given": self._given,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.epoch, self._place, self._window = int(state["epoch"]), dict(state["place"]), int(state["window"])
        self._taken, self._given = int(state["taken"]), int(state["given"])
        self._running = None

    def _documents(self) -> Iterator[Any]:
        while True:
            found = self._window + self._taken + self._given  # a pass that goes on has given some before
            documents = self.corpus.documents(self._place)
            while window := _full(documents, self.settings.shuffle or _UNSHUFFLED, _WINDOW_CHARACTERS):
                for ids in self._of_window(window):
                    found += 1
                    yield ids
                self._place, self._taken = window[-1].after, 0
                self._window += 1
            if not found:
                raise self._nothing()
            self.epoch, self._place, self._window = self.epoch + 1, START, 0

    def _of_window(self, window: Sequence[Document]) -> Iterator[Any]:
        order = np.arange(len(window))
        if self.settings.shuffle:
            order = np.random.default_rng([*self.seed, self.epoch, self._window]).permutation(order)
        ordered = iter([window[i] for i in order[self._taken :]])
        while some := _full(ordered, _TOGETHER, _TOGETHER_CHARACTERS):
            texts = [one.text for one in some if not is_held_out(one.text, self.settings.held_out_share)]
            kept = [ids for ids, _ in tokenized(texts, self.tokenizer, words=False) if self.keeps(len(ids))]
            for ids in kept[self._given :]:
                self._given += 1
                yield np.asarray(ids, dtype=np.int64)
            self._taken, self._given = self._taken + len(some), 0

    def _nothing(self) -> DataError:
        return DataError(
            "a whole pass over the text gives no document to train on",
            where=", ".join(one.name for one in self.corpus.sources),
            fix="name other text, hold less of it out, or choose another `long_documents.threshold`",
        )


def _full(documents: Iterator[Document], most: int, characters: int) -> list[Document]:
    taken: list[Document] = []
    seen = 0
    while len(taken) < most and seen < characters:
        document = next(documents, None)
        if document is None:
            break
        taken.append(document)
        seen += len(document.text)
    return taken


@dataclass(frozen=True)
class MixedDocument:
    """One document of a mixture.

    Attributes:
        ids: (n,) token ids.
        domain: its name.
    """

    ids: Any
    domain: str


class Mixture:
    """Documents of several lanes: the next one comes from the lane whose tokens fall furthest behind its weight, so
    that shares of tokens are those of the weights to within one document.

    Args:
        lanes: where documents come from.
    """

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self.lanes = list(lanes)
        self._tokens = [0] * len(self.lanes)

    def next(self) -> MixedDocument:
        """The next document."""
        number = min(range(len(self.lanes)), key=lambda n: (self._tokens[n] / self.lanes[n].weight, n))
        ids = self.lanes[number].next()
        self._tokens[number] += len(ids)
        return MixedDocument(ids, self.lanes[number].name)

    def state_dict(self) -> dict[str, Any]:
        """Where every lane is."""
        return {"tokens": list(self._tokens), "lanes": [lane.state_dict() for lane in self.lanes]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._tokens = [int(one) for one in state["tokens"]]
        for lane, one in zip(self.lanes, state["lanes"], strict=True):
            lane.load_state_dict(one)

    def passes(self) -> dict[str, int]:
        """Whole passes over the text of each domain, of the lane that has made most."""
        found: dict[str, int] = {}
        for lane in self.lanes:
            found[lane.name] = max(found.get(lane.name, 0), lane.epoch)
        return found


def mixture_of(settings: MixtureSettings, tokenizer: Any, seed: int) -> Mixture:
    """The mixture that a recipe describes."""
    lanes, long = [], settings.long_documents

    def is_long(tokens: int) -> bool:
        return tokens >= long.threshold

    def is_short(tokens: int) -> bool:
        return tokens < long.threshold

    for number, (name, one) in enumerate(settings.by_name.items()):
        parts: list[tuple[float, Callable[[int], bool]]]
        if long.kind == "upsample":
            parts = [(one.weight * long.share, is_long), (one.weight * (1 - long.share), is_short)]
        else:
            parts = [(one.weight, is_short if long.kind == "drop" else _any)]
        lanes += [
            Lane(name, weight, one, tokenizer, [seed, number, part], keeps)
            for part, (weight, keeps) in enumerate(parts)
        ]
    return Mixture(lanes)


def _any(_tokens: int) -> bool:
    return True
