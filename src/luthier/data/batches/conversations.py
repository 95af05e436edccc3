"""Conversations as a chat template writes them, parted into what the assistant says and what it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from luthier.errors import DataError

Messages = Sequence[Mapping[str, str]]
_IGNORED = -100


class Tokenizing(Protocol):
    """How text becomes token ids."""

    tokenizer: Any
    where: str

    def tokenize(self, texts: list[Any], pairs: list[Any] | None = None, **options: Any) -> Any:
        """Token ids of a batch."""


def conversation_tokens(
    columns: Mapping[str, Sequence[Any]], rows: Sequence[int], encoder: Tokenizing
) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """Token ids of conversations in two parts, and what is learned of the first.

    Returns:
        For each row the ids of all before the last reply, their labels (-100 where the assistant does not speak), and
        the ids of the last reply.

    Raises:
        DataError: as `conversation_parts`.
    """
    prompts, learned, replies = [], [], []
    for number, row in enumerate(rows):
        history, prompt, response = (columns[name][number] for name in ("history", "prompt", "response"))
        where = f"{encoder.where}: row {row}"
        parts = conversation_parts(history, prompt, response, encoder.tokenizer, where)
        *before, reply = encoder.tokenize([text for text, _ in parts], add_special_tokens=False)["input_ids"]
        said = [own for _, own in parts[:-1]]
        prompts.append([token for ids in before for token in ids])
        learned.append([token if own else _IGNORED for ids, own in zip(before, said, strict=True) for token in ids])
        replies.append(list(reply))
    return prompts, learned, replies


def conversation_opening(row: Mapping[str, Any], encoder: Tokenizing) -> list[int]:
    """Token ids of a conversation that the assistant is to go on with.

    Raises:
        DataError: as `conversation_parts`.
    """
    where = f"{encoder.where}: row {row['row']}"
    parts = conversation_parts(row["history"], row["prompt"], None, encoder.tokenizer, where)
    ids: list[int] = encoder.tokenize(["".join(text for text, _ in parts)], add_special_tokens=False)["input_ids"][0]
    return list(ids)


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
        between = [(opening[done : len(start)], False)] if len(start) > done else []
        parts += [*between, (opening[len(start) : len(end)], True)]
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
