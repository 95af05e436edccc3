"""A tokenizer with fewer pieces, or with more: the vocabulary of a fast tokenizer, edited.

Pruning keeps what some text uses, so that it is cut as before. Extending puts pieces of a new unigram model behind the
others, so that every old id keeps its meaning.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from luthier.data.batches.encoded_cache import tokenizer_json
from luthier.errors import ModelError
from luthier.vocabulary.merging import SPECIALS
from luthier.vocabulary.piece_views import ROLES, START
from luthier.vocabulary.settings import TrainerSettings
from luthier.vocabulary.unigram import batches, pieces_of, train_unigram

log = logging.getLogger(__name__)
_SCORE_STEP = 2.0**-10
_BATCH = 1000
_BYTE = re.compile("<0x[0-9A-F]{2}>")


def prune_tokenizer(tokenizer: Any, texts: Iterable[str], *, least: int = 1) -> Any:
    """The tokenizer with the tokens that occur in some texts, their letters, bytes for unknown ones, and special ones.

    Args:
        tokenizer: a fast tokenizer with a Unigram, WordPiece or WordLevel vocabulary.
        texts: of the languages that stay; they are cut into the same pieces as before where `least` is 1.
        least: occurrences of a token that stays.

    Raises:
        ModelError: its vocabulary is of another kind.
    """
    state = _state_of(tokenizer)
    counts: Counter[int] = Counter()
    letters: set[str] = set()
    for batch in batches(texts, _BATCH):
        for ids, text in zip(tokenizer(batch, add_special_tokens=False)["input_ids"], batch, strict=True):
            counts.update(ids)
            letters.update(text)
    normal = tokenizer.backend_tokenizer.normalizer
    letters |= set(normal.normalize_str(" ".join(sorted(letters)))) if normal is not None else set()
    model = state["model"]
    inside = model.get("continuing_subword_prefix") or ""
    kept_always = {one["id"] for one in state["added_tokens"]} | set(tokenizer.all_special_ids)

    def stays(name: str, number: int) -> bool:
        if counts[number] >= least or number in kept_always or name in letters or name.removeprefix(inside) in letters:
            return True
        return bool(model.get("byte_fallback")) and _BYTE.fullmatch(name) is not None

    known = sorted(tokenizer.get_vocab().items(), key=lambda one: one[1])
    place = {old: new for new, old in enumerate(number for name, number in known if stays(name, number))}
    if model["type"] == "Unigram":
        model["vocab"] = [model["vocab"][number] for number in place if number < len(model["vocab"])]
        model["unk_id"] = None if model["unk_id"] is None else place[model["unk_id"]]
    else:
        model["vocab"] = {name: place[number] for name, number in model["vocab"].items() if number in place}
    _renumber(state, place)
    return _rebuilt(tokenizer, state)


def extend_tokenizer(
    tokenizer: Any,
    units: Iterable[tuple[str, int]],
    *,
    pieces: int,
    trainer: TrainerSettings | None = None,
    weight: float = 1.0,
) -> Any:
    """The tokenizer with pieces of a unigram model of new text behind its own.

    Args:
        tokenizer: a fast tokenizer with a Unigram vocabulary, in which words start with `▁`.
        units: counted words or sentences of the new text, which are learned as the tokenizer normalises them.
        pieces: of the model of the new text, special ones among them; those that the tokenizer lacks come.
        trainer: of that model, but for its `normaliser`.
        weight: its log is added to the scores of new pieces.

    Raises:
        ModelError: its vocabulary is of another kind.
        DataError: there is too little text.
    """
    state = _state_of(tokenizer)
    if state["model"]["type"] != "Unigram":
        raise ModelError(
            f"pieces can't be added to a {state['model']['type']} vocabulary",
            fix="take a model with a Unigram vocabulary",
        )
    known = {name for name, _ in state["model"]["vocab"]} | {one["content"] for one in state["added_tokens"]}
    as_it_is = (trainer or TrainerSettings()).model_copy(update={"normaliser": "identity"})
    new = pieces_of(train_unigram(_as_read(tokenizer, units), pieces, as_it_is, named="text to extend by"))
    if (made := len(new) + len(SPECIALS)) < pieces:
        log.warning("the text to extend by gives %s pieces of %s", f"{made:,}", f"{pieces:,}")
    shift = math.log(weight)
    # Added tokens that lie behind the vocabulary become part of it, as its last choice: they are found before.
    last = min((score for _, score in state["model"]["vocab"]), default=0.0)
    behind = sorted((one for one in state["added_tokens"] if one["id"] >= len(state["model"]["vocab"])), key=_id_of)
    state["model"]["vocab"] += [[one["content"], last] for one in behind]
    for name, score in new.items():
        if name not in known:
            state["model"]["vocab"].append([name, round((score + shift) / _SCORE_STEP) * _SCORE_STEP])
    return _rebuilt(tokenizer, state)


def _as_read(tokenizer: Any, units: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """Units as the tokenizer's model would see them, with blanks for its marks of words."""
    normal = tokenizer.backend_tokenizer.normalizer
    for text, count in units:
        seen = text if normal is None else normal.normalize_str(text)
        if plain := " ".join(seen.replace(START, " ").replace("\0", " ").split()):
            yield plain, count


def _id_of(added: dict[str, Any]) -> int:
    return int(added["id"])


def _state_of(tokenizer: Any) -> dict[str, Any]:
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            "the tokenizer is not of the `tokenizers` library", fix="put its tokenizer.json beside config.json"
        )
    state: dict[str, Any] = json.loads(str(tokenizer_json(tokenizer)))
    kind = state["model"]["type"]
    if kind not in ("Unigram", "WordPiece", "WordLevel"):
        raise ModelError(
            f"a {kind} vocabulary can't be changed piece by piece, since its merges build on one another",
            fix="give the model a new vocabulary with `tokenizer`",
        )
    return state


def _renumber(state: dict[str, Any], place: dict[int, int]) -> None:
    for one in state["added_tokens"]:
        one["id"] = place[one["id"]]
    _renumber_processor(state.get("post_processor"), place)


def _renumber_processor(processor: dict[str, Any] | None, place: dict[int, int]) -> None:
    if not processor:
        return
    for one in processor.get("processors", ()):
        _renumber_processor(one, place)
    for special in (processor.get("special_tokens") or {}).values():
        special["ids"] = [place[number] for number in special["ids"]]
    for name in ("sep", "cls"):
        if isinstance(processor.get(name), list):
            processor[name][1] = place[processor[name][1]]


def _rebuilt(tokenizer: Any, state: dict[str, Any]) -> Any:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    state["truncation"] = state["padding"] = None
    special = {f"{role}_token": getattr(tokenizer, f"{role}_token") for role in ROLES}
    named = {str(token) for token in special.values()}
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state, ensure_ascii=False)),
        model_max_length=tokenizer.model_max_length,
        model_input_names=tokenizer.model_input_names,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        clean_up_tokenization_spaces=tokenizer.clean_up_tokenization_spaces,
        extra_special_tokens=[token for token in tokenizer.all_special_tokens if token not in named],
        **{name: value for name, value in special.items() if value is not None},
    )
    made.chat_template = tokenizer.chat_template
    return made
