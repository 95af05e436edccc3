"""The page: self-contained, escaped, and fit for a browser and a phone."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from luthier.errors import WorkspaceError
from luthier.report import details
from luthier.report.details import stage_headings
from luthier.report.html import write_report

from .fixtures import (
    BINS,
    HOSTILE,
    METHODS,
    SECTIONS,
    add_evaluation,
    cell_folder,
    fail,
    grid,
    write_recipe,
    write_stage,
)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page over a grid with everything: hostile texts, a failure, an unfinished cell, plots of every kind."""
    folder = grid(tmp_path_factory.mktemp("runs") / "grid", note=HOSTILE)
    add_evaluation(folder, "full", 1, {"calibration": {"bins": BINS}, "sections": SECTIONS})
    metrics = cell_folder(folder, "full", 1) / "01-evaluate" / "metrics.json"
    metrics.write_text(json.dumps(json.loads(metrics.read_text()) | {"primary": None}))
    fail(folder, "lora", 1, HOSTILE)
    (cell_folder(folder, "lora", 2) / "00-tune" / "done.json").unlink()
    (folder / "environment.json").write_text(json.dumps({"python": HOSTILE, "libraries": {"torch": "2.13.0"}}))
    return write_report([folder])


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(k, v or "") for k, v in attrs]


def test_nothing_hostile_gets_through_and_nothing_is_loaded(page: Path):
    text = page.read_text(encoding="utf8")
    parser = Elements()
    parser.feed(text)
    assert not {"script", "img", "link", "iframe", "object", "embed", "base", "form", "a"} & set(parser.tags)
    assert parser.tags.count("style") == 1
    assert all(v.startswith("#") for k, v in parser.attributes if k in ("src", "href", "xlink:href"))
    assert not [k for k, _ in parser.attributes if k.startswith("on")]
    assert "url(http" not in text
    assert "\u202e" not in text
    assert "\x00" not in text
    assert '<span class="mark">⟨U+202E⟩</span>' in text
    assert text.count("&lt;script&gt;alert(1)") >= 8


def test_every_part_is_there(page: Path):
    text = page.read_text(encoding="utf8")
    words = ["Highest mean", "12 runs: 10 finished, 1 failed, 1 unfinished.", "Scores and cost", "Resolved recipe"]
    words += ["against trained parameters", "training loss"]
    words += [
        "Reliability",
        "Five sides",
        "torch 2.13.0",
        "[0.7000,\u00a00.7400]",
        "plots of the kind &#39;pie&#39;",
        *METHODS,
    ]
    words += [
        "The plot can&#39;t be drawn",
        "row 1 has 1 values for 2 columns",
        "know what to show for &#39;video&#39;",
    ]
    words += ["<dt>a fact</dt><dd>3</dd>"]
    assert [word for word in words if word not in text] == []
    assert text.count("<svg") == text.count("</svg>") == 4 + 5


def test_names_of_elements_are_not_given_twice(page: Path):
    names = re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf8"))
    assert len(names) == len(set(names))


def test_a_hostile_run_name_and_factor(tmp_path: Path):
    folder = tmp_path / "<script>x&\u202e"
    write_stage(folder / "00-tune", 0.8)
    write_recipe(folder, "name: x\n")
    other = grid(tmp_path / "grid", seeds=(1,))
    (other / "recipe.yaml").write_text("name: [")
    (cell_folder(other, "full", 1) / "cell.json").write_text(json.dumps({"factors": {HOSTILE: HOSTILE, "seed": [1]}}))
    text = write_report([folder, other]).read_text(encoding="utf8")
    assert "<script" not in text
    assert "\u202e" not in text
    assert "<title>&lt;script&gt;x&amp;⟨U+202E⟩ and grid " in text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["runs/a", "runs/b"], "runs/report.html"),
        (["../b", "."], "{base}/runs/report.html"),
        ([".", "../b"], "{base}/runs/report.html"),
        (["runs/a/inner", "runs/b"], "runs/report.html"),
        (["runs/b", "runs/a/inner"], "runs/report.html"),
        (["{base}/runs/a", "runs/b"], "runs/report.html"),
        (["runs/a"], "runs/a/report.html"),
        (["c", "runs/b"], "report.html"),
    ],
)
def test_a_page_about_several_runs_is_no_runs_own_page(tmp_path: Path, monkeypatch, given, expected):
    """Wherever they are named from, where a run lies within another, and beside a recipe that is no run."""
    folders = [tmp_path / name for name in ("runs/a", "runs/a/inner", "runs/b", "c")]
    for folder in folders:
        write_stage(folder / "00-tune", 0.8)
        write_recipe(folder, "name: x\n")
        (folder / "environment.json").write_text("{}")
        (folder / "report.html").write_text("own")
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    inside = any(name == "." for name in given)
    monkeypatch.chdir(folders[0] if inside else tmp_path)
    place = write_report([Path(name.format(base=tmp_path)) for name in given])
    assert str(place) == expected.format(base=tmp_path)
    assert "<html" in place.read_text(encoding="utf8")
    own = {folder: (folder / "report.html").read_text(encoding="utf8") for folder in folders}
    assert [folder for folder, text in own.items() if text != "own"] == ([folders[0]] if len(given) == 1 else [])


