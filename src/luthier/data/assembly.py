"""The steps from rows as they were read to the splits of a task: cuts, labels, draws, tables."""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from luthier.data.catalogue.known_set import KnownSet
from luthier.data.left_out import left_out, settle
from luthier.data.rows.canonical import Columns
from luthier.data.rows.labels import (
    LabelIds,
    alike_labels,
    check_labels,
    declared_labels,
    equal_numbers,
    seems_missing,
    sorted_labels,
    too_many,
)
from luthier.data.rows.repeats import Repeats, repeats_in, text_keys, units_of
from luthier.data.rows.subsets import CUT_SEED, cut_by_class, cut_shares, draw_examples, draw_per_class, first_of_order
from luthier.data.schemas import TaskSchema
from luthier.data.settings import DataSettings
from luthier.data.sources.origins import Origin
from luthier.data.splits import RawSplit, Rows, canonical_rows
from luthier.data.table import Problems, listing
from luthier.data.task_data import SplitSummary
from luthier.errors import DataError

_log = logging.getLogger(__name__)
_INDEX = re.compile(r"[0-9]{1,9}(\.0)?")
# The id of a label that is none of those that are known, as `LabelIds.of` gives it.
_UNKNOWN = -1
# A validation split that is cut smaller than this is warned about.
FEW_VALIDATION_ROWS = 100


def canonical_splits(
    raw: dict[str, RawSplit],
    schema: TaskSchema,
    mappings: dict[str, Columns],
    settings: DataSettings,
    read: Sequence[str],
) -> dict[str, Rows]:
    found = {split: canonical_rows(one, schema, mappings[split], settings, read) for split, one in raw.items()}
    return {split: rows for split, rows in found.items() if rows is not None}


def with_cut_validation(
    rows: dict[str, Rows], schema: TaskSchema, settings: DataSettings, by_group: bool = False
) -> dict[str, Rows]:
    """Cut the validation split that the settings ask for: of every class the same share where each row has one;
    `by_group` keeps the rows of a question together."""
    share = settings.validation_fraction
    if share is None or "train" not in rows:
        return rows
    if "validation" in rows:
        raise DataError(
            "the set has a validation split, so none is cut from training",
            where=rows["validation"].where,
            fix="leave `validation_fraction` out, or name the training split alone as `train`",
        )
    train = rows["train"]
    by_class = schema.label_kind == "class" and schema.label_column in train.columns and not by_group
    units = _units(train, by_group) if by_group else _of_one_text(train, schema, share)
    if by_class:
        classes = train.columns[str(schema.label_column)]
        parts = cut_by_class([classes[unit[0]] for unit in units], share, train.where)
    else:
        shares = cut_shares(len(units), {"train": 1 - share, "validation": share}, train.where)
        parts = shares["train"], shares["validation"]
    kept, cut = (sorted(row for unit in part for row in units[unit]) for part in parts)
    said = f"{share:g} of the training rows{', of every class' if by_class else ''}, cut with seed {CUT_SEED}"
    _log.info("%s: validation is %s", train.where, said)
    if len(cut) < FEW_VALIDATION_ROWS:
        accuracy = (
            f"an accuracy is known to within {98 / math.sqrt(len(cut)):.0f} points either way (95 % interval, at worst)"
        )
        _log.warning(
            "%s: %d rows are cut for validation, on which %s; %d rows or more would halve what is left to chance",
            train.where,
            len(cut),
            accuracy if schema.label_kind in ("class", "choice") else "every score is rough",
            4 * len(cut),
        )
    return rows | {
        "train": train.select(kept, _joined(train.note, f"without the {share:g} cut for validation")),
        "validation": replace(train.select(cut, said), noted=None),
    }


def _of_one_text(train: Rows, schema: TaskSchema, share: float) -> list[list[int]]:
    """0-based rows of every text, so that none is on both sides of a cut; rows alone where too few texts differ."""
    units = units_of(_text_keys(train, schema))
    return units if 0 < round(len(units) * (1 - share)) < len(units) else [[row] for row in range(len(train))]


def repeats(rows: dict[str, Rows], schema: TaskSchema) -> dict[str, Repeats]:
    """By split, rows whose text stands in the training rows, too; nothing without training rows."""
    if "train" not in rows:
        return {}
    keys = {split: _text_keys(one, schema) for split, one in rows.items()}
    training = set(keys["train"])
    return {split: repeats_in(split, own, training) for split, own in keys.items()}


