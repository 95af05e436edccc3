"""Small files of every kind that `luthier init` knows, and what it should make of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

GOOD = ("a warm, clever film", "funny and bright from the start", "lovely scenes, fine actors", "it moved me deeply")
BAD = ("dull and far too long", "a cold, tired plot", "poor jokes; grim acting", "I left before the end")
TEXTS = [text for pair in zip(GOOD, BAD, strict=True) for text in pair]
LABELS = ["pos", "neg"] * 4


@dataclass
class Kind:
    """A file, the data block it should get, and a row that loading it should give."""

    name: str
    file: str
    content: str
    keys: dict[str, Any]
    row: dict[str, Any] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    others: dict[str, str] = field(default_factory=dict)


def rows(*cells: Any, by: str = ",") -> str:
    """Lines of quoted or plain cells."""
    quoted = [[f'"{c}"' if by in str(c) else str(c) for c in row] for row in cells]
    return "".join(by.join(row) + "\n" for row in quoted)


def lines(*records: Any) -> str:
    """JSON, one record a line."""
    return "".join(json.dumps(record) + "\n" for record in records)


LABELLED = list(zip(TEXTS, LABELS, strict=True))
SENTENCES = [(f"the film number {i} is long", f"film {i} is long", ("yes", "no")[i % 2]) for i in range(8)]
CONLL = "".join(
    f"{name} NNP B-NP B-PER\nsleeps VBZ B-VP O\nin IN B-PP O\n{town} NNP B-NP B-LOC\n\n"
    for name, town in zip(("Ann", "Bo", "Cy", "Di"), ("Oslo", "Rome", "Bern", "Lund"), strict=True)
)
INSTRUCTIONS = [
    {
        "instruction": f"Name a colour that goes with number {i}.",
        "input": ("", "Be short.")[i % 2],
        "output": f"Blue {i}.",
    }
    for i in range(6)
]
CHAT = [
    {
        "messages": [
            {"role": "system", "content": "Answer in one word."},
            {"role": "user", "content": f"What is {i} plus one?"},
            {"role": "assistant", "content": str(i + 1)},
            {"role": "user", "content": "And one more?"},
            {"role": "assistant", "content": str(i + 2)},
        ]
    }
    for i in range(6)
]
SHAREGPT = [
    {"id": i, "conversations": [{"from": "human", "value": f"Say {i}."}, {"from": "gpt", "value": f"It is {i}."}]}
    for i in range(6)
]
PASSAGES = [f"In the year {1900 + i} the town of {town} was founded by the river." for i, town in enumerate("ABCDEF")]
SQUAD = [
    {
        "id": str(i),
        "question": f"When was {passage[24]} founded?",
        "context": passage,
        "answers": {"text": [str(1900 + i)], "answer_start": [12]},
    }
    for i, passage in enumerate(PASSAGES)
]
NESTED = {
    "version": "1.1",
    "data": [
        {
            "title": "Towns",
            "paragraphs": [
                {
                    "context": one["context"],
                    "qas": [
                        {
                            "id": one["id"],
                            "question": one["question"],
                            "answers": [{"text": one["answers"]["text"][0], "answer_start": 12}],
                        }
                    ],
                }
                for one in SQUAD
            ],
        }
    ],
}
SPAN = {"text": ["1900"], "answer_start": [12]}
ENDINGS = [
    (f"She opens door {i} and", "walks in", "turns into a cloud", "sleeps", "sings to it", i % 4) for i in range(8)
]

KINDS = [
    Kind(
        "csv with other names", "reviews.csv", rows(("review", "sentiment"), *LABELLED),
        {"task": "single_sentence", "text": "review", "label": "sentiment"},
        {"text": GOOD[0]}, ["neg", "pos"],
    ),
    Kind(
        "csv without header", "reviews.csv", rows(*LABELLED),
        {"task": "single_sentence", "column_names": ["text", "label"]},
        {"text": GOOD[0]}, ["neg", "pos"],
    ),
    Kind(
        "tsv without header, label first", "reviews.tsv", rows(*[(b, a) for a, b in LABELLED], by="\t"),
        {"task": "single_sentence", "column_names": ["label", "text"]},
        {"text": GOOD[0]}, ["neg", "pos"],
    ),
    Kind(
        "semicolons", "reviews.csv", rows(("text", "label"), *LABELLED, by=";"),
        {"task": "single_sentence", "delimiter": ";"},
        {"text": GOOD[0]}, ["neg", "pos"],
    ),
    Kind(
        "tabs in a txt", "reviews.txt", rows(("text", "label"), *LABELLED, by="\t"),
        {"task": "single_sentence", "format": "tsv"},
        {"text": GOOD[0]}, ["neg", "pos"],
    ),
    Kind(
        "an identifier beside", "reviews.csv",
        rows(("id", "title", "body", "stars"), *[(i, "Note", t, 1 + i % 5) for i, t in enumerate(TEXTS)]),
        {"task": "single_sentence", "text": "body", "label": "stars"},
        {"text": GOOD[0]}, ["1", "2", "3", "4", "5"],
    ),
    Kind(
        "pairs", "pairs.tsv", rows(("sentence1", "sentence2", "gold"), *SENTENCES, by="\t"),
        {"task": "pair", "text": "sentence1", "text_pair": "sentence2", "label": "gold"},
        {"text": SENTENCES[0][0], "text_pair": SENTENCES[0][1]}, ["no", "yes"],
    ),
    Kind(
        "scores", "scores.csv", rows(("essay", "score"), *[(t, i / 2) for i, t in enumerate(TEXTS)]),
        {"task": "regression", "text": "essay", "label": "score"}, {"text": GOOD[0], "label": 0.0},
    ),
    Kind(
        "scores of two texts", "scores.jsonl",
        lines(*[{"sentence1": a, "sentence2": b, "score": i / 4} for i, (a, b, _) in enumerate(SENTENCES)]),
        {"task": "regression", "text": "sentence1", "text_pair": "sentence2", "label": "score"},
        {"text_pair": SENTENCES[0][1], "label": 0.0},
    ),
    Kind(
        "conll", "words.conll", CONLL, {"task": "token_labels"},
        {"tokens": ["Ann", "sleeps", "in", "Oslo"]}, ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"],
    ),
    Kind(
        "conll in a txt", "words.txt", "-DOCSTART- -X- -X- O\n\n" + CONLL, {"task": "token_labels", "format": "conll"},
        {"tokens": ["Ann", "sleeps", "in", "Oslo"]}, ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"],
    ),
    Kind(
        "lists of words", "words.jsonl",
        lines(*[{"id": i, "tokens": ["Ann", "sleeps"], "ner_tags": [1, 0]} for i in range(4)]),
        {"task": "token_labels", "tags": "ner_tags"}, {"tokens": ["Ann", "sleeps"]}, ["0", "1"],
    ),
    Kind(
        "alpaca", "alpaca.json", json.dumps(INSTRUCTIONS), {"task": "prompt_response"},
        {"prompt": "Name a colour that goes with number 0.", "response": "Blue 0."},
    ),
    Kind(
        "prompts and completions", "replies.jsonl",
        lines(*[{"prompt": f"Count to {i}.", "completion": f"{i} it is, of course."} for i in range(6)]),
        {"task": "prompt_response", "response": "completion"}, {"prompt": "Count to 0."},
    ),
    Kind(
        "chat", "chat.jsonl", lines(*CHAT), {"task": "prompt_response"},
        {"prompt": "And one more?", "response": "2", "history": CHAT[0]["messages"][:3]},
    ),
    Kind(
        "sharegpt", "chat.json", json.dumps(SHAREGPT), {"task": "prompt_response"},
        {"prompt": "Say 0.", "response": "It is 0.", "history": []},
    ),
    Kind(
        "squad", "squad.jsonl", lines(*SQUAD), {"task": "extractive_qa"},
        {"context": PASSAGES[0], "answers": SPAN},
    ),
    Kind(
        "squad's own nesting", "squad.json", json.dumps(NESTED), {"task": "extractive_qa"},
        {"context": PASSAGES[0], "answers": SPAN},
    ),
    Kind(
        "flat questions", "squad.csv",
        rows(
            ("passage", "question", "answer_text", "answer_start"),
            *[(p, f"When was {p[24]}?", 1900 + i, 12) for i, p in enumerate(PASSAGES)],
        ),
        {"task": "extractive_qa", "context": "passage", "answers": "answer_text"}, {"answers": SPAN},
    ),
    Kind(
        "answers without places", "squad.csv",
        rows(
            ("context", "question", "answer"),
            *[(p, f"When was {p[24]}?", f"year {1900 + i}") for i, p in enumerate(PASSAGES)],
        ),
        {"task": "extractive_qa"}, {"answers": {"text": ["year 1900"], "answer_start": [7]}},
    ),
    Kind(
        "endings in columns", "swag.csv",
        rows(("sent1", "ending0", "ending1", "ending2", "ending3", "label"), *ENDINGS),
        {
            "task": "multiple_choice", "context": "sent1",
            "choices": ["ending0", "ending1", "ending2", "ending3"],
        },
        {"choices": ["walks in", "turns into a cloud", "sleeps", "sings to it"], "label": 0},
    ),
    Kind(
        "letters", "quiz.csv",
        rows(("question", "A", "B", "C", "D", "answer"), *[(*one[:5], "ABCD"[one[5]]) for one in ENDINGS]),
        {
            "task": "multiple_choice", "context": "question", "choices": ["A", "B", "C", "D"], "label": "answer",
            "label_map": {"A": "0", "B": "1", "C": "2", "D": "3"},
        },
        {"label": 0},
    ),
    Kind(
        "letters without header", "quiz.csv", rows(*[(*one[:5], "ABCD"[one[5]]) for one in ENDINGS]),
        {
            "task": "multiple_choice", "choices": ["column2", "column3", "column4", "column5"],
            "column_names": ["context", "column2", "column3", "column4", "column5", "label"],
            "label_map": {"A": "0", "B": "1", "C": "2", "D": "3"},
        },
        {"label": 0},
    ),
    Kind(
        "list of choices", "quiz.jsonl",
        lines(*[{"question": one[0], "options": list(one[1:5]), "answer": one[5] + 1} for one in ENDINGS]),
        {
            "task": "multiple_choice", "context": "question", "choices": "options", "label": "answer",
            "label_map": {"1": "0", "2": "1", "3": "2", "4": "3"},
        },
        {"label": 0},
    ),
    Kind(
        "choices with letters", "quiz.jsonl",
        lines(
            *[
                {
                    "question": one[0],
                    "choices": {"label": list("ABCD"), "text": list(one[1:5])},
                    "answerKey": "ABCD"[one[5]],
                }
                for one in ENDINGS[1:]
            ]
        ),
        {"task": "multiple_choice"}, {"choices": list(ENDINGS[1][1:5]), "label": 1},
    ),
    Kind(
        "two texts of unlike length", "news.csv",
        rows(*[(1 + i % 4, t, f"{t}; and then {t}, {t} again: {t}") for i, t in enumerate(TEXTS)]),
        {"task": "single_sentence", "column_names": ["label", "column2", "text"]},
        labels=["1", "2", "3", "4"],
    ),
    Kind(
        "constant columns beside", "cola.tsv",
        rows(*[("gj04", i % 2, "*" if i % 2 else "", t) for i, t in enumerate(TEXTS)], by="\t"),
        {"task": "single_sentence", "column_names": ["column1", "label", "column3", "text"]},
        {"text": GOOD[0]}, ["0", "1"],
    ),
    Kind(
        "strings numbered in front", "mrpc.tsv",
        rows(("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"),
             *[(i % 2, 100 + i, 200 + i, a, b) for i, (a, b, _) in enumerate(SENTENCES)], by="\t"),
        {"task": "pair", "text": "#1 String", "text_pair": "#2 String", "label": "Quality"},
        {"text_pair": SENTENCES[0][1]}, ["0", "1"],
    ),
    Kind(
        "preferences", "chosen.jsonl",
        lines(*[{"prompt": f"Say {i}.", "chosen": f"It is {i}.", "rejected": f"No, not {i}."} for i in range(6)]),
        {"task": "prompt_response", "response": "chosen"}, {"response": "It is 0."},
    ),
    Kind("plain text", "book.txt", "".join(f"{t}.\n" for t in TEXTS), {"task": "plain_text"}, {"text": f"{GOOD[0]}."}),
    Kind(
        "one column of text", "book.csv", rows(("story",), *[(f"{t}.",) for t in TEXTS]),
        {"task": "plain_text", "text": "story"}, {"text": f"{GOOD[0]}."},
    ),
    Kind(
        "other splits beside", "train.csv", rows(("review", "sentiment"), *LABELLED),
        {
            "task": "single_sentence", "text": "review", "label": "sentiment",
            "validation": "dev.csv", "test": "test.csv",
        },
        {"text": GOOD[0]}, ["neg", "pos"],
        {
            "dev.csv": rows(("review", "sentiment"), *LABELLED[:2]),
            "test.csv": rows(("review", "sentiment"), *LABELLED[2:4]),
        },
    ),
    Kind(
        "a test file without labels beside", "train.tsv", rows(("sentence", "label"), *LABELLED, by="\t"),
        {"task": "single_sentence", "text": "sentence"},
        {"text": GOOD[0]}, ["neg", "pos"], {"test.tsv": rows(("index", "sentence"), *enumerate(TEXTS), by="\t")},
    ),
]  # fmt: skip
