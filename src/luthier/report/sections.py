"""What stages, suites and methods add to the page: a title, a text, and tables, plots, samples or facts as data.

    Section("Gates by layer", text="…", plot=Bands({"lora": [(0, 0.5, 0.1)]}, x_label="layer", y_label="gate"))

metrics.json holds them as `details.sections`, a list of mappings with the keys `title`, `text`, `table`, `plot`,
`samples` and `facts`, of which all but the title may be missing. Every text is escaped where it is shown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, ClassVar

Value = str | int | float | bool | None
Point = tuple[float, float]


def cut(text: str, longest: int) -> str:
    """The text, or as many of its characters as leave room for the mark that it goes on."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


class SectionError(ValueError):
    """Data that are no section, or none of a known kind of plot; says what is wrong and where in it."""


class Plot:
    """A plot as data. A subclass is a frozen dataclass with a `kind`."""

    kind: ClassVar[str]

    def draw(self, title: str) -> str:
        """The plot as an SVG element.

        Raises:
            ValueError, KeyError, OverflowError: the data hold nothing that can be drawn.
        """
        raise TypeError(f"{type(self).__name__} does not define draw()")

    def to_json(self) -> dict[str, Any]:
        """`kind`, and every field that is not as it would be anyhow."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        defaults = {f.name: f.default for f in fields(self)}  # type: ignore[arg-type]
        return {"kind": self.kind, **{k: v for k, v in given.items() if v != defaults[k]}}


@dataclass(frozen=True)
class Bars(Plot):
    """One line a label: its number, or the mean, the deviation and the dots of several."""

    kind: ClassVar[str] = "bars"
    values: Mapping[str, float | Sequence[float]]
    x_label: str = ""

    def draw(self, title: str) -> str:
        from luthier.report import plots

        values = {k: [v] if isinstance(v, int | float) else v for k, v in self.values.items()}
        return plots.plot_bars(values, title=title, x_label=self.x_label)


@dataclass(frozen=True)
class Lines(Plot):
    """Lines through (x, y): one list of points a label, or one list for each seed."""

    kind: ClassVar[str] = "lines"
    series: Mapping[str, Sequence[Point] | Sequence[Sequence[Point]]]
    x_label: str = ""
    y_label: str = ""
    log_x: bool = False

    def draw(self, title: str) -> str:
        from luthier.report import plots

        series: dict[str, Any] = {k: v if _is_several(v) else [v] for k, v in self.series.items()}
        return plots.plot_lines(series, title=title, x_label=self.x_label, y_label=self.y_label, log_x=self.log_x)


@dataclass(frozen=True)
class Bands(Plot):
    """Lines through (x, mean) in a band of one deviation, for each label a list of (x, mean, deviation)."""

    kind: ClassVar[str] = "bands"
    series: Mapping[str, Sequence[tuple[float, float, float]]]
    x_label: str = ""
    y_label: str = ""

    def draw(self, title: str) -> str:
        from luthier.report import plots

        return plots.plot_bands(self.series, title=title, x_label=self.x_label, y_label=self.y_label)


@dataclass(frozen=True)
class Radar(Plot):
    """One closed line a label over the same three or more named axes."""

    kind: ClassVar[str] = "radar"
    series: Mapping[str, Mapping[str, float]]

    def draw(self, title: str) -> str:
        from luthier.report import plots

        return plots.plot_radar(self.series, title=title)


@dataclass(frozen=True)
class Reliability(Plot):
    """Accuracy against confidence: `confidence`, `accuracy` and `count` of every bin."""

    kind: ClassVar[str] = "reliability"
    bins: Sequence[Mapping[str, float]]

    def draw(self, title: str) -> str:
        from luthier.report import plots

        return plots.plot_reliability(self.bins, title=title)


@dataclass(frozen=True)
class Heatmap(Plot):
    """A grid of numbers, one list of values a row; cells `apart`, (row, column) from 0, are left out of the scale of
    colours."""

    kind: ClassVar[str] = "heatmap"
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]
    apart: Sequence[tuple[int, int]] = ()

    def draw(self, title: str) -> str:
        from luthier.report import plots

        return plots.plot_heatmap(self.rows, self.columns, self.values, title=title, apart=self.apart)


@dataclass(frozen=True)
class Annotated(Plot):
    """Texts with marked spans and arcs between them: documents of `tokens`, `entities` and `relations`, as
    `luthier.report.annotated.draw_annotated` takes them, and the spans' types in the order of their colours."""

    kind: ClassVar[str] = "annotated"
    documents: Sequence[Mapping[str, Any]]
    types: Sequence[str]

    def draw(self, title: str) -> str:
        from luthier.report.annotated import PAGE_WIDTH, draw_annotated

        return draw_annotated(self.documents, self.types, title=title, width=PAGE_WIDTH)


PLOTS: dict[str, type[Plot]] = {c.kind: c for c in (Bars, Lines, Bands, Radar, Reliability, Heatmap, Annotated)}


