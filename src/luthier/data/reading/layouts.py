"""Readers of files that are laid out in their set's own way, and what shapes rows into a task's columns."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from luthier.data.catalogue.known_set import Files
from luthier.data.reading.readers import ReadOptions, decoded_lines, parse_json
from luthier.data.sources.base import FileSource
from luthier.data.table import Problems, Table, place
from luthier.errors import DataError

Layout = Callable[[list[FileSource], Files], Table]
_OPTIONS = ReadOptions()


def label_first(files: list[FileSource], how: Files) -> Table:
    """Lines of `label text`, parted by the first blank or, with the argument `tab`, by tabs into label and texts."""
    names = how.columns or ("label", "text", "text_pair")
    rows, lines, problems = [], [], Problems(files[0].name)
    for number, text in _lines(files):
        parts = text.split("\t") if how.argument == "tab" else text.split(" ", 1)
        if len(parts) < 2:
            problems.add(place(number), "has a label and no text")
            continue
        rows.append(dict(zip(names, parts, strict=False)))
        lines.append(number)
    problems.raise_if_any()
    return Table.of_records(files[0].name, rows, lines)


def after_header(files: list[FileSource], how: Files) -> Table:
    """Tab-separated lines after as many foreign ones as the argument says."""
    names, skipped = how.columns or (), int(how.argument or 0)
    rows = [(number, text.split("\t")) for number, text in _lines(files)[skipped:]]
    records = [dict(zip(names, cells, strict=True)) for _, cells in rows]
    return Table.of_records(files[0].name, records, [number for number, _ in rows])


def question_types(files: list[FileSource], how: Files) -> Table:
    """TREC: lines of `COARSE:fine question`."""
    table = label_first(files, how)
    fine = table.columns["label"]
    table.columns["fine"] = fine
    table.columns["label"] = [label.partition(":")[0] for label in fine]
    return table


def file_is_label(files: list[FileSource], how: Files) -> Table:
    """One file a label, one text a line; the label is the file's suffix."""
    rows = [
        {"text": text.strip(), "label": file.path.suffix.lstrip(".")} for file in files for _, text in _lines([file])
    ]
    return Table.of_records(files[0].name, rows)


def pairs_under_key(files: list[FileSource], how: Files) -> Table:
    """A json object whose value under the argument is a list of [text, label]."""
    pairs = parse_json(files[0], _OPTIONS)[how.argument]
    return Table(files[0].name, {"text": [p[0] for p in pairs], "label": [p[1] for p in pairs]})


def records_under_key(files: list[FileSource], how: Files) -> Table:
    """A json object whose value under the argument is a list of records."""
    return Table.of_records(files[0].name, parse_json(files[0], _OPTIONS)[how.argument])


def aligned_ids(files: list[FileSource], how: Files) -> Table:
    """ATIS: line-aligned files of ids (words, intent, slots), then the dictionaries of the three.

    The sentence markers BOS and EOS, first and last of every line, are dropped. The argument names the labels that
    are learned: `intent` or `slots`.
    """
    words, intents, slots = ([text.split() for _, text in _lines([file])] for file in files[:3])
    vocabulary, intent_names, slot_names = ([text.strip() for _, text in _lines([file])] for file in files[3:])
    tokens = [[vocabulary[int(i)] for i in row[1:-1]] for row in words]
    columns: dict[str, list[Any]] = {
        "tokens": tokens,
        "text": [" ".join(row) for row in tokens],
        "tags": [[slot_names[int(i)] for i in row[1:-1]] for row in slots],
        "label": [intent_names[int(row[0])] for row in intents],
    }
    return Table(files[0].name, columns, labels=slot_names if how.argument == "slots" else intent_names)


def entity_spans(files: list[FileSource], how: Files) -> Table:
    """Records of tokens and entities {type, start, end}, end exclusive -> BIO tags.

    Where two entities overlap, the longer one is kept, as BIO tags can't hold both.
    """
    records = parse_json(files[0], _OPTIONS)
    return Table(
        files[0].name,
        {
            "tokens": [r["tokens"] for r in records],
            "tags": [_bio(len(r["tokens"]), r["entities"]) for r in records],
        },
    )


