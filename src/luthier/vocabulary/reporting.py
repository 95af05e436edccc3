"""What the page shows of a vocabulary: clusters and their capacities, a map of languages, sampling, drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from luthier.report.sections import Bars, Lines, Section, SectionTable, Value

if TYPE_CHECKING:
    from luthier.vocabulary.building import BuiltVocabulary


def sections(built: BuiltVocabulary) -> list[Section]:
    """All of it."""
    merged = built.about["merged"]
    facts: dict[str, Value] = {
        "tokens": f"{built.tokens:,}, special ones included",
        "pieces that several clusters have": f"{merged['duplicates']:,}",
        "probability of all pieces together": f"{merged['mass']:.3f}",
    }
    allocation = built.about["allocation"]
    if allocation.get("approximated"):
        facts["ALP curves"] = "approximated by pruning one model a language"
    if allocation.get("hungry"):
        facts["languages that would take more"] = ", ".join(allocation["hungry"])
    made = [one["pieces"] for one in built.about["clusters"]]
    if short := sum(built.capacities) - sum(made):
        facts["pieces that the text does not give"] = f"{short:,} of {sum(built.capacities):,}"
    longest = {number: one["longest"] for number, one in enumerate(built.about["clusters"], 1)}
    return [
        Section("Vocabulary", facts=facts),
        cluster_section(built.clusters, built.capacities, longest, made),
        *([map_section(built.clusters, built.places)] if built.places else []),
        *([_curves(allocation["curves"])] if allocation.get("curves") else []),
        _sampled(built),
        _drift(built),
    ]


def cluster_section(
    clusters: Sequence[Sequence[str]],
    capacities: Sequence[int],
    longest: Mapping[int, Sequence[str]] | None = None,
    made: Sequence[int] | None = None,
) -> Section:
    """Clusters with their languages and capacities, and pieces a language.

    Args:
        clusters: languages of each; one code may stand twice, for two ways to write a language.
        capacities: pieces of each.
        longest: number of a cluster from 1 -> its longest pieces.
        made: pieces of each cluster's model, where its text may give fewer.
    """
    columns = ["cluster", "languages", "pieces", "pieces a language", "members"]
    rows: list[list[Value]] = [
        [number, len(members), capacity, round(capacity / len(members)), " ".join(members)]
        for number, (members, capacity) in enumerate(zip(clusters, capacities, strict=True), 1)
    ]
    if made is not None and list(made) != list(capacities):
        columns.append("pieces made")
        rows = [[*row, count] for row, count in zip(rows, made, strict=True)]
    if longest:
        columns.append("longest pieces")
        rows = [[*row, "  ".join(longest.get(number, ()))] for number, row in enumerate(rows, 1)]
    text = f"{sum(map(len, clusters))} languages in {len(clusters)} clusters, {sum(capacities):,} pieces in all."
    bars = Bars({f"cluster {n}": float(c) for n, c in enumerate(capacities, 1)}, x_label="pieces")
    return Section("Clusters and capacities", text=text, table=SectionTable(columns, rows), plot=bars)


def map_section(clusters: Sequence[Sequence[str]], places: Mapping[str, tuple[float, float]]) -> Section:
    """Languages by the two principal coordinates of their fingerprints, a line through each cluster."""
    series = {
        f"{number}: {' '.join(members[:4])}{' …' if len(members) > 4 else ''}": sorted(places[one] for one in members)
        for number, members in enumerate(clusters, 1)
    }
    rows: list[list[Value]] = [
        [name, number, round(places[name][0], 3), round(places[name][1], 3)]
        for number, members in enumerate(clusters, 1)
        for name in members
    ]
    return Section(
        "Map of languages",
        text="Languages that share frequent pieces lie near one another; lines join those of one cluster.",
        table=SectionTable(["language", "cluster", "first coordinate", "second coordinate"], rows),
        plot=Lines(series, x_label="first principal coordinate", y_label="second principal coordinate"),
    )


def _curves(curves: Mapping[str, Sequence[Sequence[float]]]) -> Section:
    return Section(
        "What pieces are worth",
        text="Average log probability of a line, in nats, by the pieces of a language's own model; near 0 is better.",
        plot=Lines(
            {name: [(float(t), float(alp)) for t, alp in curve] for name, curve in curves.items()},
            x_label="pieces",
            y_label="ALP",
        ),
    )


def _sampled(built: BuiltVocabulary) -> Section:
    languages = built.about["merged"]["languages"]
    columns = [
        "language",
        "lines",
        "taken",
        "counted for",
        "units",
        "left out",
        "allocated",
        "tokens a line",
        "unknown",
    ]
    rows: list[list[Value]] = [
        [
            name,
            one["available"],
            one["lines"],
            one["target"],
            f"{one['units']:,} {'words' if one['spaced'] else 'sentences'}",
            one["pruned"],
            built.allocation.get(name),
            round(languages[name]["tokens"], 2),
            f"{languages[name]['unknown']:.3%}",
        ]
        for name, one in built.samples.items()
    ]
    return Section("Languages", table=SectionTable(columns, rows))


def _drift(built: BuiltVocabulary) -> Section:
    rows: list[list[Value]] = [
        [number, f"{one['same']:.1%}", f"{one['tokens']:+.2%}"]
        for number, one in enumerate(built.about["merged"]["drift"], 1)
    ]
    return Section(
        "Lines cut as by the cluster's own model",
        text="The merged model has more pieces than each cluster's own, and so cuts some lines in another way.",
        table=SectionTable(["cluster", "cut alike", "change of tokens"], rows),
    )