def _text_keys(one: Rows, schema: TaskSchema) -> list[int]:
    """A hash of what a model reads of every row, the messages before a prompt among it."""
    return text_keys(one.columns, (*schema.shown_columns, "history"))


def _units(one: Rows, by_group: bool) -> list[list[int]]:
    """0-based rows of everything that a draw takes or leaves whole, in file order."""
    if not by_group or "group" not in one.columns:
        return [[row] for row in range(len(one))]
    found: dict[str, list[int]] = {}
    for row, group in enumerate(one.columns["group"]):
        found.setdefault(group, []).append(row)
    return list(found.values())


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def label_names(
    rows: dict[str, Rows], raw: dict[str, RawSplit], schema: TaskSchema, settings: DataSettings
) -> list[str]:
    if schema.tells_labels:
        return _told_labels(rows, raw, schema, settings)
    if not schema.has_classes or not settings.labelled:
        return list(settings.labels or []) if schema.has_classes else []
    base = "train" if "train" in rows else next(iter(rows))
    one = raw.get(base) or raw["train"]
    known = _known_for(settings, one)
    labels = declared_labels(settings, known, one.table.labels)
    if labels is None:
        values = list(rows[base].columns[schema.label_column or ""])
        if settings.validation_fraction is not None and "validation" in rows:
            # Where the only row of a label falls behind the cut, it is a label all the same.
            values += rows["validation"].columns[schema.label_column or ""]
        tags = schema.label_kind == "classes"
        labels = sorted_labels([tag for row in values for tag in row] if tags else values, tags=tags)
        _warn_of_alike(labels, rows[base].where, "rename them with `label_map`")
        if not tags and (told := too_many(labels, len(values))):
            _log.warning("%s: column %r: %s", rows[base].where, rows[base].label_column, told)
    check_labels(labels, rows[base].where)
    _warn_of_missing(labels, rows[base].where)
    return labels


def _warn_of_alike(labels: Sequence[str], where: str, fix: str) -> None:
    for group in [*equal_numbers(labels), *alike_labels(labels)]:
        told = "%s: the labels %s are classes of their own; if they mean the same, %s"
        _log.warning(told, where, listing(map(repr, group)), fix)


def _warn_of_missing(labels: Sequence[str], where: str) -> None:
    if missing := [label for label in labels if seems_missing(label)]:
        _log.warning(
            "%s: %s counted as a label; if it stands for a missing one, remove these rows",
            where,
            f"{listing(map(repr, missing))} {'is' if len(missing) == 1 else 'are'}",
        )


def _known_for(settings: DataSettings, one: RawSplit) -> KnownSet | None:
    """The known set that rows are of, where they are read as the task that it is known for."""
    known = one.origin.known
    return known if known is not None and settings.task in (None, known.task) else None


def _told_labels(
    rows: dict[str, Rows], raw: dict[str, RawSplit], schema: TaskSchema, settings: DataSettings
) -> list[str]:
    """The user's labels, those of a known set, or those that the training rows tell, and those cut from them."""
    if settings.labels or not settings.labelled:
        schema.check_labels(settings.labels or [])
        return list(settings.labels or [])
    bases = ["train" if "train" in rows else next(iter(rows))]
    known = _known_for(settings, raw.get(bases[0]) or raw["train"])
    if known is not None and known.labels:
        return list(known.labels)
    if settings.validation_fraction is not None and "validation" in rows:
        bases.append("validation")
    told = {label for base in bases for row in _records(rows[base]) for label in schema.labels_of(row)}
    named = settings.label if isinstance(settings.label, list) else []
    if told and (never := [name for name in named if name not in told]):
        _log.warning("%s: no row is of the class %s", rows[bases[0]].where, listing(map(repr, never)))
    if told and named:
        return list(named)
    if not told:
        raise DataError(
            f"there is nothing in {rows[bases[0]].label_column!r} in any row, so that there is nothing to learn",
            where=rows[bases[0]].where,
            fix="is what the rows tell under another name, or in another format?",
        )
    said = [label for base in bases if base in raw for label in _labels_of_source(raw[base], schema)]
    labels = sorted_labels([schema.known_as(label, said) or label for label in told], tags=False)
    if schema.labels_by_column:
        _refuse_flags(rows[bases[0]], schema)
        _warn_of_alike(labels, rows[bases[0]].where, "write them alike")
        _warn_of_missing(labels, rows[bases[0]].where)
    return labels


