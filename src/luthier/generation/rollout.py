"""Texts from a model in this process, many at a time.

Prompts of similar length share a batch; what all of its prompts begin with is read once, a prompt that is asked several
times is read once, and rows that are finished leave the batch.

Shapes: B rows, U distinct prompts, P tokens of the common beginning, T tokens of the rest, V vocabulary.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from luthier.data.batches.encoders import Encoder, open_ended, prompt_tokens
from luthier.generation.sampling import RowSampler
from luthier.generation.writing import Request, Written
from luthier.models.greedy import GREEDY
from luthier.models.inspect import model_max_length
from luthier.progress import track
from luthier.tasks.running.writing import end_tokens, reads_padding, rows_at_once

logger = logging.getLogger(__name__)
# A beginning is read apart when it is this long, and finished rows leave when they are a quarter of a batch.
_COMMON, _LEAVES = 16, 4
# Frequencies of these rotary embeddings depend on how long the text is, so that its beginning alone has other keys.
_BY_LENGTH = ("dynamic", "longrope")
# Settings of models whose tokens see those that are near, and models whose distances count what stands between.
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "attention_window_size")
_OVER_COLUMNS = ("mpt",)


class Rollout:
    """Writes with a loaded causal language model.

    Args:
        model, tokenizer: loaded, in eval mode.
        batch_size: rows at a time.
        reserved: positions that a tuning method fills itself.
        description: of the progress bar.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, batch_size: int = 32, reserved: int = 0, description: str = "writing"
    ) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, rows_at_once(model, batch_size)
        self.limit = (model_max_length(model.config, tokenizer) or 1 << 20) - reserved
        self.description = description

    def write(
        self, requests: Sequence[Request], max_new_tokens: int, skip: frozenset[str] = frozenset()
    ) -> Iterator[list[Written]]:
        """Texts, batch by batch; see `luthier.generation.writing.Writer`."""
        prompts = prompt_ids(requests, self.tokenizer, self.limit, max_new_tokens)
        order = sorted(range(len(requests)), key=lambda i: (-len(prompts[i]), prompts[i], requests[i].id))
        done, ends = 0, end_tokens(self.model, self.tokenizer)
        with track(self.description, len(requests)) as bar:
            for places in self._batches(order, prompts):
                done += len(places)
                if not all(requests[i].id in skip for i in places):
                    yield self._batch([requests[i] for i in places], [prompts[i] for i in places], max_new_tokens, ends)
                bar.update(done)

    def _batches(self, order: Sequence[int], prompts: list[list[int]]) -> Iterator[list[int]]:
        """Parts of the order: of prompts of one length where the model reads padding."""
        parts = [list(order)]
        if reads_padding(self.model):
            parts = [list(part) for _, part in itertools.groupby(order, key=lambda i: len(prompts[i]))]
        for part in parts:
            for start in range(0, len(part), self.batch_size):
                yield part[start : start + self.batch_size]

    def _batch(
        self, requests: list[Request], prompts: list[list[int]], most: int, ends: frozenset[int]
    ) -> list[Written]:
        rows = [Row(self.limit - len(ids), most) for ids in prompts]
        sampler = RowSampler(requests)
        with torch.inference_mode():
            if reads_prompt_beside_text(self.model) or not self._keeps_rows:
                self._by_generate(prompts, rows, sampler, ends)
            else:
                self._step_by_step(prompts, rows, sampler, ends)
        texts = self.tokenizer.batch_decode([row.text(ends) for row in rows], skip_special_tokens=True)
        return [
            Written(one.id, one.begins + text, not row.ended, len(row.tokens), len(ids))
            for one, text, row, ids in zip(requests, texts, rows, prompts, strict=True)
        ]

    def _step_by_step(
        self, prompts: list[list[int]], rows: list[Row], sampler: RowSampler, ends: frozenset[int]
    ) -> None:
        logits_BV, cache, mask_BT = read_prompts(self.model, prompts, self._pad())
        here = list(range(len(rows)))
        while True:
            tokens_B = sampler.draw(logits_BV, here)
            for place, token in zip(here, tokens_B.tolist(), strict=True):
                rows[place].take(token, ends)
            going = [i for i, place in enumerate(here) if not rows[place].finished]
            if not going:
                return
            if len(going) <= len(here) - max(1, len(here) // _LEAVES):
                kept = torch.tensor(going, device=mask_BT.device)
                cache.batch_select_indices(kept)
                here, mask_BT, tokens_B = [here[i] for i in going], mask_BT[kept], tokens_B[kept]
            mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(here), 1)], dim=1)
            out = self.model(
                input_ids=tokens_B[:, None],
                attention_mask=mask_BT,
                position_ids=mask_BT.sum(1, keepdim=True) - 1,
                past_key_values=cache,
                use_cache=True,
            )
            logits_BV, cache = out.logits[:, -1].float(), out.past_key_values

    def _by_generate(
        self, prompts: list[list[int]], rows: list[Row], sampler: RowSampler, ends: frozenset[int]
    ) -> None:
        """By transformers' own loop, for tuners that put vectors beside the text."""
        ids_BT, mask_BT = padded(prompts, self._pad(), self.model.device)

        def pick(_ids: Tensor, scores_BV: Tensor) -> Tensor:
            places = [i for i, row in enumerate(rows) if not row.finished]
            chosen = torch.full((len(rows),), next(iter(ends), 0), device=scores_BV.device)
            if places:
                chosen[places] = sampler.draw(scores_BV[places].float(), places)
            for place in places:
                rows[place].take(int(chosen[place]), ends)
            only = torch.full_like(scores_BV, -torch.inf)
            only[torch.arange(len(rows), device=chosen.device), chosen] = 0.0
            return only

        self.model.generate(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            max_new_tokens=max(row.most for row in rows),
            logits_processor=[pick],
            **({"eos_token_id": sorted(ends)} if ends else {}),
            **GREEDY,
        )

    @cached_property
    def _keeps_rows(self) -> bool:
        """Whether the model gives a cache whose rows can be chosen, as recurrent and some old ones do not."""
        one = torch.tensor([[self._pad()]], device=self.model.device)
        cache = getattr(self.model(input_ids=one, use_cache=True), "past_key_values", None)
        layers = getattr(cache, "layers", ())
        return bool(layers) and all(hasattr(layer, "batch_select_indices") for layer in layers)

    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.tokenizer.eos_token_id or 0)


