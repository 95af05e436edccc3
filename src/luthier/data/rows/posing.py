"""From the data block and what is known about a set to the text form of its task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from luthier.data.catalogue.known_set import KnownSet
from luthier.data.rows.canonical import Columns
from luthier.data.schemas import TaskSchema, text_tasks
from luthier.data.settings import DataSettings
from luthier.data.table import listing
from luthier.data.text_form import TextForm
from luthier.errors import DataError, nearest

NUMBER_STEP = 0.2
MOST_NUMBERS = 200
TEMPLATES: dict[str, str] = {
    "cola": "cola sentence: {text}",
    "sst2": "sst2 sentence: {text}",
    "mrpc": "mrpc sentence1: {text} sentence2: {text_pair}",
    "qqp": "qqp question1: {text} question2: {text_pair}",
    "stsb": "stsb sentence1: {text} sentence2: {text_pair}",
    "mnli": "mnli hypothesis: {text_pair} premise: {text}",
    "qnli": "qnli question: {text} sentence: {text_pair}",
    "rte": "rte sentence1: {text} sentence2: {text_pair}",
    "wnli": "wnli sentence1: {text} sentence2: {text_pair}",
    "boolq": "boolq question: {text} passage: {text_pair}",
    "cb": "cb hypothesis: {text_pair} premise: {text}",
    "copa": "copa {choices} premise: {context}",
    "multirc": "multirc question: {text_pair} paragraph: {text}",
    "record": "record query: {question} entities: {choices} passage: {text}",
    "wic": "wic sentence1: {text} sentence2: {text_pair}",
    "wsc": "wsc candidate: {text_pair} text: {text}",
}


def pose(
    settings: DataSettings,
    known: KnownSet | None,
    schema: TaskSchema,
    labels: Sequence[str],
    mapping: Columns,
    *,
    examples: Mapping[str, Sequence[object]],
    where: str,
) -> TextForm | None:
    """The form that the settings ask for; None where they ask for none.

    Args:
        settings: the data block.
        known: the set that the examples come from.
        schema: of the examples.
        labels: their class labels.
        mapping: canonical column -> column of the file, whose name stands before its text.
        examples: columns of the training rows, or of the only ones there are; empty for a stream.
        where: names them in messages.

    Raises:
        DataError: the task, its labels or its columns don't fit the settings.
    """
    if not settings.as_text:
        return None
    if not schema.prompt_columns:
        fix = f"`as_text` is for {', '.join(text_tasks())}"
        raise DataError(f"task {schema.name} can't be posed as text", where=where, fix=fix)
    if settings.number_step is not None and schema.label_kind != "score":
        raise DataError(f"`number_step` has no effect for task {schema.name}", where=where, fix="leave it out")
    own = known if known is not None and known.task == schema.name else None
    template = settings.template or _template(own, schema, mapping)
    if own is not None and "candidate" in own.columns and not settings.verbalizers:
        form = TextForm(template, scoring=settings.label_scoring)
    else:
        names, words = _answers(settings, schema, labels, examples, where)
        form = TextForm(template, names, words, settings.label_scoring)
    missing = [name for name in form.columns if examples and name not in examples]
    if missing:
        known_columns = ", ".join(f"{{{name}}}" for name in schema.prompt_columns if name in examples)
        raise DataError(
            f"the template shows {{{missing[0]}}}, which a {schema.name} task does not have here",
            where=where,
            fix=f"it has: {known_columns}",
        )
    return form


def _template(known: KnownSet | None, schema: TaskSchema, mapping: Columns) -> str:
    if known is not None:
        usual = TEMPLATES.get(known.name.rpartition("/")[2])
        if usual is not None:
            return usual
    parts = []
    for column in schema.prompt_columns:
        named = mapping.get(column, column)
        if column == "choices":
            parts.append("{choices}")
        elif column in schema.columns or column in mapping:
            head = named if isinstance(named, str) else column
            parts.append(f"{head}: ".replace("{", "{{").replace("}", "}}") + f"{{{column}}}")
    return " ".join(parts)


def _answers(
    settings: DataSettings,
    schema: TaskSchema,
    labels: Sequence[str],
    examples: Mapping[str, Sequence[object]],
    where: str,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if schema.label_kind == "score":
        numbers = _numbers(settings.number_step or NUMBER_STEP, examples.get(schema.label_column or "", ()), where)
        return numbers, numbers
    if schema.label_kind == "choice":
        count = len(next(iter(examples["choices"]), ()))  # type: ignore[arg-type]
        usual = {str(i): f"choice{i + 1}" for i in range(count)}
    else:
        usual = {label: label for label in labels}
    if not usual:
        raise DataError(
            "the labels are not known, so they can't be posed as text", where=where, fix="name them with `labels`"
        )
    given = settings.verbalizers or {}
    unknown = [label for label in given if label not in usual]
    if unknown:
        guess = nearest(unknown[0], list(usual))
        raise DataError(
            f"`verbalizers` names the label {unknown[0]!r}",
            where=where,
            fix=(f"did you mean {guess!r}? " if guess else "") + f"the labels are {listing(map(repr, usual))}",
        )
    words = tuple(" ".join(given.get(label, word).split()) for label, word in usual.items())
    if "" in words or len(set(words)) != len(words):
        raise DataError(
            "two labels have the same text, or one has none", where=where, fix="give each its own in `verbalizers`"
        )
    return tuple(usual), words


def _numbers(step: float, scores: Sequence[object], where: str) -> tuple[str, ...]:
    """Every multiple of the step between the lowest and the highest score."""
    known = [float(score) for score in scores]  # type: ignore[arg-type]
    if not known:
        raise DataError(
            "regression as text compares the numbers that occur, and there are no scores to take them from",
            where=where,
            fix="give training rows with scores, and do not stream them",
        )
    first, last = round(min(known) / step), round(max(known) / step)
    if not 1 <= last - first < MOST_NUMBERS:
        raise DataError(
            f"in steps of {step:g} the scores from {min(known):g} to {max(known):g} make {last - first + 1} numbers, "
            f"and 2 to {MOST_NUMBERS} can be compared",
            where=where,
            fix="set `number_step`",
        )
    places = max(0, -int(Decimal(str(step)).normalize().as_tuple().exponent))
    return tuple(f"{number * step:.{places}f}" for number in range(first, last + 1))
