"""Which tokens of a text a masked language model has to guess, and what stands in their place.

A mask depends on a seed and on the position of the block in its stream alone: not on the batch that the block is in, on
the process that trains on it, or on the model. So a run can be repeated, several models see the same masks, and a block
that comes again in a later pass over the text has another mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.data.schemas import IGNORED
from luthier.errors import ModelError

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Masking:
    """How tokens are masked (Devlin et al., “BERT”, NAACL 2019, section 3.1 and appendix C.2).

    Attributes:
        mask_token: its id.
        replacements: ids that a random token is drawn from.
        never: ids that are never masked, such as those of [CLS] and [SEP].
        rate: share of the other tokens that are predicted.
        masked, random: shares of these that become the mask token and a random one; the rest stay as they are.
        whole_words: whether all tokens of a word are predicted together.
        seed: of all masks.
    """

    mask_token: int
    replacements: Tokens
    never: frozenset[int]
    rate: float = 0.15
    masked: float = 0.8
    random: float = 0.1
    whole_words: bool = False
    seed: int = 0

    @classmethod
    def of(cls, tokenizer: Any, **settings: Any) -> Masking:
        """Masking with a tokenizer's tokens; `settings` are the other attributes.

        Raises:
            ModelError: the tokenizer has no mask token.
        """
        if tokenizer.mask_token_id is None:
            raise ModelError(
                "the tokenizer has no mask token, so a masked language model can't be trained with it",
                fix="set `objective: causal`, or take the tokenizer of a masked language model",
            )
        special = frozenset(tokenizer.all_special_ids)
        ordinary = np.array(sorted(set(tokenizer.get_vocab().values()) - special), dtype=np.int64)
        return cls(tokenizer.mask_token_id, ordinary, special, **settings)

    def apply(self, ids: Tokens, position: int, word_starts: NDArray[np.bool_] | None = None) -> tuple[Tokens, Tokens]:
        """Mask one block.

        Args:
            ids: (L,) tokens.
            position: of the block in its stream; with the seed it decides on the mask.
            word_starts: (L,), where a word begins; needed for whole words.

        Returns:
            What the model sees, (L,), and labels, (L,): the token where it is predicted, -100 elsewhere.
        """
        draw = np.random.Generator(np.random.Philox(key=np.array([self.seed, position], dtype=np.uint64)))
        candidates = np.flatnonzero(self._guessed[np.minimum(ids, len(self._guessed) - 1)])
        count = max(1, round(self.rate * len(candidates))) if len(candidates) else 0
        chosen = self._words(draw, candidates, count, word_starts) if self.whole_words else None
        if chosen is None:
            chosen = np.sort(draw.permutation(candidates)[:count])
        labels = np.full_like(ids, IGNORED)
        labels[chosen] = ids[chosen]
        seen, fate = ids.copy(), draw.random(len(chosen))
        seen[chosen[fate < self.masked]] = self.mask_token
        replaced = chosen[(fate >= self.masked) & (fate < self.masked + self.random)]
        seen[replaced] = self.replacements[draw.integers(0, len(self.replacements), len(replaced))]
        return seen, labels

    @cached_property
    def _guessed(self) -> NDArray[np.bool_]:
        """Token id -> whether it may be masked; the last entry is that of all ids from there on."""
        found = np.ones(max(self.never, default=0) + 2, np.bool_)
        found[list(self.never)] = False
        return found

    @staticmethod
    def _words(
        draw: np.random.Generator, candidates: Tokens, count: int, word_starts: NDArray[np.bool_] | None
    ) -> Tokens:
        """Tokens of words in random order, as many words as fit into `count` tokens. Where each word alone has more, as
        in scripts without blanks, `count` tokens of one word."""
        if word_starts is None:
            raise ValueError("whole words are masked, and where words begin is not given")
        if not len(candidates):
            return candidates
        begins = word_starts[candidates]
        begins[1:] |= np.diff(candidates) > 1  # a word does not go on behind a special token
        begins[0] = True
        bounds = [*np.flatnonzero(begins).tolist(), len(candidates)]
        chosen: list[int] = []
        for word in draw.permutation(len(bounds) - 1).tolist():
            first, last = bounds[word], bounds[word + 1]
            if len(chosen) + last - first <= count:
                chosen.extend(range(first, last))
            if len(chosen) == count:
                break
        if not chosen:
            chosen = (bounds[word] + draw.permutation(bounds[word + 1] - bounds[word])[:count]).tolist()
        return candidates[sorted(chosen)]
