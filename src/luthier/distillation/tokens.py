"""Whether the models of a graph mean the same by the same number: all of them read one batch, and compare outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.errors import ModelError

_SPECIAL = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")
_FIX = "take models with one tokenizer, or build one with `like` the other"


def check_same_tokens(tokenizers: Mapping[str, Any]) -> None:
    """Compare the vocabularies and special tokens of all nodes with the first one's, token by token.

    Args:
        tokenizers: by node.

    Raises:
        ModelError: two of them differ; names the first token that does.
    """
    (first, one), *others = tokenizers.items()
    for name, other in others:
        difference = first_difference(one, other)
        if difference is not None:
            number, mine, theirs = difference
            raise ModelError(
                f"the nodes {first} and {name} have other vocabularies: token {number} is {_told(mine)} in {first} and "
                f"{_told(theirs)} in {name}",
                fix=_FIX,
            )
        for kind in _SPECIAL:
            ids = [getattr(t, f"{kind}_token_id", None) for t in (one, other)]
            if ids[0] != ids[1]:
                told = [_told(getattr(t, f"{kind}_token", None)) for t in (one, other)]
                raise ModelError(
                    f"the {kind} token is {told[0]} ({ids[0]}) in the node {first} and {told[1]} ({ids[1]}) in {name}",
                    fix=_FIX,
                )


def first_difference(one: Any, other: Any) -> tuple[int, str | None, str | None] | None:
    """The first number that stands for another token: it, and both tokens; None where all are alike."""
    mine, theirs = _by_number(one), _by_number(other)
    for number in range(max(len(mine), len(theirs), *mine, *theirs) + 1):
        if mine.get(number) != theirs.get(number):
            return number, mine.get(number), theirs.get(number)
    return None


def check_same_outputs(vocabularies: Mapping[str, int]) -> None:
    """Compare how many tokens the language models of the graph predict, which may be more than their tokenizer has.

    Raises:
        ModelError: two of them differ.
    """
    (first, size), *others = vocabularies.items()
    for name, other in others:
        if other != size:
            raise ModelError(
                f"the node {first} predicts {size:,} tokens and {name} {other:,}, though their tokenizers are alike",
                fix="resize the embeddings of one of them, or take models of one family",
            )


def _by_number(tokenizer: Any) -> dict[int, str]:
    return {number: token for token, number in tokenizer.get_vocab().items()}


def _told(token: str | None) -> str:
    return "missing" if token is None else repr(str(token))
