"""Words that may stand in for another one, from models at hand.

Shapes: V vocabulary, H width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from luthier.data.words import WORD
from luthier.errors import ModelError
from luthier.models.inspect import text_embeddings

_MARKS = "Ġ▁"


def whole_words(tokenizer: Any) -> dict[str, int]:
    """Words in small letters that are one token of the tokenizer, with its id, in an order that never changes.

    A token counts as a word where it starts one: it carries the tokenizer's word mark, or no continuation mark
    where the tokenizer marks continuations. Of a word in several letter cases, the one in small letters counts, else
    the first.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    marked = any(token[:1] in _MARKS and len(token) > 1 for token in vocabulary)
    words: list[tuple[str, int]] = []
    for token, number in vocabulary.items():
        if marked and token[:1] in _MARKS:  # behind the mark may stand bytes in place of letters
            words.append((tokenizer.convert_tokens_to_string([token]).strip(), number))
        elif not marked and not token.startswith("##"):
            words.append((token, number))
    found: dict[str, int] = {}
    for word, number in sorted(words, key=lambda one: (one[0] != one[0].lower(), one[1])):
        if len(word) > 1 and WORD.fullmatch(word):
            found.setdefault(word.lower(), number)
    return found


class EmbeddingNeighbours:
    """The nearest whole words in a model's input embeddings, by cosine.

    TextFooler does the same with word vectors of its own.

    Args:
        model: any transformers model.
        tokenizer: its tokenizer.
        count: most candidates for a word.
        min_cosine: least similarity of a candidate.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, *, count: int = 20, min_cosine: float = 0.4) -> None:
        self.count, self.min_cosine = count, min_cosine
        known = whole_words(tokenizer)
        self._words = list(known)
        self._index = {word: i for i, word in enumerate(self._words)}
        vectors = text_embeddings(model).weight.detach()[list(known.values())].float()
        self._vectors = F.normalize(vectors, dim=-1)

    def __call__(self, words: Sequence[str], at: int) -> list[str]:
        """Candidates for `words[at]`, best first."""
        here = self._index.get(words[at].lower())
        if here is None:
            return []
        cosine = self._vectors @ self._vectors[here]
        cosine[here] = -1
        values, order = cosine.topk(min(self.count, len(self._words)))
        return [self._words[i] for v, i in zip(values.tolist(), order.tolist(), strict=True) if v >= self.min_cosine]


class MaskedWords:
    """What a masked language model expects in a word's place (as BERT-Attack does).

    Args:
        model: a masked language model.
        tokenizer: its tokenizer, with a mask token.
        count: most candidates for a word.

    Raises:
        ModelError: the tokenizer has no mask token.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, *, count: int = 20) -> None:
        if tokenizer.mask_token_id is None:
            raise ModelError(
                "the tokenizer has no mask token", fix="use EmbeddingNeighbours, or a masked language model"
            )
        self.model, self.tokenizer, self.count = model.eval(), tokenizer, count
        known = whole_words(tokenizer)
        self._words, self._ids = list(known), torch.tensor(list(known.values()))

    def __call__(self, words: Sequence[str], at: int) -> list[str]:
        """Candidates for `words[at]`, best first."""
        text = " ".join([*words[:at], self.tokenizer.mask_token, *words[at + 1 :]])
        encoded = self.tokenizer(text, return_tensors="pt", truncation=True).to(next(self.model.parameters()).device)
        places = (encoded["input_ids"][0] == self.tokenizer.mask_token_id).nonzero()
        if not len(places):
            return []
        with torch.inference_mode():
            logits = self.model(**encoded).logits[0, int(places[0])].cpu()[self._ids]
        order = logits.topk(min(self.count + 1, len(self._words))).indices.tolist()
        return [w for w in (self._words[i] for i in order) if w != words[at].lower()][: self.count]
