"""Draws one figure as an SVG element for a page: readable text, no script, no link, colours that the page can set."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from luthier.report.text import one_line, visible

# Okabe and Ito's colours, which stay apart under the common kinds of colour blindness; markers and dashes differ too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7a7a7a")
# The same hues for a dark page, each with a contrast of at least 4.5 to it.
DARK_COLOURS = ("#4aa8e0", "#ff8c42", "#2fc79a", "#e3a3c8", "#f2b933", "#8fd0f7", "#c9998f", "#b0b0b0")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
DASHES = ("-", "--", ":", "-.")
INK = "#1c1e22"
_LONGEST_LABEL = 36
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "luthier",
    "font.size": 10.5,
    "font.family": "DejaVu Sans",
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "axes.linewidth": 0.7,
    "axes.unicode_minus": True,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.6,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


def style(number: int) -> dict[str, Any]:
    """Colour, marker and dash of the series with this number; no two of the first 32 are alike."""
    around, place = divmod(number, len(COLOURS))
    return {"color": COLOURS[place], "marker": MARKERS[place], "linestyle": DASHES[around % len(DASHES)]}


def label(text: object, longest: int = _LONGEST_LABEL) -> str:
    """A name as it stands in a plot: on one line, nothing hidden, not too long."""
    name = one_line(text, longest)
    # A legend leaves out what begins with an underscore.
    return f" {name}" if name.startswith("_") else name


def labels(texts: Iterable[object], longest: int = _LONGEST_LABEL) -> list[str]:
    """The names of one plot as they stand in it, of `longest` characters at most. Where different ones, cut at the end,
    would be alike, they are cut in the middle, and numbered if that does not help."""
    given = [str(text) for text in texts]
    whole = list(dict.fromkeys(given))
    cut = [label(text, longest) for text in whole]
    half = longest // 2
    middle = [
        label(f"{visible(text)[: half - 1]}…{visible(text)[-half:]}", longest)
        if name.endswith("…") and cut.count(name) > 1
        else name
        for text, name in zip(whole, cut, strict=True)
    ]
    told = [
        f"{number} {name[: longest - 4]}" if middle.count(name) > 1 else name for number, name in enumerate(middle, 1)
    ]
    names = dict(zip(whole, told, strict=True))
    return [names[text] for text in given]


def draw(
    paint: Callable[[Any], None],
    *,
    title: str,
    description: str,
    size: tuple[float, float] = (4.7, 3.1),
    polar: bool = False,
    legend: bool = False,
) -> str:
    """One set of axes as an SVG element that scales with the page.

    Args:
        paint: draws on the matplotlib axes that it is given.
        title, description: what a screen reader says; any text.
        size: width and height in inches; text is 10.5 points high.
        polar: whether the axes go around.
        legend: whether a legend stands below the axes.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        # The page's reader has other fonts than the machine that draws.
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*missing")
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot(projection="polar" if polar else None)
        if not polar:
            axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True)
        axes.set_axisbelow(True)
        paint(axes)
        if legend and axes.get_legend_handles_labels()[0]:
            _legend_below(figure, axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_page(buffer.getvalue(), title, description)


def _legend_below(figure: Any, axes: Any) -> None:
    columns = legend_columns(axes.get_legend_handles_labels()[1])
    figure.legend(loc="outside lower center", frameon=False, fontsize=9.5, ncols=columns)


def legend_columns(names: Sequence[str]) -> int:
    """How many of these names, as they stand in a plot, a legend has side by side."""
    longest = max(map(len, names))
    return min(1 if longest > 24 else 2 if longest > 13 else 3, len(names))


def _for_page(svg: str, title: str, description: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<defs>\s*</defs>", "", svg, flags=re.S)
    opening, _, rest = svg.partition(">")
    opening = re.sub(r' (?:width|height)="[^"]*"', "", opening)
    prefix = "p" + hashlib.sha256(f"{title}{svg}".encode(errors="replace")).hexdigest()[:8]
    # What stands between tags are names, which may look like any of this.
    rest = re.sub(r"<[^>]*>", lambda tag: _page_tag(tag[0], prefix), rest)
    names = f"<title>{plain(title)}</title><desc>{plain(description)}</desc>"
    return f'{opening} role="img">{names}{rest.strip()}'


def _page_tag(tag: str, prefix: str) -> str:
    """A tag whose ids, and references to them, are the plot's own, in the page's colours and fonts."""
    tag = re.sub(r'\b(id="|href="#)|(url\(#)', lambda found: f"{found[0]}{prefix}-", tag)
    return re.sub(r'style="[^"]*"', lambda found: _page_style(found[0]), tag)


def _page_style(text: str) -> str:
    """Fixed colours and fonts as those of the page, the fixed ones standing in where a page sets none."""
    for number, colour in enumerate(COLOURS):
        text = text.replace(colour, f"var(--series-{number}, {colour})")
    text = text.replace(INK, "currentColor")
    return re.sub(r"font: ([^;\"']*px)[^;\"]*", r"font: \1 system-ui, sans-serif", text)


def plain(text: object) -> str:
    """Text that is safe inside SVG, nothing hidden in it."""
    return escape(visible(str(text)))
