"""Forms of rows that are in wide use -> the columns of a task: conversations, instructions, answers of other shapes.

Sources of the forms: conversations as TRL (`messages` of role and content) and ShareGPT (`conversations` of from and
value) have them; instructions as in Stanford Alpaca (instruction, input, output); questions as in the files of SQuAD.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from luthier.data.left_out import settle
from luthier.data.table import Problems, Table, is_missing, listing, shorten

Record = Mapping[str, Any]
Message = dict[str, str]

_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
_REPLIES = {"prompt": "prompt", "response": "response"}
_QUESTIONS = {"question": "question", "context": "context"}
_ANSWERS = ("answer", "answer_text")
_STEMS = ("question", "question_stem", "stem", "context")
_STARTS = ("answer_start", "start")


class UnusableRowError(ValueError):
    """A row that its form does not fit: the column, and why."""

    def __init__(self, column: str, message: str) -> None:
        self.column = column
        super().__init__(message)


@dataclass(frozen=True)
class Form:
    """What shapes the rows of a table.

    Attributes:
        about: what the rows are, for people.
        columns: canonical column -> column that shaped rows have.
        shape: a row as it was read -> the rows that it becomes.
    """

    about: str
    columns: Mapping[str, str]
    shape: Callable[[Record], list[dict[str, Any]]]


def form_of(
    record: Record, *, named: Mapping[str, Any] | None = None, task: str | None = None, labelled: bool = True
) -> Form | None:
    """The form that a table's rows have, or None where they are read as they are.

    Args:
        record: a row with something in every column.
        named: canonical column -> column of the table, as the user named them; rows whose prompts are named keep them.
        task: as the user named it; a form of another task is not looked for.
        labelled: whether the rows carry what is learned.
    """
    named = named or {}
    classified = task is None and {"text", "label"} <= set(record)
    if task in (None, "prompt_response") and not named and not classified:
        found = conversation_form(record, labelled=labelled) or _instruction_form(record, labelled)
        if found is not None:
            return found
    if task in (None, "multiple_choice") and not named:
        found = _lettered_form(record, labelled)
        if found is not None:
            return found
    if task in (None, "extractive_qa"):
        return _question_form(record, named, task, labelled)
    return None


def example_of(table: Table) -> dict[str, Any]:
    """One row that shows what every column holds: the first cell of each that is not empty."""
    empty: tuple[Any, ...] = ("", [], {})
    return {
        name: next((value for value in values if not is_missing(value) and value not in empty), None)
        for name, values in table.columns.items()
    }


def in_form(table: Table, form: Form, noted: Problems | None = None) -> Table:
    """The table with its rows shaped.

    Args:
        table, form: the rows as they were read, and what shapes them.
        noted: takes note of rows that the form does not fit, which are left out then; None refuses them.

    Raises:
        DataError: lists every row that the form does not fit.
    """
    problems, rows, lines, numbers = Problems(table.name), [], [], []
    for index in range(len(table)):
        try:
            shaped = form.shape(table.record(index))
        except UnusableRowError as error:
            problems.add(f"{table.place(index)}, column {error.column!r}", str(error))
            continue
        rows += shaped
        lines += [table.lines[index]] * len(shaped) if table.lines else []
        numbers += [table.number(index)] * len(shaped)
    settle(problems, noted, len(table) - problems.rows, "correct or remove these rows")
    # Where a record becomes several rows, these are counted, and not the records.
    counted = numbers if len(set(numbers)) == len(numbers) else None
    return Table.of_records(table.name, rows, lines or None, counted)


def is_conversation(value: Any) -> bool:
    """Whether a cell holds messages: {role, content}, or {from, value}."""
    value = _parsed(value)
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(one, dict) and ({"role", "content"} <= set(one) or {"from", "value"} <= set(one))
            for one in value
        )
    )


def conversation_columns(record: Record) -> list[str]:
    """Columns whose cells hold messages."""
    return [name for name, value in record.items() if is_conversation(value)]


def _parsed(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def conversation_form(record: Record, *, labelled: bool = True) -> Form | None:
    """The form of rows with one conversation each; None where a row has none, or several that might be meant."""
    found = conversation_columns(record)
    if {"prompt", "response"} <= set(record) - set(found):
        return None
    preferred = [name for name in ("messages", "conversations") if name in found]
    if {"prompt", "completion"} <= set(found):
        columns = ["prompt", "completion"]
    elif found == ["prompt"] and not labelled:
        columns = found
    elif preferred or len(found) == 1:
        columns = [(preferred or found)[0]]
    else:
        return None
    replies = dict(_REPLIES) | {"history": "history"}

    def shape(row: Record) -> list[dict[str, Any]]:
        messages = [message for name in columns for message in _messages(row.get(name), name)]
        system = row.get("system")
        if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system})
        return [dict(row) | _last_exchange(messages, columns[-1], labelled)]

    return Form(f"conversations in the column {columns[0]!r}", replies, shape)


def _messages(value: Any, column: str) -> list[Message]:
    value = _parsed(value)
    if not isinstance(value, list) or not value:
        raise UnusableRowError(column, f"holds {shorten(value)}, which is no list of messages")
    return [_message(one, number, column) for number, one in enumerate(value, start=1)]


def _message(one: Any, number: int, column: str) -> Message:
    one = one if isinstance(one, dict) else {}
    written, content = one.get("role", one.get("from")), one.get("content", one.get("value"))
    role = _ROLES.get(written.lower()) if isinstance(written, str) else None
    if role is None:
        raise UnusableRowError(
            column, f"message {number} has the role {shorten(written)}; the roles are {listing(_ROLES)}"
        )
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str) or not content.strip():
        raise UnusableRowError(column, f"message {number} ({role}) holds {shorten(content)}, which is no text")
    return {"role": role, "content": content}


def _last_exchange(messages: list[Message], column: str, labelled: bool) -> dict[str, Any]:
    """Prompt and response of the last exchange, and the messages before it; what follows the last reply is left out.

    Raises:
        UnusableRowError: nothing is answered, or the last reply answers no message of the user.
    """
    replies = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    if not labelled and messages[-1]["role"] == "user":
        return {"prompt": messages[-1]["content"], "response": None, "history": messages[:-1]}
    if not replies:
        raise UnusableRowError(column, "has no message of the assistant, so there is nothing to learn")
    last = replies[-1]
    if last == 0 or messages[last - 1]["role"] != "user":
        raise UnusableRowError(column, f"message {last + 1} (assistant) does not follow a message of the user")
    return {
        "prompt": messages[last - 1]["content"],
        "response": messages[last]["content"],
        "history": messages[: last - 1],
    }


def _instruction_form(record: Record, labelled: bool) -> Form | None:
    reply = next((name for name in ("output", "response") if name in record), None)
    if "instruction" not in record or "prompt" in record or (reply is None and labelled):
        return None
    extra = next((name for name in ("input", "context") if name in record), None)
    system = "system" if isinstance(record.get("system"), str) else None
    history = "history" if isinstance(_parsed(record.get("history")), list) else None
    replies = dict(_REPLIES) | ({"history": "history"} if system or history else {})

    def shape(row: Record) -> list[dict[str, Any]]:
        prompt, more = row.get("instruction"), row.get(extra) if extra else None
        if isinstance(prompt, str) and isinstance(more, str) and more.strip():
            prompt = f"{prompt}\n\n{more}"
        added: dict[str, Any] = {"prompt": prompt, "response": row.get(reply) if reply else None}
        if system or history:
            said = row.get(system) if system else None
            before = [{"role": "system", "content": said}] if isinstance(said, str) and said.strip() else []
            added["history"] = before + (_exchanges(row.get(history), history) if history else [])
        return [dict(row) | added]

    parts = [name for name in ("instruction", extra, reply) if name]
    return Form(f"instructions in the columns {', '.join(parts)}", replies, shape)


def _exchanges(value: Any, column: str) -> list[Message]:
    """Messages of a list of [instruction, response] pairs."""
    value = _parsed(value)
    if is_missing(value) or value == "":
        return []
    if not isinstance(value, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in value):
        raise UnusableRowError(column, f"holds {shorten(value)}, which is no list of pairs of instruction and response")
    roles = ("user", "assistant")
    turns = [{"role": role, "content": text} for pair in value for role, text in zip(roles, pair, strict=True)]
    return [_message(turn, number, column) for number, turn in enumerate(turns, start=1)]


def _lettered_form(record: Record, labelled: bool) -> Form | None:
    """Choices with their letters, {text: [...], label: [...]}, and the letter of the right one, as ARC has them."""
    asked = next((name for name in _STEMS if name in record), None)
    right = next((name for name in ("answerKey", "answer_key") if name in record), None)
    if asked is None or not _is_lettered(record.get("choices")) or (right is None and labelled):
        return None

    def shape(row: Record) -> list[dict[str, Any]]:
        choices = _parsed(row.get("choices"))
        if not _is_lettered(choices):
            raise UnusableRowError("choices", f"holds {shorten(choices)}, which is not {{text: [...], label: [...]}}")
        one = {"context": row.get(asked), "choices": choices["text"]}
        if not labelled:
            return [dict(row) | one]
        if row.get(right or "") not in choices["label"]:
            raise UnusableRowError(str(right), f"holds {shorten(row.get(right or ''))}, which is none of the choices")
        return [dict(row) | one | {"label": choices["label"].index(row[str(right)])}]

    columns = {"context": "context", "choices": "choices"} | ({"label": "label"} if labelled else {})
    return Form(f"choices with letters, of which {right!r} names the right one of {asked!r}", columns, shape)


def _is_lettered(value: Any) -> bool:
    value = _parsed(value)
    texts, letters = (value.get("text"), value.get("label")) if isinstance(value, dict) else (None, None)
    return isinstance(texts, list) and isinstance(letters, list) and len(texts) == len(letters)


def _question_form(record: Record, named: Mapping[str, Any], task: str | None, labelled: bool) -> Form | None:
    paragraphs = record.get("paragraphs")
    if isinstance(paragraphs, list) and not named and all(isinstance(p, dict) and "qas" in p for p in paragraphs):
        columns = _QUESTIONS | ({"answers": "answers"} if labelled else {})
        return Form(
            "articles with paragraphs, as in the files of SQuAD", columns, partial(_of_article, labelled=labelled)
        )
    context, question = (str(named.get(name, name)) for name in ("context", "question"))
    if not labelled or context not in record or question not in record:
        return None
    written = [str(named["answers"])] if "answers" in named else ["answers", *_ANSWERS]
    column = next((name for name in written if name in record), None)
    start = next((name for name in _STARTS if name in record), None)
    if column is None or not _is_plain_answer(record[column]) or (start is None and task is None):
        return None

    def shape(row: Record) -> list[dict[str, Any]]:
        return [dict(row) | {"answers": _placed(row[column], row.get(start) if start else None, row[context], column)}]

    told = f" at the character in {start!r}" if start else " where it first stands in the context"
    return Form(f"answers as text in the column {column!r},{told}", {"answers": "answers"}, shape)


def _is_plain_answer(value: Any) -> bool:
    value = _parsed(value)
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def _placed(value: Any, start: Any, context: Any, column: str) -> dict[str, list[Any]]:
    """The texts of answers with their places in the context.

    Raises:
        UnusableRowError: an answer is not part of the context.
    """
    value = _parsed(value)
    texts = [] if is_missing(value) or value == "" else value if isinstance(value, list) else [value]
    given = start if isinstance(start, list) else [start] * len(texts)
    starts = []
    for text, place in zip(texts, given, strict=False):
        if is_missing(place) or place == "":
            place = context.find(text) if isinstance(context, str) and isinstance(text, str) else -1
            if place < 0:
                raise UnusableRowError(column, f"the answer {shorten(text)} is not part of the context")
        try:
            starts.append(int(place))
        except (TypeError, ValueError) as error:
            raise UnusableRowError(column, f"the answer starts at {shorten(place)}, which is no position") from error
    return {"text": texts, "answer_start": starts}


def _of_article(row: Record, labelled: bool) -> list[dict[str, Any]]:
    """The questions of one article, a row each."""
    found: list[dict[str, Any]] = []
    for paragraph in _list_of_objects(row.get("paragraphs"), "paragraphs"):
        for asked in _list_of_objects(paragraph.get("qas"), "qas"):
            one = {"context": paragraph.get("context"), "question": asked.get("question")}
            answers = asked.get("answers") or {"text": [], "answer_start": []}
            found.append(one | ({"answers": answers} if labelled else {}))
    return found


def _list_of_objects(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise UnusableRowError("paragraphs", f"`{name}` holds {shorten(value)}, which is no list of objects")
    return value
