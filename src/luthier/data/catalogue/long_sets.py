"""Questions about long documents, and summaries of them."""

from __future__ import annotations

from luthier.data.catalogue.known_set import KnownSet, laid_out, public_set

_REPLY = {"prompt": "prompt", "response": "response"}
_LEVAL = (
    "coursera financial_qa gov_report_summ multidoc_qa natural_question news_summ patent_summ quality sci_fi "
    "scientific_qa tpo tv_show_summ"
)


def _qmsum() -> KnownSet:
    return public_set(
        "qmsum",
        "prompt_response",
        _REPLY,
        {"validation": laid_out("meeting_queries", "val.jsonl"), "test": laid_out("meeting_queries", "test.jsonl")},
        metrics=("perplexity",),
        evaluation_only=True,
        note="a meeting and a question about it make a prompt of about 10,000 words: judge it with the suite "
        "`long_answers`",
    )


def _leval(name: str) -> KnownSet:
    return public_set(
        f"leval/{name}",
        "prompt_response",
        _REPLY,
        {"test": laid_out("document_questions", f"{name}.jsonl")},
        folder="leval",
        metrics=("perplexity",),
        evaluation_only=True,
        note="a document and a question about it make a prompt of thousands of words: judge it with the suite "
        "`long_answers`",
    )


LONG_SETS: tuple[KnownSet, ...] = (_qmsum(), *map(_leval, _LEVAL.split()))