@dataclass
class Row:
    """A text while it is written.

    Args:
        room: positions behind its prompt.
        allowed: tokens that it may have.
    """

    room: int
    allowed: int

    def __post_init__(self) -> None:
        self.most = max(1, min(self.room, self.allowed))
        self.tokens: list[int] = []
        self.ended = False

    @property
    def finished(self) -> bool:
        return self.ended or len(self.tokens) >= self.most

    def take(self, token: int, ends: frozenset[int]) -> None:
        """One more token; nothing where it is finished."""
        if not self.finished:
            self.tokens.append(token)
            self.ended = token in ends

    def text(self, ends: frozenset[int]) -> list[int]:
        """Its tokens without the end."""
        return [token for token in self.tokens if token not in ends]


def prompt_ids(requests: Sequence[Request], tokenizer: Any, limit: int, max_new_tokens: int) -> list[list[int]]:
    """Token ids that a model goes on from; a prompt that is too long loses its start.

    Args:
        requests: N of them.
        tokenizer: of the model.
        limit: positions that the model has.
        max_new_tokens: that find room behind a prompt.
    """
    room, encoder = max(limit - max_new_tokens, limit // 4), Encoder(tokenizer, limit)
    found: dict[int, Sequence[int]] = {}
    has_template = getattr(tokenizer, "chat_template", None) is not None
    chats = [n for n, one in enumerate(requests) if has_template and one.chat]
    if chats:
        texts = [opened(tokenizer, requests[n]) + requests[n].begins for n in chats]
        found |= zip(chats, encoder.tokenize(texts, add_special_tokens=False)["input_ids"], strict=True)
    if plain := [n for n in range(len(requests)) if n not in found]:
        texts = [as_it_stands(requests[n]) for n in plain]
        if has_template:
            ids = encoder.tokenize(texts)["input_ids"]
            found |= zip(plain, [open_ended(one, tokenizer) for one in ids], strict=True)
        else:
            found |= zip(plain, prompt_tokens(texts, encoder), strict=True)
    cut = sum(len(ids) > room for ids in found.values())
    if cut:
        logger.warning(
            "%d of %d prompts are longer than the model has room for, and lost their start", cut, len(requests)
        )
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return [list(found[n])[-room:] or [first or 0] for n in range(len(requests))]


def opened(tokenizer: Any, request: Request) -> str:
    """A request as the chat template writes it, up to where the assistant goes on. Where the template takes no system
    text, that stands before the user's."""
    from jinja2 import TemplateError

    options = {"tokenize": False, "add_generation_prompt": True}
    messages = request.messages()
    if request.system:
        try:
            written: str = tokenizer.apply_chat_template(messages, **options)
            if request.system.strip() in written:
                return written
        except (TemplateError, ValueError):
            pass
        first = messages[1]
        messages[1:2] = [{**first, "content": f"{request.system}\n\n{first['content']}"}]
        del messages[0]
    opening: str = tokenizer.apply_chat_template(messages, **options)
    return opening


def as_it_stands(request: Request) -> str:
    """A request as plain text that goes on."""
    return "\n\n".join(one["content"] for one in request.messages()) + request.begins


def read_prompts(model: Any, prompts: list[list[int]], pad: int) -> tuple[Tensor, Any, Tensor]:
    """Logits behind every prompt (B, V) in float32, the cache, and the mask (B, P + T) of what is in it."""
    unique = list(dict.fromkeys(map(tuple, prompts)))
    place_of = {ids: place for place, ids in enumerate(unique)}
    shared = common_beginning(unique)
    # Behind a beginning that is read once, padding stands between it and the shorter rests.
    even = len(set(map(len, unique))) == 1
    shared = shared if shared >= _COMMON and len(unique) > 1 and keys_can_be_shared(model.config, even=even) else 0
    cache, before = None, torch.ones(len(unique), shared, dtype=torch.long, device=model.device)
    if shared:
        first = torch.tensor([unique[0][:shared]], device=model.device)
        cache = model(input_ids=first, use_cache=True, logits_to_keep=1).past_key_values
        cache.batch_select_indices(torch.zeros(len(unique), dtype=torch.long, device=model.device))
    ids_UT, mask_UT = padded([list(ids[shared:]) for ids in unique], pad, model.device)
    mask = torch.cat([before, mask_UT], dim=1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
    out = model(
        input_ids=ids_UT,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    cache, logits = out.past_key_values, out.logits[:, -1].float()
    if len(unique) < len(prompts):
        repeated = torch.tensor([place_of[tuple(ids)] for ids in prompts], device=model.device)
        cache.batch_select_indices(repeated)
        return logits[repeated], cache, mask[repeated]
    order = torch.tensor([place_of[tuple(ids)] for ids in prompts], device=model.device)
    assert order.tolist() == list(range(len(prompts)))
    return logits, cache, mask


def keys_can_be_shared(config: Any, *, even: bool) -> bool:
    """Whether the keys of what several texts begin with are the same in each of them, and serve what follows there.

    Args:
        config: of the model.
        even: whether they are as long as each other, so that no padding parts a beginning from what follows. Windows,
            and distances that are counted over columns, count padding.
    """
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope.get("rope_type")] if "rope_type" in rope else [one.get("rope_type") for one in rope.values() if one]
    if set(kinds) & set(_BY_LENGTH):
        return False
    windows = any(getattr(config, name, None) for name in _WINDOWS) or any(
        kind not in ("full_attention", "global") for kind in getattr(config, "layer_types", None) or ()
    )
    return even or not (windows or config.model_type in _OVER_COLUMNS)


def common_beginning(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with; at least one is left to each."""
    most = min(map(len, prompts)) - 1
    first = prompts[0]
    for place in range(most):
        if any(ids[place] != first[place] for ids in prompts):
            return place
    return most


def padded(prompts: Sequence[Sequence[int]], pad: int, device: Any) -> tuple[Tensor, Tensor]:
    """Token ids and mask, both (B, T), padded on the left."""
    width = max(map(len, prompts))
    ids = [[pad] * (width - len(one)) + list(one) for one in prompts]
    mask = [[0] * (width - len(one)) + [1] * len(one) for one in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def reads_prompt_beside_text(model: Any) -> bool:
    """Whether an adapter puts vectors before the text, which transformers' own loop then has to count."""
    configs = getattr(model, "peft_config", None)
    if not configs:
        return False
    active = getattr(model, "active_adapter", None)
    config = configs.get(active) if isinstance(active, str) else next(iter(configs.values()))
    from luthier.peft_bridge.adapter_types import ADAPTER_TYPES

    kind = str(getattr(config.peft_type, "value", config.peft_type))
    return bool(config.is_prompt_learning) or kind in ADAPTER_TYPES