SHAPES = [None, 3, "text", [], [1, "x"], {}, {"a": 1}]


@pytest.mark.parametrize(
    "sections", [*SHAPES, *([{k: v}] for k in ("table", "plot", "samples", "text") for v in SHAPES)]
)
def test_sections_of_any_shape_are_no_crash(tmp_path: Path, sections: object):
    write_stage(tmp_path / "run" / "00-tune", 0.8, details={"sections": sections, "calibration": sections})
    write_recipe(tmp_path / "run", "name: x\n")
    assert "0.8000" in write_report([tmp_path / "run"]).read_text(encoding="utf8")


def test_what_a_suite_tells_about_all_lines_stands_side_by_side(tmp_path: Path):
    folder = grid(tmp_path / "grid", seeds=(1, 2))
    for method, gain in (("full", 0.0), ("lora", 0.1)):
        for seed in (1, 2):
            sides = {"accuracy": 0.7 + gain + seed / 100, "shift": 0.5, "calibration": 0.2 - gain}
            add_evaluation(folder, method, seed, {"robustness": {"perspectives": sides}})
    text = write_report([folder]).read_text(encoding="utf8")
    section = text[text.index('id="across"') :].partition("</section>")[0]
    cells = re.findall(r"<t[dh][^>]*>(?:<[^>]*>)*([^<]+)", section)
    lora = cells[cells.index("lora") :][:7]
    wanted = ((0.1 / 0.285 + 0.5) / 3, (0.1 / 0.715 + 0.5) / 3)
    assert lora == ["lora", "0.815", "0.5", "0.1", *(f"{w:.4g}" for w in wanted), "1.167"]
    assert "Robustness against full" in section
    assert "<svg" in section
    add_evaluation(folder, METHODS[2], 1, {"robustness": 3})
    assert 'id="across"' not in write_report([folder]).read_text(encoding="utf8")


def test_long_tables_samples_and_many_plots_are_cut_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(details, "MOST_TABLE_ROWS", 2)
    monkeypatch.setattr(details, "MOST_SAMPLES", 3)
    monkeypatch.setattr(details.PlotBudget.__init__, "__defaults__", (1,))
    bars = {"kind": "bars", "values": {"a": 1}}
    table = {"columns": ["n"], "rows": [[n] for n in range(7)]}
    sections = [{"table": table}, {"samples": ["s"] * 7}, {"plot": bars}, {"plot": bars | {"x_label": "other"}}]
    write_stage(tmp_path / "run" / "00-tune", 0.8, details={"sections": sections})
    write_recipe(tmp_path / "run", "name: x\n")
    text = write_report([tmp_path / "run"]).read_text(encoding="utf8")
    assert "5 more rows are in metrics.json." in text
    assert "4 more are in metrics.json." in text
    assert text.count("this one is left out") == 1


def test_rows_that_are_folded_open_below_their_table(tmp_path: Path):
    table = {"columns": ["class", "F1"], "rows": [[f"class {n}", n] for n in range(437)], "folded": 417}
    write_stage(tmp_path / "run" / "00-tune", 0.8, details={"sections": [{"title": "Classes", "table": table}]})
    write_recipe(tmp_path / "run", "name: x\n")
    text = write_report([tmp_path / "run"]).read_text(encoding="utf8")
    before, _, inside = text.partition("<summary>417 more rows</summary>")
    assert re.findall(r"class (\d+)<", before) == [str(n) for n in range(20)]
    assert re.findall(r"class (\d+)<", inside.partition("</details>")[0]) == [str(n) for n in range(20, 437)]


def test_what_runs_from_right_to_left_is_set_apart(tmp_path: Path):
    hebrew = "\u05d8\u05d5\u05d1 (3)"
    sections = [
        {"title": hebrew, "text": f"of {hebrew}", "samples": [{hebrew: hebrew}], "facts": {hebrew: hebrew}},
        {"title": "t", "table": {"columns": [hebrew], "rows": [[hebrew]]}},
    ]
    write_stage(tmp_path / "run" / "00-tune", 0.8, details={"sections": sections})
    write_recipe(tmp_path / "run", "name: x\n")
    text = write_report([tmp_path / "run"]).read_text(encoding="utf8")
    shown = re.sub(r'<[^>]*"[^>]*>|<svg.*?</svg>', "", text, flags=re.S)
    assert shown.count(hebrew) == shown.count(f"<bdi>{hebrew}</bdi>") + 1 == 8
    assert f"<bdi>of {hebrew}</bdi>" in shown


