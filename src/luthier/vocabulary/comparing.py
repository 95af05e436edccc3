"""Tokenizers side by side: as data, on the terminal and on a page."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from luthier.report.sections import Bars, Lines, Section, SectionTable, Value
from luthier.vocabulary.checking import check_text
from luthier.vocabulary.measuring import QUANTILES, TokenizerMeasures, measure_tokenizer, tokenizer_at
from luthier.vocabulary.settings import LanguageText
from luthier.vocabulary.text import corpus_of, language_sources, plain_lines

ENGLISH = ("en", "eng", "english", "en_XX", "eng_Latn")


def compare_tokenizers(
    references: Sequence[str], text: LanguageText, *, lines: int | None = None
) -> list[TokenizerMeasures]:
    """Measure tokenizers on the same text.

    Args:
        references: see `tokenizer_at`.
        text: by language.
        lines: the first lines of each language that are read; default all.

    Raises:
        DataError, ModelError: a text or a tokenizer can't be read, or a language has no text.
    """
    check_text(text)
    sources = language_sources(text)
    found = []
    for reference in references:
        texts = {n: itertools.islice(plain_lines(corpus_of(text, one)), lines) for n, one in sources.items()}
        found.append(measure_tokenizer(tokenizer_at(reference), texts, name=reference))
    return found


def reference_language(measures: Sequence[TokenizerMeasures]) -> str | None:
    """The language that parity is told against: English, where there is some."""
    return next((name for name in ENGLISH if measures and name in measures[0].languages), None)


def as_data(measures: Sequence[TokenizerMeasures]) -> dict[str, Any]:
    """Everything that was measured, in JSON's types."""
    reference = reference_language(measures)
    return {
        "reference_language": reference,
        "tokenizers": [
            {
                "name": one.name,
                "vocabulary": one.vocabulary,
                "mean_tokens_a_sentence": one.mean_tokens,
                "renyi_efficiency": one.renyi_efficiency(),
                "coverage": {str(share): count for share, count in one.coverage().items()},
                "frequent": one.frequent(),
                "longest": one.longest(),
                "languages": {
                    language: {
                        "sentences": own.sentences,
                        "tokens_a_sentence": own.tokens_a_sentence,
                        "fertility": own.fertility,
                        "continued_rate": own.continued_rate,
                        "unknown_rate": own.unknown_rate,
                        "distinct": own.distinct,
                        "parity": one.parity(language, reference) if reference else None,
                    }
                    for language, own in one.languages.items()
                },
            }
            for one in measures
        ],
    }


def tables(measures: Sequence[TokenizerMeasures], *, brief: bool = False) -> list[SectionTable]:
    """Of all languages together, and of each; brief ones fit a terminal."""
    reference = reference_language(measures)
    whole: list[list[Value]] = [
        [
            one.name,
            one.vocabulary,
            round(one.mean_tokens, 2),
            f"{sum(x.unknown for x in one.languages.values()) / max(1, sum(one.counts.values())):.3%}",
            len(one.counts),
            one.coverage()[0.99],
            round(one.renyi_efficiency(), 3),
        ]
        for one in measures
    ]
    short = [one.name.rstrip("/").rpartition("/")[2] or one.name for one in measures]
    named = short if len(set(short)) == len(short) else [one.name for one in measures]
    shown = (
        ["tokens a sentence", "unknown"] if brief else ["tokens a sentence", "fertility", "continued words", "unknown"]
    )
    shown += ["parity"] if reference and not brief else []
    columns = ["language", "sentences", *(f"{what}, {name}" for name in named for what in shown)]
    if len(measures) == 2:
        columns.append("change")
    rows: list[list[Value]] = []
    for language, first in measures[0].languages.items():
        row: list[Value] = [language, first.sentences]
        for one in measures:
            own = one.languages[language]
            told: dict[str, Value] = {
                "tokens a sentence": round(own.tokens_a_sentence, 2),
                "fertility": round(own.fertility, 2),
                "continued words": f"{own.continued_rate:.1%}",
                "unknown": f"{own.unknown_rate:.2%}",
                "parity": round(one.parity(language, reference) or 0.0, 2) if reference else None,
            }
            row += [told[what] for what in shown]
        if len(measures) == 2:
            second = measures[1].languages[language].tokens_a_sentence
            row.append(f"{second / max(1e-9, first.tokens_a_sentence) - 1:+.1%}")
        rows.append(row)
    wholes = [
        "tokenizer",
        "tokens",
        "tokens a sentence",
        "unknown",
        "used",
        "pieces of 99 % of tokens",
        "Rényi efficiency",
    ]
    return [SectionTable(wholes, whole), SectionTable(columns, rows)]


def sections(measures: Sequence[TokenizerMeasures]) -> list[Section]:
    """The page."""
    whole, by_language = tables(measures)
    reference = reference_language(measures)
    bars = {
        f"{language}, {one.name}" if len(measures) > 1 else language: one.languages[language].tokens_a_sentence
        for language in measures[0].languages
        for one in measures
    }
    about = "Tokens of a sentence without special ones, mean over languages; fertility is tokens a word between blanks."
    if reference:
        about += f" Parity is tokens a sentence by those of {reference}."
    pieces: list[list[Value]] = [[one.name, "  ".join(one.frequent()), "  ".join(one.longest())] for one in measures]
    covered = {one.name: [(share, float(count)) for share, count in one.coverage().items()] for one in measures}
    cover_rows: list[list[Value]] = [[f"{q:.1%}", *(one.coverage()[q] for one in measures)] for q in QUANTILES]
    return [
        Section("Tokenizers", text=about, table=whole),
        Section("By language", table=by_language, plot=Bars(bars, x_label="tokens a sentence")),
        Section(
            "Pieces that cover the text",
            text="The fewest different pieces that make up a share of all tokens.",
            table=SectionTable(["share of tokens", *(one.name for one in measures)], cover_rows),
            plot=Lines(covered, x_label="share of tokens", y_label="pieces"),
        ),
        Section(
            "Frequency by rank",
            text="Where a curve bends down to its end, further pieces are hardly ever used.",
            plot=Lines(
                {one.name: one.ranks() for one in measures}, x_label="log10 of the rank", y_label="log10 of occurrences"
            ),
        ),
        Section("Pieces", table=SectionTable(["tokenizer", "most frequent", "longest that occur"], pieces)),
    ]
