"""The page: self-contained, escaped, and fit for a browser and a phone."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from luthier.report.html import write_report
from luthier.report.plots import draw_section_plot, plot_bars

from .fixtures import HOSTILE, grid, write_stage

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECTIONS = [
    {"title": HOSTILE, "text": HOSTILE, "table": {"columns": ["a", HOSTILE], "rows": [[1, HOSTILE]]}},
    {"title": "shares", "plot": {"kind": "bars", "values": {HOSTILE: 0.3, "b": [0.4, 0.5]}}},
    {"title": "radar", "plot": {"kind": "radar", "series": {"x": {"a": 0.5, "b": 0.2, "c": 0.9}}}},
    {"title": "lines", "plot": {"kind": "lines", "series": {"x": [[0, 1], [1, 2]]}}},
    {"title": "heat", "plot": {"kind": "heatmap", "rows": ["r"], "columns": ["c", "d"], "values": [[1, 2]]}},
    {"title": "broken", "plot": {"kind": "pie"}},
    {"title": "samples", "samples": [HOSTILE, "second"]},
]
BINS = [{"confidence": 0.6, "accuracy": 0.5, "count": 10}, {"confidence": 0.9, "accuracy": 0.95, "count": 30}]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    folder = grid(tmp_path / "grid")
    cell = folder / "cells" / "method=full,seed=1"
    write_stage(cell / "01-evaluate", 0.71, details={"calibration": {"bins": BINS}, "sections": SECTIONS})
    (folder / "cells" / "method=lora,seed=1" / "failed.json").write_text(json.dumps({"error": HOSTILE}))
    return write_report([folder])


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]


def test_nothing_hostile_gets_through_and_nothing_is_loaded(page: Path):
    text = page.read_text(encoding="utf8")
    parser = Elements()
    parser.feed(text)
    assert "script" not in parser.tags
    assert parser.tags.count("style") == 1 + parser.tags.count("svg")
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in parser.addresses)
    assert "\u202e" not in text
    assert "\x00" not in text
    assert "⟨U+202E⟩" in text
    assert "&lt;script&gt;" in text


def test_every_part_is_there(page: Path):
    text = page.read_text(encoding="utf8")
    for word in ("Scores and cost", "resolved recipe", "Reliability", "radar", "residual_prompt", "torch 2.13"):
        assert word in text
    assert text.count("<svg") >= 9


def test_svg_text_is_text_and_carries_a_title():
    svg = plot_bars({"<b>$x$": [0.1, 0.2]}, title="<t>", x_label="score")
    assert re.search(r"<title>&lt;t&gt;</title>", svg)
    assert "<b>" not in svg
    assert "score</text>" in svg


def test_an_unknown_plot_is_an_error():
    with pytest.raises(ValueError, match="pie"):
        draw_section_plot({"kind": "pie"}, "x")


PROBE = """<pre id="probe"></pre><script>addEventListener("load", () => {
  const outside = document.documentElement.scrollWidth - innerWidth;
  const rows = document.querySelectorAll("tr").length;
  document.getElementById("probe").textContent = "overflow=" + outside + " rows=" + rows;
});</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser_nothing_overflows_and_nothing_is_complained_about(page: Path, tmp_path: Path, width: int):
    """The page is framed at the width of a phone, since a browser window can't be made that narrow."""
    text = page.read_text(encoding="utf8")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text).replace("</body>", PROBE)
    (tmp_path / "inner.html").write_text(text, encoding="utf8")
    outer = f'<iframe id="f" src="inner.html" style="border:0;width:{width}px;height:900px"></iframe>'
    copy = """<script>onload = () => setTimeout(() => {
      document.title = document.getElementById("f").contentDocument.getElementById("probe").textContent;
      document.body.append(document.title); }, 300)</script>"""
    (tmp_path / "outer.html").write_text(f"<!doctype html><body>{outer}{copy}</body>", encoding="utf8")
    done = browse(tmp_path, "outer.html", "--allow-file-access-from-files")
    assert re.search(r"overflow=(0|-\d+) rows=[1-9]\d+", done.stdout), done.stdout[-300:]
    plain = browse(page.parent, page.name)
    assert "CONSOLE" not in plain.stderr, plain.stderr


def browse(folder: Path, name: str, *more: str) -> subprocess.CompletedProcess:
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=4000 --dump-dom"
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [str(CHROMIUM), *flags.split(), profile, *more, f"file://{folder / name}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