def test_a_run_without_anything_finished(tmp_path: Path):
    write_recipe(tmp_path / "run", "name: x\nstages: [{tune: {}}]\n")
    text = write_report([tmp_path / "run"]).read_text(encoding="utf8")
    assert "No stage has finished with a score." in text
    assert "environment.json is missing or torn." in text


def test_an_old_page_stays_whole_when_the_new_one_cannot_be_made(tmp_path: Path):
    target = tmp_path / "page.html"
    target.write_text("old")
    with pytest.raises(WorkspaceError):
        write_report([tmp_path], target)
    assert target.read_text() == "old"
    assert write_report([grid(tmp_path / "grid", seeds=(1,))], target) == target
    assert target.read_text(encoding="utf8").endswith("</html>")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".writing")] == []


def test_a_page_takes_the_place_of_no_other_file_of_a_run(tmp_path: Path):
    run = grid(tmp_path / "grid", seeds=(1,))
    recipe = (run / "recipe.yaml").read_text()
    with pytest.raises(WorkspaceError, match="this is the file that is read"):
        write_report([run], run / "recipe.yaml")
    assert (run / "recipe.yaml").read_text() == recipe
    assert write_report([run], run / "own.html") == write_report([run], run / "own.html")


def test_a_large_grid_shows_the_best_lines_only(tmp_path: Path):
    values = list(range(14))
    folder = tmp_path / "large"
    write_recipe(folder, f"name: x\ncompare: {{over: {{rank: {values}}}}}\n")
    for rank in values:
        write_stage(folder / "cells" / f"rank={rank}" / "00-tune", 0.5 + rank / 100)
        (folder / "cells" / f"rank={rank}" / "cell.json").write_text(json.dumps({"factors": {"rank": rank}}))
    text = write_report([folder]).read_text(encoding="utf8")
    assert "(the best 10 of 14, and the baseline)" in text
    assert ">rank 13</text>" in text
    assert ">rank 0</text>" in text
    assert ">rank 2</text>" not in text
    assert text.count('<th scope="row"><span class="name">') >= 14


PROBE = """<pre id="probe"></pre><script>addEventListener("load", () => {
  const page = document.documentElement, box = document.querySelector(".wide").getBoundingClientRect();
  const text = [...document.querySelectorAll(".plots svg text")].map(t => t.getBoundingClientRect().height);
  document.getElementById("probe").textContent = JSON.stringify({overflow: page.scrollWidth - page.clientWidth,
    rows: document.querySelectorAll("tr").length, box: box.right - innerWidth, text: Math.min(...text)});
});</script></body>"""


COPY = """<script>onload = () => setTimeout(() => {
  document.title = document.getElementById("f").contentDocument.getElementById("probe").textContent; }, 300)</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser_nothing_overflows(page: Path, tmp_path: Path, width: int):
    """The page is framed at the width of a phone, since a browser window can't be made that narrow."""
    text = page.read_text(encoding="utf8").replace("<details>", "<details open>").replace("</body>", PROBE)
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    (tmp_path / "inner.html").write_text(text, encoding="utf8")
    frame = f'<iframe id="f" src="inner.html" style="border:0;width:{width}px;height:900px"></iframe>'
    (tmp_path / "outer.html").write_text(f"<!doctype html><body>{frame}{COPY}</body>", encoding="utf8")
    done = browse(tmp_path, "outer.html", "--allow-file-access-from-files")
    found = re.search(r"<title>(.+?)</title>", done.stdout)
    assert found, done.stdout[-300:] + done.stderr[-300:]
    measured = json.loads(found[1])
    assert measured["overflow"] <= 0
    assert measured["box"] <= 0
    assert measured["rows"] > 20
    assert measured["text"] >= 9


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_finds_nothing_to_complain_about(page: Path, tmp_path: Path):
    """A page that breaks its own policy is complained about, so silence means something."""
    assert console(browse(page.parent, page.name)) == []
    broken = page.read_text(encoding="utf8").replace("</body>", "<script>1</script></body>")
    (tmp_path / "broken.html").write_text(broken, encoding="utf8")
    assert len(console(browse(tmp_path, "broken.html"))) == 1


def console(done: subprocess.CompletedProcess) -> list[str]:
    return [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def browse(folder: Path, name: str, *more: str) -> subprocess.CompletedProcess:
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=4000 --dump-dom"
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [str(CHROMIUM), *flags.split(), profile, *more, f"file://{folder / name}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def test_stages_of_the_same_kind_are_told_apart_by_their_folders():
    assert stage_headings(["00-evaluate", "01-tune", "02-evaluate", "03-build_it"]) == {
        "00-evaluate": "00-evaluate",
        "01-tune": "Tune",
        "02-evaluate": "02-evaluate",
        "03-build_it": "Build it",
    }