@dataclass(frozen=True)
class SectionTable:
    """Named columns, and rows with a value for each of them; numbers stand to the right.

    Attributes:
        columns, rows: the table.
        folded: how many rows, the last ones, a reader has to ask for.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    folded: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.folded <= len(self.rows):
            raise SectionError(f"folded is {self.folded}, of {len(self.rows)} rows")
        for number, row in enumerate(self.rows, 1):
            if len(row) != len(self.columns):
                raise SectionError(f"row {number} has {len(row)} values for {len(self.columns)} columns")


@dataclass(frozen=True)
class Section:
    """A part of the page under one title.

    Attributes:
        title, text: any text.
        facts: label -> value, the few things to know.
        table, plot: data to look at.
        samples: texts, or mappings of a name to a text.
        notes: what a saved section holds and this version can't show, in words; never saved.
    """

    title: str
    text: str = ""
    facts: Mapping[str, Value] | None = None
    table: SectionTable | None = None
    plot: Plot | None = None
    samples: Sequence[str | Mapping[str, str]] | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The section as metrics.json holds it."""
        made: dict[str, Any] = {"title": self.title}
        if self.text:
            made["text"] = self.text
        if self.facts is not None:
            made["facts"] = dict(self.facts)
        if self.table is not None:
            made["table"] = {"columns": list(self.table.columns), "rows": [list(row) for row in self.table.rows]}
            made["table"] |= {"folded": self.table.folded} if self.table.folded else {}
        if self.plot is not None:
            made["plot"] = self.plot.to_json()
        if self.samples is not None:
            made["samples"] = [one if isinstance(one, str) else dict(one) for one in self.samples]
        return made

    @classmethod
    def from_json(cls, data: Any) -> Section:
        """What `to_json` gave. Keys and kinds of plots that this version does not know become notes.

        Raises:
            SectionError: a part has another shape; names it.
        """
        section, problems = _read(data)
        if problems:
            raise SectionError(f"section {section.title!r}: {'; '.join(problems)}")
        return section


def read_sections(data: Any) -> list[Section]:
    """The sections of a saved `details.sections`; parts that can't be read become notes."""
    if data is None:
        return []
    if not isinstance(data, list):
        return [Section("", notes=(f"The sections can't be read: {_not_a('list', data)}.",))]
    return [section_of(one) for one in data]


def section_of(one: Any) -> Section:
    """A section, or what its data can be read as; parts that can't be read become notes."""
    if isinstance(one, Section):
        return one
    section, problems = _read(one)
    return replace(section, notes=(*section.notes, *(f"This can't be shown: {problem}." for problem in problems)))


def plain_sections(details: Mapping[str, Any]) -> dict[str, Any]:
    """Details of a stage as metrics.json holds them: every `Section` among their `sections` as data."""
    found = details.get("sections")
    if not isinstance(found, list | tuple):
        return dict(details)
    return {**details, "sections": [one.to_json() if isinstance(one, Section) else one for one in found]}


def plot_from_json(data: Any) -> Plot:
    """A plot from `{kind: bars|lines|bands|radar|reliability|heatmap|annotated, …}`.

    Raises:
        SectionError: there is no such kind, or its data have another shape.
    """
    if not isinstance(data, dict):
        raise SectionError(f"plot: {_not_a('mapping', data)}")
    kind = PLOTS.get(str(data.get("kind")))
    if kind is None:
        raise SectionError(f"plot: there is no kind {data.get('kind')!r}; known: {', '.join(PLOTS)}")
    plot: Plot = _validated(kind, {k: v for k, v in data.items() if k != "kind"}, "plot")
    return plot


def _read(data: Any) -> tuple[Section, list[str]]:
    """A section with all parts that can be read, and what is wrong with the others."""
    if not isinstance(data, dict):
        return Section(""), [_not_a("mapping", data)]
    readers: dict[str, Callable[[Any], Any]] = {
        "facts": lambda value: _validated(Mapping[str, Value], value, "facts"),
        "table": lambda value: _validated(SectionTable, value, "table"),
        "plot": plot_from_json,
        "samples": _samples,
    }
    parts: dict[str, Any] = {}
    problems, notes = [], []
    for key, value in data.items():
        if key in ("title", "text"):
            parts[key] = "" if value is None else str(value)
        elif key not in readers:
            notes.append(f"This version of Luthier does not know what to show for {key!r}.")
        elif key == "plot" and _is_unknown_plot(value):
            notes.append(f"This version of Luthier does not know plots of the kind {value['kind']!r}.")
        elif value is not None:
            try:
                parts[key] = readers[key](value)
            except SectionError as error:
                problems.append(str(error))
    return Section(**{"title": "", **parts}, notes=tuple(notes)), problems


def _is_unknown_plot(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("kind"), str) and value["kind"] not in PLOTS


def _samples(value: Any) -> list[str | dict[str, str]]:
    if not isinstance(value, list):
        raise SectionError(f"samples: {_not_a('list', value)}")
    return [{str(k): str(v) for k, v in one.items()} if isinstance(one, dict) else str(one) for one in value]


def _validated(wanted: Any, value: Any, place: str) -> Any:
    from pydantic import ValidationError

    if dataclasses.is_dataclass(wanted) and not isinstance(value, dict):
        raise SectionError(f"{place}: {_not_a('mapping', value)}")
    try:
        return _adapter(wanted).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        inner = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part.isidentifier())
        said = first["msg"].removeprefix("Value error, ")
        raise SectionError(f"{'.'.join(filter(None, (place, inner)))}: {said}") from None


@cache
def _adapter(wanted: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(wanted)


def _not_a(wanted: str, value: Any) -> str:
    return f"this is a {type(value).__name__}, and should be a {wanted}"


def _is_several(points: Any) -> bool:
    """Whether these are lists of points, not points."""
    return bool(points) and bool(points[0]) and isinstance(points[0][0], list | tuple)
