"""Plots: well-formed, harmless, readable, and honest about what they can't draw."""

import itertools
import json
import re
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import unescape

import pytest

from luthier.report import charts
from luthier.report.charts import comparison_charts
from luthier.report.plots import plot_bands, plot_bars, plot_heatmap, plot_lines, plot_radar, plot_scatter
from luthier.report.results import read_run
from luthier.report.scores import cost_facts
from luthier.report.sections import plot_from_json
from luthier.report.svg import COLOURS, DARK_COLOURS, INK, labels, style
from luthier.report.tables import comparison_table

from .fixtures import BINS, HOSTILE, METHODS, cell_folder, fail, grid

PLOTS = {
    "bars": {"kind": "bars", "values": {HOSTILE: 0.3, "b": [0.4, 0.5]}, "x_label": HOSTILE},
    "lines": {"kind": "lines", "series": {HOSTILE: [[0, 1], [1, 2]], "b": [[[0, 1]], [[0, 2]]]}, "y_label": HOSTILE},
    "log lines": {"kind": "lines", "series": {"a": [[1, 1], [900, 2]]}, "log_x": True},
    "bands": {"kind": "bands", "series": {HOSTILE: [[1, 0.5, 0.1], [2, 0.4, 0.0]], "b": [[1, 0.2, 0]]}, "x_label": "x"},
    "radar": {
        "kind": "radar",
        "series": {HOSTILE: {"a": 0.5, HOSTILE: 0.2, "c": 1.4}, "y": {"a": 1, HOSTILE: 0, "c": 0}},
    },
    "reliability": {"kind": "reliability", "bins": BINS},
    "heatmap": {"kind": "heatmap", "rows": [HOSTILE], "columns": [HOSTILE, "d"], "values": [[1, 2]]},
    "large heatmap": {"kind": "heatmap", "rows": [*"ab"], "columns": [*"x" * 90], "values": [[*range(90)]] * 2},
}


@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_is_well_formed_and_harmless(name: str):
    svg = plot_from_json(PLOTS[name]).draw(HOSTILE)
    root = ElementTree.fromstring(svg)
    tags = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert not {"script", "foreignObject", "image", "style", "a", "metadata"} & set(tags)
    assert tags[:3] == ["svg", "title", "desc"]
    assert root[0].text.startswith("<script>alert(1)</script></style>&⟨U+202E⟩evil⟨U+0000⟩long")
    assert len(root[1].text) > 5
    assert "text" in tags
    references = [v for e in root.iter() for k, v in e.attrib.items() if k.rpartition("}")[2] == "href"]
    assert all(reference.startswith("#") for reference in references)
    assert "\u202e" not in svg


def test_references_lead_somewhere_and_no_two_plots_share_a_name():
    drawn = [plot_from_json(plot).draw(name) for name, plot in PLOTS.items()]
    names = [set(re.findall(r' id="([^"]+)"', svg)) for svg in drawn]
    for svg, own in zip(drawn, names, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) <= own
    assert len(set.union(*names)) == sum(map(len, names))


def test_names_that_look_like_the_markup_of_a_plot_are_left_as_they_are():
    names = {'id="x"', "url(#a)", f'style="{COLOURS[0]}"'}
    svg = plot_lines({name: [[(0, 1), (1, 2)]] for name in names}, title="t", x_label="x", y_label="y")
    assert names <= {unescape(text) for text in written(svg)}


def test_a_label_without_an_interval_gets_no_arms_of_another_kind():
    values = {"a": [0.4, 0.5], "b": [0.6, 0.7]}
    assert "LineCollection" in plot_bars(values, title="t", x_label="x")
    assert "LineCollection" in plot_bars(values, title="t", x_label="x", intervals={"b": (0.5, 0.8)})
    assert "LineCollection" not in plot_bars(values, title="t", x_label="x", intervals=dict.fromkeys(values))


