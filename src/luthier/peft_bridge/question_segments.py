"""Segments of questions and contexts, which PEFT's model for question answering takes and does not hand on.

Without them BERT can't tell the question from the context, and what it learned of segments before is lost. The body
gets them back for the length of a call. Positions that a caller gives are lost in the same way, and come back too,
except under a prompt, with which PEFT drops them on purpose.

Shapes: B examples, T tokens, P prompt positions.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any


def with_segments(stock: Any) -> Any:
    """`PeftModelForQuestionAnswering.forward` that hands `token_type_ids` (B, T) on; zeros stand for a prompt."""
    signature = inspect.signature(stock)

    @functools.wraps(stock)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind_partial(self, *args, **kwargs).arguments
        names = ["token_type_ids"] + ["position_ids"] * (not self.active_peft_config.is_prompt_learning)
        base = self.get_base_model()
        body = getattr(base, "base_model", base)
        taken = inspect.signature(body.forward).parameters
        lost = {name: given[name] for name in names if given.get(name) is not None and name in taken}
        if not lost:
            return stock(self, *args, **kwargs)
        # In front of the hooks of tuners, which read what the body is called with.
        handle = body.register_forward_pre_hook(
            lambda _body, args, kwargs: (args, {**kwargs, **_lengthened(lost, kwargs)}), prepend=True, with_kwargs=True
        )
        try:
            return stock(self, *args, **kwargs)
        finally:
            handle.remove()

    return forward


def _lengthened(lost: dict[str, Any], call: dict[str, Any]) -> dict[str, Any]:
    """What was lost, with zeros for the prompt positions in front of the text's embeddings."""
    from torch.nn import functional

    embeds = call.get("inputs_embeds")
    return {
        name: x if embeds is None else functional.pad(x, (embeds.shape[1] - x.shape[1], 0)) for name, x in lost.items()
    }
