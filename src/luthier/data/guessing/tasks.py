"""From the columns of a sample to the task that they seem to hold: one function for each kind."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from luthier.data.guessing.columns import (
    Column,
    able_labels,
    columns_of,
    label_beside,
    label_column,
    named_like,
    says_label,
    text_columns,
    text_pair_of,
    told_labels,
)
from luthier.data.guessing.several import columns_of_classes, one_label_task, parted_by, several_labels, texts_of
from luthier.data.guessing.task_guess import TaskGuess, renamed
from luthier.data.reading.forms import conversation_columns, conversation_form, example_of, form_of, in_form
from luthier.data.rows.canonical import words_of_cell
from luthier.data.rows.labels import alike_labels, seems_missing
from luthier.data.table import Table, shorten
from luthier.errors import DataError

_CHOICE = re.compile(r"(ending|choice|option|answer|solution|sol|opt|alternative|candidate)[_ ]?(\d|[a-hA-H])")
_REFUSED = "such rows are refused until corrected, or left out with `invalid_rows: drop`"
# Labels that are named one by one in a piece of advice, at most.
_MOST_NAMED = 8
_LETTERS = "ABCDEFGH"
_CHOICE_LABELS = ("label", "answer", "answerkey", "answer_key", "answer_idx", "gold", "target", "correct", "y")
_CONTEXTS = ("startphrase", "context", "ctx", "question", "premise", "stem", "sent1", "prompt", "passage", "text")
_PASSAGES = ("context", "passage", "paragraph", "document", "article", "text")
_EXCHANGED = ("prompt", "response", "completion", "instruction", "input", "output", "context", "chosen", "rejected")
# Names of what is written and of nothing else.
_WRITTEN = ("response", "completion", "output", "chosen", "targets")
_PROMPTS = (
    ("prompt", "response"), ("prompt", "completion"), ("instruction", "response"), ("instruction", "output"),
    ("question", "answer"), ("query", "response"), ("query", "answer"), ("input", "output"), ("source", "target"),
    ("article", "highlights"), ("article", "summary"), ("document", "summary"), ("dialogue", "summary"),
    ("text", "summary"), ("question", "response"), ("inputs", "targets"),
    ("prompt", "chosen"),
)  # fmt: skip


def guess_task(table: Table) -> tuple[TaskGuess, Table]:
    """The task, and the rows in its form.

    Raises:
        DataError: no column holds anything to learn from.
    """
    columns = columns_of(table)
    for guess in _GUESSERS:
        found = guess(table, columns)
        if found is not None:
            break
    else:
        found = _plain(table, columns)
    found.doubts += _unusable(found, columns, table)
    named = {name: value for name, value in found.keys.items() if name in ("question", "context", "answers")}
    form = form_of(example_of(table), named=named, task=found.task) if found.task in _FORMED else None
    return found, in_form(table, form) if form else table


def _unusable(found: TaskGuess, columns: Mapping[str, Column], table: Table) -> list[str]:
    """What to say of rows without a text that they need, or with something else in its place."""
    told = []
    for name in found.shown if found.task in _READ_AS_TEXT else ():
        column = columns.get(name)
        if column is None or not column.holds_text:
            continue
        odd = [value for value in column.values if not isinstance(value, str)]
        if missing := len(table) - len(column.texts) - len(odd):
            told.append(f"{_rows_have(missing)} nothing in {name!r}: {_REFUSED}")
        if odd:
            place = table.place(table.columns[name].index(odd[0]))
            told.append(f"{place} holds {shorten(odd[0])} in {name!r}, which is no text: {_REFUSED}")
    return told


_READ_AS_TEXT = ("single_sentence", "pair", "regression", "multi_label", "prompt_response")
_FORMED = ("prompt_response", "extractive_qa", "multiple_choice")


def _annotated(table: Table, columns: Mapping[str, Column]) -> TaskGuess | None:
    rows = [row for row in table.columns.get("entities", ()) if isinstance(row, list)]
    entities = [one for row in rows for one in row]
    if "tokens" not in columns or not columns["tokens"].holds_lists:
        return None
    if not entities or not all(isinstance(one, dict) and {"type", "start", "end"} <= set(one) for one in entities):
        return None
    found = TaskGuess("joint_extraction", shown=("tokens",))
    found.said = [
        f"'entities' holds spans of words, of the types {told_labels([str(one['type']) for one in entities])}"
    ]
    related = [one for row in table.columns.get("relations", ()) if isinstance(row, list) for one in row]
    if related:
        kinds = told_labels([str(one["type"]) for one in related if isinstance(one, dict) and "type" in one])
        found.said.append(f"'relations' holds how they are related: {kinds}")
    return found


def _words(table: Table, columns: Mapping[str, Column]) -> TaskGuess | None:
    lists = [name for name, column in columns.items() if column.holds_lists]
    tokens = named_like(lists, ("tokens", "words", "token", "sentence", "text"))
    tokens = tokens or next((n for n in lists if all(isinstance(x, str) for v in columns[n].values for x in v)), None)
    tags = [name for name in lists if name != tokens and _aligned(table, tokens, name)]
    tag = named_like(tags, ("tags", "ner_tags", "labels", "ner", "pos_tags", "tag", "slots")) or next(iter(tags), None)
    if tokens is None or tag is None:
        tokens, tag = (
            named_like(columns, ("tokens", "words")),
            named_like(columns, ("tags", "ner_tags", "labels", "slots")),
        )
        if tokens is None or tag is None or tokens == tag or not _aligned(table, tokens, tag):
            return None
    labels = [str(one) for value in columns[tag].values for one in _listed(value)]
    found = TaskGuess("token_labels", renamed({"tokens": tokens, "tags": tag}), shown=(tokens,))
    found.labels = sorted(set(labels))
    found.said = [f"{tokens!r} holds the words, {tag!r} a label for each", f"labels seen: {told_labels(labels)}"]
    if len(tags) > 1:
        found.doubts = [f"{', '.join(map(repr, tags))} all fit as labels: choose with `tags: NAME`"]
    return found


def _listed(value: Any) -> Any:
    return words_of_cell(value) if isinstance(value, str) else value


def _aligned(table: Table, tokens: str | None, tags: str) -> bool:
    if tokens is None:
        return False
    both = zip(table.columns[tokens], table.columns[tags], strict=True)
    counts = [[len(_listed(value)) if isinstance(value, str | list) else -1 for value in pair] for pair in both]
    return all(first == second > 0 for first, second in counts) and any(first > 1 for first, _ in counts)


def _messages(table: Table, columns: Mapping[str, Column]) -> TaskGuess | None:
    record = example_of(table)
    found, form = conversation_columns(record), conversation_form(record)
    if not found or (form is None and form_of(record, task="prompt_response")):
        return None
    if form is None and {"prompt", "response"} <= set(record):
        return None
    if form is None:
        raise DataError(
            f"several columns hold conversations: {', '.join(map(repr, found))}",
            where=table.name,
            fix="call the one to learn from `messages`, or take the others out",
        )
    turns = sum(len(row["history"]) > 0 for row in map(in_form(table, form).record, range(len(table))))
    said = [form.about, "the chat template of the model writes them, and only what the assistant says is learned"]
    return TaskGuess(
        "prompt_response",
        {},
        said,
        ["conversations of several exchanges need a model with a chat template"] if turns else [],
        ("history", "prompt", "response"),
        turns > 0,
    )


def _choices(table: Table, columns: Mapping[str, Column]) -> TaskGuess | None:
    form = form_of(example_of(table), task="multiple_choice")
    if form is not None:
        return TaskGuess("multiple_choice", {}, [form.about], [], ("context", "choices"))
    several = _choice_columns(columns)
    if several is None:
        return _choices_without_names(table, columns)
    count = len(several) if isinstance(several, list) else max(len(value) for value in columns[several].values)
    taken = set(several if isinstance(several, list) else [several])
    rest = {name: column for name, column in columns.items() if name not in taken}
    label = named_like(rest, _CHOICE_LABELS)
    context = named_like([name for name in rest if name != label and rest[name].holds_text], _CONTEXTS)
    context = context or next(iter(text_columns(rest, label)), None)
    if label is None or context is None:
        return None
    return _choice_guess(columns[label], context, several, count)


def _choice_columns(columns: Mapping[str, Column]) -> str | list[str] | None:
    listed = named_like(columns, ("choices", "options", "endings", "answers", "candidates", "alternatives"))
    if (
        listed
        and columns[listed].holds_lists
        and all(len(value) > 1 and isinstance(value[0], str) for value in columns[listed].values)
    ):
        return listed
    groups: dict[str, list[str]] = {}
    for name in columns:
        found = _CHOICE.fullmatch(name)
        if found:
            groups.setdefault(found[1], []).append(name)
    largest = max(groups.values(), key=len, default=[])
    if len(largest) > 1:
        return sorted(largest)
    letters = [letter for letter in _LETTERS if letter in columns] or [x for x in _LETTERS.lower() if x in columns]
    return letters if len(letters) > 1 and letters[0] in "Aa" else None


def _choices_without_names(table: Table, columns: Mapping[str, Column]) -> TaskGuess | None:
    """A question, its choices and a letter, in a file without a header line."""
    names = list(columns)
    if not all(name.startswith("column") for name in names) or not 4 <= len(names) <= 2 + len(_LETTERS):
        return None
    letters = set(columns[names[-1]].labels)
    count = len(names) - 2
    if len(letters) < 2 or not letters <= set(_LETTERS[:count]):
        return None
    return _choice_guess(columns[names[-1]], names[0], names[1:-1], count)


def _choice_guess(label: Column, context: str, choices: str | list[str], count: int) -> TaskGuess | None:
    labels = set(label.labels)
    indices = [str(number) for number in range(count)]
    maps: dict[str, str] = {}
    doubts = []
    if not labels <= set(indices):
        for ways in (_LETTERS[:count], _LETTERS[:count].lower(), [str(number + 1) for number in range(count)]):
            if labels <= set(ways):
                maps = dict(zip(ways, indices, strict=True))
        if not maps:
            return None
    elif "0" not in labels:
        doubts = ['no row has 0 as its answer; if answers count from 1, set `label_map: {"1": "0", "2": "1", ...}`']
    found = TaskGuess("multiple_choice", renamed({"context": context, "choices": choices, "label": label.name}))
    if maps:
        found.keys["label_map"] = maps
    named = repr(choices) if isinstance(choices, str) else ", ".join(map(repr, choices))
    told = f", which are counted {', '.join(maps)}" if maps else ", counted from 0"
    found.said = [
        f"{context!r} holds what is asked, {named} the choices",
        f"{label.name!r} holds the right one of {count}{told}; seen: {told_labels(label.labels)}",
    ]
    found.doubts = doubts
    found.shown = (context, *([choices] if isinstance(choices, str) else choices[:1]))
    return found


def _questions(table: Table, columns: Mapping[str, Column]) -> TaskGuess | None:
    if "paragraphs" in columns and form_of(example_of(table), task="extractive_qa"):
        said = ["articles with paragraphs and their questions, as in the files of SQuAD"]
        return TaskGuess("extractive_qa", {}, said, [], ("question", "context"))
    question = named_like(columns, ("question", "query"))
    context = named_like([name for name in columns if name != question and columns[name].holds_text], _PASSAGES)
    answer = named_like(columns, ("answers", "answer", "answer_text"))
    if question is None or context is None or answer is None:
        return None
    start = named_like(columns, ("answer_start", "start"))
    spans = [value for value in columns[answer].values if _has_places(value)]
    keys = renamed({"question": question, "context": context, "answers": answer})
    found = TaskGuess("extractive_qa", keys, shown=(question, context))
    found.said = [f"{question!r} is answered by a part of {context!r}, which {answer!r} holds"]
    if spans and len(spans) == len(columns[answer].values):
        return found
    if start is None and not _parts_of(table, context, answer):
        return None
    where = f"at the character in {start!r}" if start else "where it first stands in the context"
    found.said.append(f"an answer lies {where}")
    if start is None:
        found.doubts = ["the column lacks the places of the answers; if a text stands twice, the first place is taken"]
    if answer == "answer":
        keys.pop("answers", None)
    return found


def _has_places(value: Any) -> bool:
    import json

    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
    if isinstance(value, dict):
        return isinstance(value.get("text"), list) and "answer_start" in value
    return isinstance(value, list) and all(isinstance(one, dict) and "text" in one for one in value)


def _parts_of(table: Table, context: str, answer: str) -> bool:
    pairs = [
        (passage, one)
        for passage, value in zip(table.columns[context], table.columns[answer], strict=True)
        for one in (value if isinstance(value, list) else [value])
        if isinstance(one, str) and isinstance(passage, str) and one
    ]
    distinct = len({one for _, one in pairs})
    return bool(pairs) and 2 * distinct > len(pairs) and all(one in passage for passage, one in pairs)


def _instructions(table: Table, columns: Mapping[str, Column]) -> TaskGuess | None:
    form = form_of(example_of(table), task="prompt_response")
    if form is None:
        return None
    said = [form.about, "only the response is learned"]
    label = label_beside(_EXCHANGED, columns)
    doubts = [] if label is None else [f"if {label!r} is what is to be learned, set `task: pair` and `label: {label}`"]
    return TaskGuess("prompt_response", {}, said, doubts, ("prompt", "response"))


def _prompts(table: Table, columns: Mapping[str, Column]) -> TaskGuess | None:
    for first, second in _PROMPTS:
        prompt, response = named_like(columns, (first,)), named_like(columns, (second,))
        if prompt is None or response is None or not columns[prompt].holds_text or not columns[response].texts:
            continue
        exact = (first, second) in (("prompt", "response"), ("prompt", "completion"))
        if not exact and columns[response].could_be_label and columns[response].words < 3:
            continue
        label = label_beside((prompt, response), columns)
        if label is not None and says_label(label) and second not in _WRITTEN:
            return None
        found = TaskGuess("prompt_response", renamed({"prompt": prompt, "response": response}))
        found.said = [f"{prompt!r} holds the prompt, {response!r} the response", "only the response is learned"]
        found.shown = (prompt, response)
        if second == "chosen":
            found.doubts.append("these look like preferences: only the chosen responses are learned")
        elif columns[response].could_be_label:
            found.doubts = [
                f"{response!r} has few values: if they are classes, set `task: single_sentence`, `text: {prompt}` and "
                f"`label: {response}` in place of `prompt` and `response`"
            ]
        if label is not None:
            found.doubts.append(
                f"if {label!r} is what is to be learned, set `task: pair` and `label: {label}`, `text: {prompt}`, "
                f"`text_pair: {response}` in place of `prompt` and `response`"
            )
        return found
    return None


def _labelled(table: Table, columns: Mapping[str, Column]) -> TaskGuess | None:
    label = label_column(columns)
    texts = text_columns(columns, label)
    if label is None or not texts:
        return None
    column = columns[label]
    names, held = texts_of(columns, texts, scored=column.holds_scores)
    pair = "text_pair" in names
    found = TaskGuess(one_label_task(names), renamed(names | {"label": label}), shown=tuple(names.values()))
    found.said = [f"{held} the text, {label!r} the label"]
    left = [name for name in texts if name not in names.values() and not columns[name].could_be_label]
    if left and not pair:
        both = "" if column.holds_scores else "`task: pair` and "
        found.doubts.append(
            f"{left[0]!r} holds text, too: to read both, set {both}`text_pair: {left[0]}`; "
            f"to read it alone, `text: {left[0]}`"
        )
    elif pair and text_pair_of(columns, texts) is None:
        found.doubts.append("both texts are read; if the numbers are about one of them, take `text_pair` out")
    able = [name for name in able_labels(columns) if name != label and len(set(columns[name].labels)) > 1]
    if able:
        found.doubts.append(f"{', '.join(map(repr, able))} could be the label, too: choose with `label: NAME`")
    _settle_numbers(found, column, table)
    return found


def _settle_numbers(found: TaskGuess, column: Column, table: Table) -> None:
    rows, numbers, distinct = len(table), column.numbers, len(set(column.labels))
    if column.holds_scores:
        finite = [number for number in numbers if math.isfinite(number)]
        if not column.holds_fractions:
            found.doubts.append(f"the numbers are taken for scores; if they are classes, set `task: {found.task}`")
        found.task = "regression"
        found.said.append(f"the labels are numbers from {min(finite):g} to {max(finite):g}, so the task is regression")
        if column.odd:
            found.doubts.append(f"{_told_odd(column, table)}: {_REFUSED}")
        if unusable := rows - len(finite) - len(column.odd):
            found.doubts.append(f"{_rows_have(unusable)} no {column.name!r} that is a finite number: {_REFUSED}")
        return
    if column.odd:
        found.doubts.append(f"{_told_odd(column, table)}, which is taken for a label")
    if column.has_decimal_commas and not parted_by(",", column.labels):
        found.doubts.append(_told_commas(column.name))
    elif parted_by(",", column.labels):
        found.doubts.append(
            f"some cells of {column.name!r} hold several labels with commas between them: to learn each, set "
            "`task: multi_label`"
        )
    elif mark := next((mark for mark in ";|" if parted_by(mark, column.labels)), None):
        found.doubts.append(
            f"some cells of {column.name!r} hold several labels with {mark!r} between them: to learn each, write them "
            "with commas and set `task: multi_label`"
        )
    for alike in alike_labels(column.labels)[:_MOST_NAMED]:
        named = ", ".join(map(repr, alike))
        found.doubts.append(f"{named} are classes of their own; if they mean the same, rename them with `label_map`")
    found.said.append(f"labels seen: {told_labels(column.labels)}")
    if "-" in column.labels:
        found.doubts.append("the label '-' often stands for none: take these rows out if it does")
    if numbers and distinct > 2:
        found.doubts.append("the numbers are taken for classes; if they are grades or scores, set `task: regression`")
    if missing := sorted({label for label in column.labels if seems_missing(label)}):
        others = sorted(set(column.labels) - set(missing))
        out = "take these rows out"
        if len(others) <= _MOST_NAMED:
            named = ", ".join(json.dumps(label, ensure_ascii=False) for label in others)
            out = f"`labels: [{named}]` and `invalid_rows: drop` leave these rows out"
        found.doubts.append(f"{', '.join(map(repr, missing))} is taken for a label: if it stands for none, {out}")
    if len(column.values) < rows:
        found.doubts.append(f"{_rows_have(rows - len(column.values))} no {column.name!r}: {_REFUSED}")


def _told_commas(name: str) -> str:
    return f"{name!r} holds numbers with a decimal comma, which are no scores: write them with a point to predict them"


def _rows_have(count: int) -> str:
    return "1 row has" if count == 1 else f"{count} rows have"


def _told_odd(column: Column, table: Table) -> str:
    """Where the first value stands that is no number, among those that are."""
    first = table.columns[column.name].index(column.odd[0])
    return (
        f"{len(column.numbers)} of {len(column.values)} values of {column.name!r} are numbers; "
        f"{table.place(first)} holds {column.odd[0]!r}"
    )


def _plain(table: Table, columns: Mapping[str, Column]) -> TaskGuess:
    texts = text_columns(columns, None)
    if not texts:
        raise DataError(
            f"no column holds text to learn from: {', '.join(map(repr, columns))}",
            where=table.name,
            fix="is it the right file? If the fields are parted by another character, say so with `delimiter`",
        )
    found = TaskGuess("plain_text", renamed({"text": texts[0]}), shown=(texts[0],))
    found.said = [f"{texts[0]!r} holds plain text, with nothing beside it that could be a label"]
    lists = [name for name, one in columns.items() if one.values and all(isinstance(v, list) for v in one.values)]
    commas = [name for name, one in columns.items() if one.has_decimal_commas]
    if lists:
        held = f"{', '.join(map(repr, lists))} {'holds' if len(lists) == 1 else 'hold'} lists"
        found.said = [f"{texts[0]!r} holds text; {held}, which are not read"]
        found.doubts = ["if they are labels, set `task: multi_label` and name them with `label: NAME`"]
    elif commas:
        found.said = [f"{texts[0]!r} holds text"]
        found.doubts = [_told_commas(commas[0])]
    elif len(columns) > 1:
        found.doubts = ["if a column is what is to be learned, set `task` and name it with `label: NAME`"]
    return found


Guesser = Callable[[Table, Mapping[str, Column]], TaskGuess | None]
_GUESSERS: tuple[Guesser, ...] = (
    _annotated, _words, _messages, _choices, _questions, _instructions, _prompts, several_labels, columns_of_classes,
    _labelled,
)  # fmt: skip