def _bio(length: int, entities: list[dict[str, Any]]) -> list[str]:
    tags = ["O"] * length
    for entity in sorted(entities, key=lambda e: (e["start"] - e["end"], e["start"])):
        span = range(entity["start"], entity["end"])
        if all(tags[i] == "O" for i in span):
            for i in span:
                tags[i] = ("B-" if i == entity["start"] else "I-") + entity["type"]
    return tags


def triples(files: list[FileSource], how: Files) -> Table:
    """Texts of words parted by blanks, with triples [head, relation, tail] of words -> relations between entities,
    all of one type, where each word is first found.

    A relation of a word with itself is left out: nothing in the text tells its two ends apart.
    """
    columns: dict[str, list[Any]] = {"tokens": [], "entities": [], "relations": []}
    for record in parse_json(files[0], _OPTIONS):
        words, told = record["text"].split(), record["triple_list"]
        places = sorted({words.index(end) for head, _, tail in told for end in (head, tail)})
        index = {words[place]: number for number, place in enumerate(places)}
        columns["tokens"].append(words)
        columns["entities"].append([{"type": "entity", "start": p, "end": p + 1} for p in places])
        columns["relations"].append(
            [{"type": kind, "head": index[head], "tail": index[tail]} for head, kind, tail in told if head != tail]
        )
    return Table(files[0].name, columns)


def contrast_questions(files: list[FileSource], how: Files) -> Table:
    """BoolQ contrast set: the `original` or the `perturbed` questions of every paragraph; `group` joins the two."""
    rows = []
    for group, entry in enumerate(parse_json(files[0], _OPTIONS)["data"][1:], start=1):
        shared = {"passage": entry["paragraph"], "group": group}
        if how.argument == "original":
            rows.append(shared | {"question": entry["question"], "label": entry["answer"]})
            continue
        for changed in entry["perturbed_questions"]:
            if changed["perturbed_q"].strip() and changed["answer"]:
                rows.append(shared | {"question": changed["perturbed_q"], "label": changed["answer"]})
    return Table.of_records(files[0].name, rows)


def copa(table: Table) -> Table:
    """Choice of plausible alternatives: the premise asks for its cause or its effect."""
    ask = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}
    c = table.columns
    table.columns["context"] = [f"{p} {ask[q]}" for p, q in zip(c["premise"], c["question"], strict=True)]
    table.columns["choices"] = [list(pair) for pair in zip(c["choice1"], c["choice2"], strict=True)]
    return table


def multirc(table: Table) -> Table:
    """One row an answer. Takes both the nested rows of the official files and the flat ones of the Hub."""
    if "passage" in table.columns:
        rows = [
            {"paragraph": passage["text"], "question": question["question"], "answer": answer["text"]}
            | {"label": answer.get("label"), "group": f"{index}-{question['idx']}"}
            for index, passage in zip(table.columns["idx"], table.columns["passage"], strict=True)
            for question in passage["questions"]
            for answer in question["answers"]
        ]
        table = Table.of_records(table.name, rows)
    else:
        table.columns["group"] = [f"{i['paragraph']}-{i['question']}" for i in table.columns["idx"]]
    both = zip(table.columns["question"], table.columns["answer"], strict=True)
    table.columns["question_and_answer"] = [f"{question} {answer}" for question, answer in both]
    return table


def record(table: Table) -> Table:
    """One row a candidate entity of a query. Takes both the nested rows of the official files and the flat ones of the
    Hub; highlights follow the passage as further sentences."""
    rows = []
    for passage, query, group, entities, answers in _record_queries(table):
        candidates = list(dict.fromkeys(entities))
        shared = {"text": passage.replace("\n@highlight\n", " "), "query": query, "candidates": candidates}
        rows += [
            shared
            | {"group": group, "candidate": candidate, "filled": query.replace("@placeholder", candidate)}
            | ({} if answers is None else {"label": str(candidate in answers)})
            for candidate in candidates
        ]
    return Table.of_records(table.name, rows)


def _record_queries(table: Table) -> Iterator[tuple[str, str, str, list[str], list[str] | None]]:
    """Passage, query, group, entities and answers, None where they are hidden, of every query of ReCoRD."""
    c = table.columns
    if "qas" not in c:
        for passage, query, index, entities, answers in zip(
            c["passage"], c["query"], c["idx"], c["entities"], c.get("answers", [None] * len(table)), strict=True
        ):
            yield passage, query, f"{index['passage']}-{index['query']}", entities, answers
        return
    for passage, index, questions in zip(c["passage"], c["idx"], c["qas"], strict=True):
        text = passage["text"]
        entities = [text[span["start"] : span["end"] + 1] for span in passage["entities"]]
        for question in questions:
            answers = [answer["text"] for answer in question["answers"]] if "answers" in question else None
            yield text, question["query"], f"{index}-{question['idx']}", entities, answers