def _refuse_flags(one: Rows, schema: TaskSchema) -> None:
    """Raises:
    DataError: every row has a 0 and a 1 for two classes, which read as labels are both classes in every row.
    """
    if all(sorted(told or ()) == ["0", "1"] for told in one.columns[schema.label_column or ""]):
        raise DataError(
            f"{one.label_column!r} holds a 0 and a 1 in every row, which are flags of two classes and no labels",
            where=one.where,
            fix="write the labels' names, or give each class a column",
        )


def _labels_of_source(one: RawSplit, schema: TaskSchema) -> list[str]:
    """What the source of a split itself, or a file beside it, calls labels."""
    beside = [] if one.origin.file is None else schema.labels_beside_file(one.origin.file)
    return one.table.labels or beside


def _records(one: Rows) -> list[dict[str, Any]]:
    return [dict(zip(one.columns, values, strict=True)) for values in zip(*one.columns.values(), strict=True)]


def _refuse_unknown(one: Rows, schema: TaskSchema, labels: list[str]) -> Rows:
    """The rows, those that tell labels which are not known left out where that is wanted.

    Raises:
        DataError: they are refused; lists them.
    """
    problems, kept = Problems(one.where), []
    for number, (row, place) in enumerate(zip(_records(one), one.places, strict=True)):
        told, named = schema.labels_of(row), schema.labels_beside(row)
        unknown = sorted({label for label in (*told, *named) if schema.known_as(label, labels) is None})
        if unknown:
            verb = "tells" if set(unknown) <= set(told) else "names"
            problems.add(place, f"{verb} {listing(map(repr, unknown))}, which no training row tells")
        else:
            kept.append(number)
    if not problems.count:
        return one
    settle(problems, one.noted, len(kept), "correct these rows, or name all labels with `labels`")
    return one.select(kept)


def set_label_ids(rows: dict[str, Rows], schema: TaskSchema, labels: list[str]) -> None:
    """Put label ids in the place of labels; rows with unknown ones are refused, or left out where that is wanted.

    Raises:
        DataError: they are refused; lists them.
    """
    column = schema.label_column
    for split, one in list(rows.items()):
        if column is None or column not in one.columns:
            continue
        if schema.tells_labels:
            rows[split] = _refuse_unknown(one, schema, labels)
            continue
        problems = Problems(one.where)
        if schema.label_kind == "choice":
            one.columns[column] = _choice_ids(one, column, problems)
        elif schema.has_classes:
            ids = LabelIds(labels)
            one.columns[column] = _class_ids(one, column, ids, problems)
            for written, meant in ids.respelled.items():
                _log.warning("%s: the label %r counts as %r", one.where, written, meant)
        if problems.count:
            fix = "correct these labels, rename them with `label_map`, or name all labels with `labels`"
            kept = [row for row, value in enumerate(one.columns[column]) if not _is_unknown(value)]
            settle(problems, one.noted, len(kept), fix)
            rows[split] = one.select(kept)


def _is_unknown(label: Any) -> bool:
    return _UNKNOWN in label if isinstance(label, list) else label == _UNKNOWN


def _class_ids(one: Rows, column: str, ids: LabelIds, problems: Problems) -> list[Any]:
    values = one.columns[column]
    try:
        return [ids.known[value] if isinstance(value, str) else [ids.known[tag] for tag in value] for value in values]
    except KeyError:
        pass
    found: list[Any] = []
    for value, place in zip(values, one.places, strict=True):
        if isinstance(value, list):
            found.append([ids.of(tag, place, one.label_column, problems) for tag in value])
        else:
            found.append(ids.of(value, place, one.label_column, problems))
    return found


def _choice_ids(one: Rows, column: str, problems: Problems) -> list[int]:
    found = []
    for value, choices, place in zip(one.columns[column], one.columns["choices"], one.places, strict=True):
        index = int(value.removesuffix(".0")) if _INDEX.fullmatch(value) else _UNKNOWN
        if not 0 <= index < len(choices):
            index = _UNKNOWN
            message = f"{value!r} is not the index of a choice, 0 to {len(choices) - 1}"
            problems.add(f"{place}, column {one.label_column!r}", message)
        found.append(index)
    return found


