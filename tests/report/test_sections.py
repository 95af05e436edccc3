"""Sections as data: what is written is read back, and what is wrong or unknown is told."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest

from luthier.report import Annotated, Bands, Bars, Heatmap, Lines, Radar, Reliability, Section, SectionTable
from luthier.report.sections import PLOTS, SectionError, plain_sections, read_sections

from .fixtures import BINS, HOSTILE, SECTIONS

ANNOTATED = {
    "tokens": [HOSTILE, "in", "Paris"],
    "entities": [{"type": HOSTILE, "start": 0, "end": 1}, {"type": "Loc", "start": 2, "end": 3, "score": 0.5}],
    "relations": [{"type": HOSTILE, "head": 0, "tail": 1}],
}
WRITTEN = [
    Section("Everything", text=HOSTILE, facts={"rows": 3, "share": 0.5, "none": None, HOSTILE: HOSTILE}),
    Section("A table", table=SectionTable(["a", "b"], [[1, "x"], [0.25, None], [True, ""]])),
    Section("Bars", plot=Bars({"one": 0.3, "several": [0.4, 0.5]}, x_label="accuracy")),
    Section("Lines", plot=Lines({"a": [(1, 1), (2, 2)], "seeds": [[(1, 1)], [(1, 2)]]}, x_label="x", log_x=True)),
    Section("Bands", plot=Bands({"gate": [(0, 0.5, 0.1)]}, y_label="gate")),
    Section("Radar", plot=Radar({"model": {"a": 0.5, "b": 0.2, "c": 0.9}})),
    Section("Reliability", plot=Reliability(BINS)),
    Section("Heat", plot=Heatmap(["r"], ["c", "d"], [[1, 2]])),
    Section("Heat apart", plot=Heatmap(["r"], ["c", "d"], [[1, 2]], [(0, 1)])),
    Section("Folded", table=SectionTable(["a"], [["one"], ["two"]], folded=1)),
    Section("Annotated", plot=Annotated([ANNOTATED], ["Loc"])),
    Section("Samples", samples=["one", {"before": "two", "after": HOSTILE}]),
]


@pytest.mark.parametrize("section", WRITTEN, ids=lambda section: section.title)
def test_what_is_written_is_read_back(section: Section):
    data = json.loads(json.dumps(section.to_json()))
    again = Section.from_json(data)
    assert again.to_json() == section.to_json() == plain_sections({"sections": [section]})["sections"][0]
    assert not again.notes
    assert json.loads(json.dumps(again.to_json())) == data
    if again.plot is not None:
        assert again.plot.draw("t").startswith("<svg")


def test_every_kind_of_plot_is_read_back_above():
    assert {section.plot.kind for section in WRITTEN if section.plot} == set(PLOTS)


def test_the_layout_is_that_of_earlier_versions():
    table = {"columns": ["a"], "rows": [[1]]}
    bars = {"kind": "bars", "values": {"b": [0.4]}, "x_label": "accuracy"}
    section = Section("T", text="x", table=SectionTable(["a"], [[1]]), plot=Bars({"b": [0.4]}, x_label="accuracy"))
    assert section.to_json() == {"title": "T", "text": "x", "table": table, "plot": bars}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "this is a int, and should be a mapping"),
        ({"title": "T", "table": 3}, "section 'T': table: this is a int, and should be a mapping"),
        ({"table": {"rows": []}}, "table.columns: Field required"),
        ({"table": {"columns": ["a", "b"], "rows": [[1, 2], [1]]}}, "table: row 2 has 1 values for 2 columns"),
        ({"plot": {"kind": "radar", "series": {"a": 1}}}, "plot.series.a: Input should be a valid"),
        ({"plot": {"kind": "bars", "values": {"a": [1, "x"]}}}, "plot.values.a"),
        ({"plot": {}}, "plot: there is no kind None; known: bars, lines,"),
        ({"samples": "text"}, "samples: this is a str, and should be a list"),
        ({"facts": [1]}, "facts: Input should be a valid"),
    ],
)
def test_another_shape_is_named_and_is_a_note_on_the_page(data: Any, message: str):
    with pytest.raises(SectionError) as caught:
        Section.from_json(data)
    assert message in str(caught.value)
    (read,) = read_sections([data])
    assert len(read.notes) == 1
    assert message.removeprefix("section 'T': ") in read.notes[0]


def test_what_another_version_wrote_is_a_note_and_the_rest_is_shown():
    data = {"title": "T", "text": "x", "plot": {"kind": "pie", "of": 1}, "video": {"at": "x"}, "samples": ["s"]}
    read = Section.from_json(data)
    assert (read.title, read.text, read.plot, read.samples) == ("T", "x", None, ["s"])
    assert read.notes == (
        "This version of Luthier does not know plots of the kind 'pie'.",
        "This version of Luthier does not know what to show for 'video'.",
    )
    assert "notes" not in read.to_json()


def test_a_row_that_does_not_fit_its_columns_is_refused_where_it_is_made():
    with pytest.raises(SectionError, match="row 1 has 3 values for 2 columns"):
        SectionTable(["a", "b"], [[1, 2, 3]])


def test_a_section_can_not_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        WRITTEN[0].title = "another"  # type: ignore[misc]


def test_sections_that_are_plain_already_stay_as_they_are():
    assert plain_sections({"sections": SECTIONS, "more": 1}) == {"sections": SECTIONS, "more": 1}
    assert plain_sections({"sections": 3}) == {"sections": 3}
    assert plain_sections({}) == {}


def test_making_sections_needs_neither_torch_nor_matplotlib():
    code = "import sys, luthier.report.sections; sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
