"""What a model is asked about a part of a document, and how its reply is read. The paper's prompts are unpublished."""

from __future__ import annotations

import re

# What a reply begins with, where the back end lets it: small models keep to a form that they have begun.
BEGINS = "<question>"
_ASKED = {
    "normal": "Each text below is followed by a question that it answers, and by the answer as a sentence.",
    "short": "Each text below is followed by a question that it answers with a name, a number or a few words, and by "
    "that answer without an explanation.",
}
# Texts with a question and the answer of each kind: what a question looks like, whatever the model's size.
_SHOWN = (
    (
        "The mill at the river was built by Anna Smith in 1820. It burned down forty years later, when lightning "
        "struck its roof, and the village never had the money to build it again.",
        "Why was the mill never built again?",
        {"normal": "It was never built again because the village did not have the money.", "short": "no money"},
    ),
    (
        "Most bees live alone. Only about one kind in ten builds a hive, and of these the honey bee is kept by people, "
        "who have taken its honey for at least nine thousand years.",
        "How long have people taken the honey of bees?",
        {
            "normal": "People have taken the honey of bees for at least nine thousand years.",
            "short": "nine thousand years",
        },
    ),
)
_VERDICTS = (
    (_SHOWN[0][0], _SHOWN[0][1], "It burned down forty years later.", "no"),
    (_SHOWN[1][0], _SHOWN[1][1], "nine thousand years", "yes"),
    (_SHOWN[0][0], "Who built the mill?", "Anna Smith built it.", "yes"),
    (_SHOWN[1][0], "Who keeps the honey bee?", "Wolves keep it.", "no"),
)
_LEARNED = {
    "normal": "Answer the question about the text above.",
    "short": "Answer the question about the text above with a few words, without an explanation.",
}
# Small models close a tag by another one's name, or an answer by an empty line.
_PAIR = re.compile(r"<question>([^<]*)</\w+>\s*<answer>([^<]*?)(?:</\w+>|\n\s*\n)", re.IGNORECASE)
_VERDICT = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


def asked_for_a_pair(chunk: str, kind: str) -> str:
    """The prompt for a question and its answer."""
    shown = "".join(
        f"Text: {text}\n<question>{question}</question>\n<answer>{answers[kind]}</answer>\n\n"
        for text, question, answers in _SHOWN
    )
    return f"{_ASKED[kind]}\n\n{shown}Text: {' '.join(chunk.split())}\n"


def pair_in(text: str) -> tuple[str, str] | None:
    """Question and answer in what a model wrote; None where a tag is missing or empty, or holds what it was shown."""
    found = _PAIR.search(text)
    if found is None:
        return None
    question, answer = (" ".join(part.split()) for part in found.groups())
    if not question or not answer or any(question == shown for _, shown, _ in _SHOWN):
        return None
    return question, answer


def asked_for_a_verdict(chunk: str, question: str, answer: str) -> str:
    """The prompt that shows a model its own answer again."""
    shown = "".join(_judged(text, asked, said, verdict) + "\n\n" for text, asked, said, verdict in _VERDICTS)
    return (
        "Each text below is followed by a question, an answer, and whether the answer is right, going by the text "
        f"alone: yes or no.\n\n{shown}{_judged(' '.join(chunk.split()), question, answer, '')}"
    )


def _judged(text: str, question: str, answer: str, verdict: str) -> str:
    return f"Text: {text}\nQuestion: {question}\nAnswer: {answer}\nRight:{verdict and ' ' + verdict}"


def verdict_in(text: str) -> str:
    """`yes`, `no`, or `unclear` where the reply begins with neither."""
    found = _VERDICT.match(text)
    return found[1].lower() if found else "unclear"


def learned_prompt(document: str, question: str, kind: str) -> str:
    """What the trained model reads: the document, then the question; the wording tells the kind of answer."""
    return f"{document}\n\n{_LEARNED[kind]}\nQuestion: {question}"
