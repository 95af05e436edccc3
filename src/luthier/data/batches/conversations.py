"""Conversations as a chat template writes them, parted into what the assistant says and what it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.errors import DataError

Messages = Sequence[Mapping[str, str]]


def conversation_parts(
    history: Messages, prompt: str, response: str | None, tokenizer: Any, where: str
) -> list[tuple[str, bool]]:
    """The text of a conversation in parts, (text, whether the assistant says it); joined they are what the template
    writes.

    Where a template writes earlier replies in another way once others follow, only the last one is a part of its own.
    Without a response the parts end where the assistant is to go on.

    Args:
        history: messages before the prompt, {role, content}.
        prompt: the user's last message.
        response: the assistant's answer to it, or None.
        tokenizer: of the model, with a chat template.
        where: names the row in messages.

    Raises:
        DataError: there is no chat template, or it refuses the conversation.
    """
    messages = [*history, {"role": "user", "content": prompt}]
    if getattr(tokenizer, "chat_template", None) is None:
        raise DataError(
            "holds a conversation of several messages, and the model's tokenizer has no chat template to write it with",
            where=where,
            fix="take a model that was tuned to chat, or rows of one prompt and one response",
        )
    opening = _written(messages, tokenizer, where, opens=True)
    parts = _replies_apart(messages, opening, tokenizer, where)
    if response is None:
        return parts
    whole = _written([*messages, {"role": "assistant", "content": response}], tokenizer, where)
    return [*parts, (whole.removeprefix(opening) if whole.startswith(opening) else response, True)]


def _replies_apart(messages: Messages, opening: str, tokenizer: Any, where: str) -> list[tuple[str, bool]]:
    parts, done = [], 0
    for place, message in enumerate(messages):
        if message["role"] != "assistant" or place == 0:
            continue
        start = _written(messages[:place], tokenizer, where, opens=True)
        end = _written(messages[: place + 1], tokenizer, where)
        if not end.startswith(start) or not opening.startswith(end) or len(start) < done:
            continue
        parts += [(opening[done : len(start)], False), (opening[len(start) : len(end)], True)]
        done = len(end)
    return [*parts, (opening[done:], False)]


def _written(messages: Messages, tokenizer: Any, where: str, *, opens: bool = False) -> str:
    from jinja2 import TemplateError

    try:
        written: str = tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=opens
        )
    except (TemplateError, ValueError) as error:
        raise DataError(
            f"the model's chat template refuses the conversation: {error}",
            where=where,
            fix="correct or remove the row; many templates want user and assistant in turn, and some no system message",
        ) from error
    return written
