"""Scores, mistakes, corpora and extractions as sections of the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from luthier.extraction.documents import Document
from luthier.extraction.mistakes import ENTITY_KINDS, RELATION_KINDS, Mistake, Mistakes, find_mistakes
from luthier.extraction.scoring import LEVELS, ExtractionScores, score_extractions
from luthier.extraction.statistics import CorpusStatistics, corpus_statistics
from luthier.extraction.types import Types
from luthier.report.sections import Annotated, Bars, Heatmap, Section, SectionTable, Value

_AROUND = 12
_MOST_WIDTHS = 15
_MOST_CONFUSED = 12


def evaluation_sections(
    gold: Sequence[Document],
    told: Sequence[Document],
    training: Sequence[Document],
    types: Types,
    *,
    max_span_size: int,
) -> list[Section]:
    """What the page of a judged model shows: scores, mistakes, what was told, and what there was to learn from.

    Args:
        gold, told: the same texts, as they are annotated and as the model told them.
        training: annotated texts that it learned from; none where they are not known.
        types: tell which relations are symmetric.
        max_span_size: the model's span limit.
    """
    made = score_sections(score_extractions(gold, told, types))
    made += mistake_sections(find_mistakes(gold, told, types), gold)
    if told:
        made.append(view_section(told, types, title="What was told"))
    made += corpus_sections(corpus_statistics(gold, max_span_size=max_span_size), "Judged texts")
    if training:
        made += corpus_sections(corpus_statistics(training, max_span_size=max_span_size), "Training texts")
    return made


def score_sections(scores: ExtractionScores) -> list[Section]:
    """Precision, recall and F1 of every level, and of every type."""
    rows: list[list[Value]] = []
    for level, counts in scores.levels.items():
        for average, score in (("micro", counts.micro()), ("macro", counts.macro())):
            rows.append([LEVELS[level], average, *(float(x) for x in (score.precision, score.recall, score.f1))])
    levels = Section(
        "Extraction scores",
        text="Boundaries: both spans and the relation are right. Strict: the entities' types are too. First words: as "
        "PFN counts. Works that print one relation score print different ones; compare like with like.",
        facts={"sentences": scores.sentences},
        table=SectionTable(["what", "average", "precision", "recall", "F1"], rows),
    )
    by_type: list[list[Value]] = [
        [LEVELS[level], kind, support, float(score.precision), float(score.recall), float(score.f1)]
        for level in ("entity", "relation_strict")
        for kind, (score, support) in scores.levels[level].by_type().items()
    ]
    table = SectionTable(["what", "type", "in gold", "precision", "recall", "F1"], by_type)
    return [levels, Section("Extraction scores by type", table=table)]


def mistake_sections(mistakes: Mistakes, gold: Sequence[Document]) -> list[Section]:
    """How many mistakes there are of each kind, which types are confused, and the surest ones with their text."""
    made = [
        _counted("Mistakes in entities", mistakes.entities, ENTITY_KINDS, mistakes.right["entities"]),
        _counted("Mistakes in relations", mistakes.relations, RELATION_KINDS, mistakes.right["relations"]),
    ]
    if mistakes.confused:
        sums: Counter[str] = Counter()
        for pair, number in mistakes.confused.items():
            sums.update(dict.fromkeys(set(pair), number))
        names = [name for name, _ in sums.most_common(_MOST_CONFUSED)]
        values = [[mistakes.confused[row, column] for column in names] for row in names]
        made.append(
            Section(
                "Types of entities confused",
                text="Right words, wrong type: a row is the type in gold, a column the one that was told.",
                plot=Heatmap(names, names, values),
            )
        )
    surest = mistakes.surest()
    if surest:
        samples = [_sample(one, gold[one.row]) for one in surest]
        made.append(Section("The surest mistakes", text="Wrong predictions with the highest scores.", samples=samples))
    return made


def _counted(title: str, found: Sequence[Mistake], kinds: dict[str, str], right: int) -> Section:
    counts = Counter(one.kind for one in found)
    rows: list[list[Value]] = [["right", right, "as in gold"]]
    rows += [[kind.replace("_", " "), counts[kind], why] for kind, why in kinds.items()]
    return Section(title, table=SectionTable(["kind", "number", "what it is"], rows))


def _sample(mistake: Mistake, document: Document) -> dict[str, str]:
    """The mistake with the words around it; what it is about stands in double brackets."""
    words, (start, end) = document["tokens"], mistake.span
    first, last = max(0, start - _AROUND), min(len(words), end + _AROUND)
    parts = [*words[first:start], "[[", *words[start:end], "]]", *words[end:last]]
    text = " ".join([*(["…"] if first else []), *parts, *(["…"] if last < len(words) else [])])
    told = f"predicted ({mistake.kind.replace('_', ' ')}, score {mistake.score:.4f})"
    return {told: mistake.predicted or "nothing", "gold": mistake.gold or "nothing", "text": text}


def corpus_sections(found: CorpusStatistics, name: str = "Corpus") -> list[Section]:
    """What a corpus holds, and the recall that the span limit allows."""
    limit = found.max_span_size
    facts = {
        "sentences": found.sentences,
        "words": found.words,
        "entities": found.entities.total(),
        "relations": found.relations.total(),
        f"entities over {limit} words": found.too_wide,
        "entity recall at most": found.entity_ceiling,
        "relation recall at most": found.relation_ceiling,
        "entities that overlap": found.overlapping,
        "entities inside others": found.nested,
        "sentences with overlaps": found.overlapping_sentences,
        "two types on one span": found.same_span,
        "words not annotated": found.ignored_words,
    }
    rows: list[list[Value]] = [["entity", kind, number] for kind, number in found.entities.most_common()]
    rows += [["relation", kind, number] for kind, number in found.relations.most_common()]
    made = [Section(name, facts=facts, table=SectionTable(["what", "type", "number"], rows))]
    if found.widths:
        shown: dict[str, float] = {
            f"{width} words" if width > 1 else "1 word": found.widths[width]
            for width in range(1, min(max(found.widths), _MOST_WIDTHS) + 1)
        }
        if more := sum(number for width, number in found.widths.items() if width > _MOST_WIDTHS):
            shown[f"over {_MOST_WIDTHS} words"] = more
        text = f"A span limit of {limit} words lets {found.entity_ceiling:.2%} of the entities be found."
        made.append(Section(f"{name}: width of entities", text=text, plot=Bars(shown, x_label="entities")))
    return made


def view_section(
    documents: Sequence[Document], types: Types | None = None, *, title: str = "Extractions", most: int = 10
) -> Section:
    """The first documents drawn: entities coloured, relations as arcs.

    Raises:
        ValueError: there is no document.
    """
    if not documents:
        raise ValueError("there is no document to draw")
    types, shown = types or Types.of(documents), documents[:most]
    keys = ("tokens", "entities", "relations", "offsets")
    plain = [{key: one[key] for key in keys if key in one} for one in shown]
    text = f"The first {len(shown)} of {len(documents)}." if len(shown) < len(documents) else ""
    return Section(title, text=text, plot=Annotated(plain, list(types.entities)))