def drawn(
    rows: dict[str, Rows], schema: TaskSchema, labels: list[str], settings: DataSettings, by_group: bool = False
) -> dict[str, Rows]:
    """Draw the subsets that the settings ask for; `by_group` has limits keep the rows of a question together."""
    seed = settings.subset_seed
    if by_group and settings.validation_examples is not None:
        raise DataError(
            "`validation_examples` would part rows of one question, which are scored together",
            where=rows["train"].where if "train" in rows else None,
            fix="use `validation_fraction`, which keeps them together",
        )
    if "train" in rows and settings.per_class is not None:
        train = rows["train"]
        column = schema.label_column
        if not labels or column is None or column not in train.columns:
            raise DataError("`per_class` needs one label an example", where=train.where, fix="use `examples` instead")
        drawn = draw_per_class(train.columns[column], labels, settings.per_class, seed, train.where)
        rows["train"] = train.select(drawn, _joined(train.note, f"{settings.per_class} of every label, seed {seed}"))
    if "train" in rows and settings.examples is not None:
        rows |= _first_examples(rows, settings.examples, settings.validation_examples or 0, seed)
    for split, one in rows.items():
        most = _most_rows(settings, split)
        if most is not None and len(one) > most:
            kept = first_of_order(_units(one, by_group), most, seed)
            rows[split] = one.select(kept, _joined(one.note, f"{len(kept)} of {len(one)} rows, seed {seed}"))
    return rows


def _most_rows(settings: DataSettings, split: str) -> int | None:
    limits = [settings.limit, settings.evaluation_limit if split != "train" else None]
    return min((limit for limit in limits if limit is not None), default=None)


def _first_examples(rows: dict[str, Rows], examples: int, following: int, seed: int) -> dict[str, Rows]:
    train = rows["train"]
    drawn, after = draw_examples(len(train), examples, seed, train.where, following)
    found = {"train": train.select(drawn, _joined(train.note, f"the first {examples} in the order of seed {seed}"))}
    if following:
        said = f"the next {following} training rows in the order of seed {seed}"
        found["validation"] = replace(train.select(after, said), noted=None)
        own = rows.get("validation")
        if own is not None and "test" not in rows:
            found["test"] = own.select(list(range(len(own))), _joined(own.note, "the set's validation split"))
    return found


def check_choices(rows: dict[str, Rows], schema: TaskSchema) -> None:
    """Refuse rows with another number of choices than most, or leave them out where that is wanted.

    Raises:
        DataError: they are refused; lists them.
    """
    if "choices" not in schema.columns:
        return
    for split, one in list(rows.items()):
        counts = Counter(len(choices) for choices in one.columns["choices"])
        if len(counts) == 1:
            continue
        usual = counts.most_common(1)[0][0]
        problems = Problems(one.where)
        for choices, place in zip(one.columns["choices"], one.places, strict=True):
            if len(choices) != usual:
                problems.add(place, f"has {len(choices)} choices, and most rows have {usual}")
        kept = [row for row, choices in enumerate(one.columns["choices"]) if len(choices) == usual]
        settle(problems, one.noted, len(kept), "give every row the same number of choices")
        rows[split] = one.select(kept)


def metric_names(origin: Origin, schema: TaskSchema, labels: list[str]) -> tuple[str, ...]:
    known = origin.known
    if known is not None and known.task == schema.name:
        binary = len(labels) == 2 or not schema.has_classes
        return tuple(m for m in known.metrics if m != "f1" or binary) or schema.metrics
    return schema.metrics_for(labels)


def summary_of(one: Rows, schema: TaskSchema, labels: list[str], repeats: Repeats | None = None) -> SplitSummary:
    values = one.columns.get(schema.label_column or "", []) if labels else []
    flat = [tag for row in values for tag in row] if schema.label_kind == "classes" else values
    if schema.tells_labels:
        told = [schema.known_as(label, labels) for row in _records(one) for label in schema.labels_of(row)]
        flat = [labels.index(label) for label in told if label is not None]
    counts = Counter(flat)
    named = {name: counts[i] for i, name in enumerate(labels)}
    return SplitSummary(len(one), named, one.where, one.note, left_out(one.noted), repeats)


def dataset_of(one: Rows, schema: TaskSchema, fingerprint: str) -> Any:
    import datasets
    import pyarrow

    strings, integers = pyarrow.list_(pyarrow.string()), pyarrow.list_(pyarrow.int64())
    labels = {"class": pyarrow.int64(), "classes": integers, "choice": pyarrow.int64(), "score": pyarrow.float32()}
    messages = pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))
    types = {"row": pyarrow.int64(), "tokens": strings, "choices": strings, "history": messages}
    types |= schema.arrow_types()
    if schema.label_column and schema.label_kind in labels:
        types[schema.label_column] = labels[schema.label_kind]
    arrays = {name: pyarrow.array(values, types.get(name, pyarrow.string())) for name, values in one.columns.items()}
    return datasets.Dataset(pyarrow.table(arrays), fingerprint=hashlib.sha256(fingerprint.encode()).hexdigest()[:32])