def test_a_seed_that_failed_early_does_not_end_the_curves_of_the_others(tmp_path: Path):
    folder = grid(tmp_path / "grid")
    log = cell_folder(folder, "lora", 3) / "00-tune" / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:4]))
    fail(folder, "lora", 3, "out of memory")
    run = read_run(folder)
    charts = dict(comparison_charts(comparison_table([run])))
    ends = [
        cell.curves["00-tune"]["loss"][-1]
        for cell in run.cells
        if cell.name in ("method=lora,seed=1", "method=lora,seed=2")
    ]
    assert {step for step, _ in ends} == {200}
    told = f"lora ends at {(ends[0][1] + ends[1][1]) / 2:.4g}"
    assert told in charts["training loss: mean and range over seeds"]


def test_lines_with_fewer_seeds_are_no_better_than_whole_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = grid(tmp_path / "grid")
    for seed in (1, 2):
        fail(folder, "residual_prompt", seed, "nan")
    monkeypatch.setattr(charts, "MOST_SERIES", 2)
    drawn = " ".join(svg for _, svg in comparison_charts(comparison_table([read_run(folder)])))
    assert "lora" in drawn
    assert "prompt" in drawn
    assert "residual_prompt" not in drawn


def written(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_lines_are_named_by_what_sets_them_apart(tmp_path: Path):
    folder = grid(tmp_path / "grid", seeds=(1, 2))
    for cell in (folder / "cells").iterdir():
        factors = json.loads((cell / "cell.json").read_text())["factors"]
        length = 32 * (1 + METHODS.index(factors["stages.0.tune.method"]))
        same = {"a.method": "residual_prompt", "a.learning_rate": 0.001, "a.batch_size": 16, "a.label_smoothing": 0.1}
        (cell / "cell.json").write_text(json.dumps({"factors": same | {"a.length": length, "seed": factors["seed"]}}))
    (folder / "recipe.yaml").write_text("name: [")
    for _, svg in comparison_charts(comparison_table([read_run(folder)])):
        assert {"length 32", "length 64", "length 96", "length 128"} <= set(written(svg))
        assert "residual_prompt" not in svg
    (folder / "again").mkdir()
    for part in ("recipe.yaml", "environment.json", "cells"):
        (folder / "again" / part).symlink_to(folder / part)
    _, svg = comparison_charts(comparison_table([read_run(folder), read_run(folder / "again")]))[0]
    assert {"grid: length 32", "again: length 32"} <= set(written(svg))


def test_different_names_are_not_cut_to_one():
    begin = "a name that goes on for longer than a plot"
    assert labels([f"{begin}, 1", f"{begin}, 2", "b", "b"]) == [
        "a name that goes …ger than a plot, 1",
        "a name that goes …ger than a plot, 2",
        "b",
        "b",
    ]
    both = labels([f"{begin} one {begin}", f"{begin} two {begin}"])
    assert len(set(both)) == 2
    assert all(len(name) <= 36 for name in both)
    svg = plot_bars({f"{begin}, 1": [0.1], f"{begin}, 2": [0.2]}, title="t", x_label="x")
    assert {"a name that goes …ger than a plot, 1", "a name that goes …ger than a plot, 2"} <= set(written(svg))


@pytest.mark.parametrize("kind", ["lines", "bands", "scatter", "radar"])
def test_a_name_that_begins_with_an_underscore_has_its_place_in_the_legend(kind: str):
    points = {
        "lines": [[(0, 1), (1, 2)]],
        "bands": [(0, 1, 0.1), (1, 2, 0.1)],
        "scatter": [(0, 1)],
        "radar": {"a": 1, "b": 2, "c": 1},
    }
    axes = {} if kind == "radar" else {"x_label": "x", "y_label": "y"}
    draw = {"lines": plot_lines, "bands": plot_bands, "scatter": plot_scatter, "radar": plot_radar}[kind]
    svg = draw(dict.fromkeys(("_old", "new"), points[kind]), title="t", **axes)
    assert {"_old", "new"} <= {text.strip() for text in written(svg)}


@pytest.mark.parametrize("trained", [True, False])
def test_seconds_are_of_training_where_something_was_trained(tmp_path: Path, trained: bool):
    folder = grid(tmp_path / "grid", seeds=(1,))
    for number, place in enumerate(sorted(folder.rglob("metrics.json"))):
        metrics = json.loads(place.read_text())
        metrics["cost"] = {"seconds": 2.5 + number} | ({"trainable_parameters": 8.0} if trained else {})
        place.write_text(json.dumps(metrics))
    run = read_run(folder)
    name = "training seconds" if trained else "seconds"
    assert f"validation/accuracy against {name}" in dict(comparison_charts(comparison_table([run])))
    assert (name, "2.5") in cost_facts(run.cells[0])


def test_text_is_text_and_no_mathematics():
    svg = plot_bars({"<b>$x^2$": [0.1, 0.2]}, title="<t>", x_label="score")
    assert "<title>&lt;t&gt;</title><desc>score. &lt;b&gt;$x^2$ 0.15.</desc>" in svg
    assert "&lt;b&gt;$x^2$</text>" in svg
    assert "score</text>" in svg


def test_the_same_plot_is_the_same_text():
    assert plot_from_json(PLOTS["lines"]).draw("t") == plot_from_json(PLOTS["lines"]).draw("t")


def test_a_page_can_set_every_colour():
    series = {str(n): [[(0.0, float(n)), (1.0, n + 1.0)]] for n in range(len(COLOURS))}
    svg = plot_lines(series, title="t", x_label="x", y_label="y")
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= set(COLOURS)
    assert all(f"var(--series-{n}, {colour})" in svg for n, colour in enumerate(COLOURS))
    assert "currentColor" in svg


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours (WCAG 2)."""

    def light(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_seen_and_series_told_apart():
    assert all(contrast(colour, "#15171b") >= 4.5 for colour in DARK_COLOURS)
    assert all(contrast(colour, "#ffffff") >= 2.0 for colour in COLOURS)
    assert len({tuple(style(n).values()) for n in range(32)}) == 32


def test_a_band_is_drawn_for_several_seeds_only():
    one = plot_lines({"a": [[(0, 1), (1, 2)]]}, title="t", x_label="x", y_label="y")
    two = plot_lines({"a": [[(0, 1), (1, 2)], [(0, 2), (1, 3)]]}, title="t", x_label="x", y_label="y")
    assert "FillBetween" not in one
    assert "FillBetween" in two
    assert "a ends at 2.5" in two


@pytest.mark.parametrize("xs", [(770.0, 900.0), (1e3, 2e7), (5.0, 5.0)])
def test_a_logarithmic_axis_has_plain_ticks(xs: tuple[float, float]):
    points = {str(n): [(x, 0.5)] for n, x in enumerate(xs)}
    svg = plot_scatter(points, title="t", x_label="x", y_label="y", log_x=True)
    ticks = [t for t in re.findall(r">([^<>]+)</text>", svg) if re.fullmatch(r"[\d.]+[kM]?", t)]
    assert len(ticks) >= 4
    assert "mathdefault" not in svg


@pytest.mark.parametrize(
    "plot",
    [
        {"kind": "pie"},
        {},
        {"kind": "bars"},
        {"kind": "bars", "values": {"a": []}},
        {"kind": "bars", "values": {"a": [float("nan")]}},
        {"kind": "bars", "values": {"a": "x"}},
        {"kind": "lines", "series": {}},
        {"kind": "lines", "series": {"a": []}},
        {"kind": "lines", "series": {"a": [[0, 1], [1, 2]]}, "log_x": True},
        {"kind": "radar", "series": {}},
        {"kind": "radar", "series": {"a": {"x": 1, "y": 1}}},
        {"kind": "reliability", "bins": [{"confidence": 1, "accuracy": 1, "count": 0}]},
        {"kind": "heatmap", "rows": ["a"], "columns": ["b"], "values": [[1, 2]]},
        {"kind": "heatmap", "rows": [], "columns": [], "values": []},
    ],
)
def test_what_cannot_be_drawn_is_an_error(plot: dict):
    with pytest.raises((ValueError, KeyError)):
        plot_from_json(plot).draw("t")


def test_every_label_needs_the_same_axes():
    with pytest.raises(ValueError, match="same ones"):
        plot_radar({"a": {"x": 1, "y": 1, "z": 1}, "b": {"x": 1, "y": 1, "w": 1}}, title="t")


def test_few_numbers_are_written_into_a_heat_map():
    assert ">0.25</text>" in plot_heatmap(["r"], ["c", "d"], [[0.25, 1]], title="t")


def test_counts_are_written_in_full_to_be_seen_and_to_be_heard():
    svg = plot_heatmap(["r"], ["c", "d"], [[1235, 99999]], title="t")
    assert re.findall(r">([\d.,e+]+)</text>", svg) == ["1,235", "99,999"]
    assert "<desc>r: 1,235, 99,999.</desc>" in svg
    assert "a 295,682, 0.5;" in plot_scatter(
        {"a": [(295682, 0.5)], "b": [(2, 0.25)]}, title="t", x_label="", y_label=""
    )


def test_plots_leave_the_users_backend_alone(tmp_path: Path):
    import matplotlib

    before = matplotlib.rcParams["backend"], matplotlib.rcParams["svg.fonttype"]
    plot_bars({"a": [1.0]}, title="t", x_label="x")
    assert (matplotlib.rcParams["backend"], matplotlib.rcParams["svg.fonttype"]) == before


def test_cells_apart_change_no_colour_of_a_heat_map():
    def colours(values, apart):
        svg = plot_heatmap(["O", "PER"], ["O", "PER"], values, title="t", apart=apart)
        return re.findall(r"(?:fill: ?|fill=\")(#[0-9a-f]{6})", svg)

    swamped, plain = colours([[9000, 3], [2, 5]], ()), colours([[5, 3], [2, 5]], ())
    left_out = colours([[9000, 3], [2, 5]], ((0, 0),))
    assert len(set(plain)) > len(set(swamped))
    assert set(left_out) - {INK} <= set(plain)
    assert len(set(left_out) - {INK}) == len(set(plain) - {INK})


@pytest.mark.parametrize("name", ["intent {}", "a class with a name that goes on for long, {}"])
def test_names_below_a_large_heat_map_stand_beside_each_other(name: str):
    names = [name.format(number) for number in range(21)]
    svg = plot_heatmap(names, names, [[0, 1] * 10 + [2]] * 21, title="t")
    places = [float(x) for x in re.findall(r'"translate\(([\d.]+) [\d.]+\) rotate\(-90\)"', svg)]
    assert len(places) == 21
    assert min(b - a for a, b in itertools.pairwise(places)) > 10.5  # a line of text


@pytest.mark.parametrize("name", ["{}", "a method {}", "a method with a long name, number {}"])
def test_axes_keep_their_height_above_a_legend_of_many_long_names(name: str):
    series = {name.format(n): [[(0, n), (1, n)]] for n in range(8)}
    svg = plot_lines(series, title="t", x_label="step", y_label="y" * 34)
    corners = re.search(r'-patch_2">\s*<path d="M [\d.]+ ([\d.]+)\s+L [\d.]+ [\d.]+\s+L [\d.]+ ([\d.]+)', svg)
    low, high = map(float, corners.groups())
    assert low - high > 2 * 72  # points
    y_label = [text for text in written(svg) if "y" in text]
    assert "".join(y_label) == "y" * 34
    assert max(map(len, y_label)) * 5.4 < 2 * 72