def wic(table: Table) -> Table:
    """Word in context: the word stands before the first sentence."""
    both = zip(table.columns["word"], table.columns["sentence1"], strict=True)
    table.columns["word_and_sentence"] = [f"{word}: {sentence}" for word, sentence in both]
    return table


def wsc(table: Table) -> Table:
    """Winograd schema: the pronoun is marked with asterisks, as T5 does it (Raffel et al. 2020)."""
    if "target" in table.columns:
        for key in ("span1_text", "span2_text", "span2_index"):
            table.columns[key] = [target[key] for target in table.columns["target"]]
    marked = []
    for text, word, index in zip(
        table.columns["text"], table.columns["span2_text"], table.columns["span2_index"], strict=True
    ):
        words = text.split(" ")
        end = index + len(word.split(" "))
        marked.append(" ".join([*words[:index], "*", *words[index:end], "*", *words[end:]]))
    table.columns["marked_text"] = marked
    return table


def group_of_newsgroups(table: Table) -> Table:
    """The part of a newsgroup's name before its first dot."""
    table.columns["coarse"] = [group.partition(".")[0] for group in table.columns["group"]]
    return table


def instruction(table: Table) -> Table:
    """Instruction and its input, where there is one, as one prompt."""
    both = zip(table.columns["instruction"], table.columns["input"], strict=True)
    table.columns["prompt"] = [f"{text}\n\n{extra}" if extra else text for text, extra in both]
    return table


def _lines(files: list[FileSource]) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for file in files:
        with file.open() as stream:
            found += [(n, line) for n, line in decoded_lines(stream, file.name, _OPTIONS) if line.strip()]
    return found


def document_questions(files: list[FileSource], how: Files) -> Table:
    """L-Eval: a json line a document, with questions and answers about it, each of which becomes a row."""
    rows = [
        _asked_of(record["input"], question, answer)
        for record in _records(files)
        for question, answer in zip(record["instructions"], record["outputs"], strict=True)
    ]
    return Table.of_records(files[0].name, rows)


def meeting_queries(files: list[FileSource], how: Files) -> Table:
    """QMSum: a json line a meeting, with questions about all of it and about parts, each of which becomes a row."""
    rows = []
    for record in _records(files):
        turns = "\n".join(f"{turn['speaker']}: {turn['content']}" for turn in record["meeting_transcripts"])
        asked = (*record["general_query_list"], *record["specific_query_list"])
        rows += [_asked_of(turns, one["query"], one["answer"]) for one in asked]
    return Table.of_records(files[0].name, rows)


def _asked_of(document: str, question: str, answer: str) -> dict[str, str]:
    """A row whose question stands behind its document, as base models are asked in Llama 2 Long (Xiong et al. 2024)."""
    return {"prompt": f"{document.strip()}\n\nQ: {question.strip()}\nA:", "response": answer.strip()}


def _records(files: list[FileSource]) -> Iterator[dict[str, Any]]:
    """The objects of json lines.

    Raises:
        DataError: a line is none.
    """
    for file in files:
        for number, text in _lines([file]):
            try:
                record = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"line {number} is no JSON: {error}", where=file.name, fix="copy the file again"
                ) from error
            yield record


LAYOUTS: dict[str, Layout] = {
    f.__name__: f
    for f in (
        label_first,
        after_header,
        question_types,
        file_is_label,
        pairs_under_key,
        records_under_key,
        aligned_ids,
        entity_spans,
        triples,
        contrast_questions,
        document_questions,
        meeting_queries,
    )
}
DERIVED: dict[str, Callable[[Table], Table]] = {
    f.__name__: f for f in (copa, multirc, record, wic, wsc, group_of_newsgroups, instruction)
}


def shape(name: str | None, table: Table) -> Table:
    """Apply the named shaping function.

    Raises:
        DataError: the table lacks what the function needs.
    """
    if name is None:
        return table
    try:
        return DERIVED[name](table)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"the rows are not laid out like this set: {re.sub(r'[^ -~]', '?', repr(error))}", where=table.name
        ) from error
