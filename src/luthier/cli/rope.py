"""`luthier explain rope`: a model's rotary positions against a length."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.errors import RecipeError

if TYPE_CHECKING:
    from rich.console import RenderableType


def explain_rope(arguments: argparse.Namespace) -> Iterator[RenderableType]:
    """What is printed; writes the page or the plot where one is asked for.

    Raises:
        RecipeError: the model or the length is not given, or the kind does not exist.
    """
    if not arguments.model or not arguments.length:
        raise RecipeError("`explain rope` needs a model and a length", fix="luthier explain rope MODEL --length 32768")
    from pydantic import ValidationError
    from rich.table import Table
    from rich.text import Text

    from luthier.context.rope_report import drawing, page, view_of
    from luthier.context.rope_settings import RopeSettings
    from luthier.storage.files import write_text
    from luthier.storage.output_places import check_place_of

    given = {name: getattr(arguments, name) for name in ("kind", "base") if getattr(arguments, name) is not None}
    try:
        settings = RopeSettings.model_validate(given) if given else None
    except ValidationError as error:
        said = error.errors()[0]
        raise RecipeError(
            said["msg"].removeprefix("Value error, "), where=f"--{(said['loc'] or ('kind',))[0]}"
        ) from None
    place = Path(arguments.output) if arguments.output else None
    if place is not None:
        if place.suffix not in (".html", ".svg"):
            raise RecipeError("the file is neither a page nor a plot", where=str(place), fix="name it .html or .svg")
        check_place_of(place)
    view = view_of(arguments.model, arguments.length, settings)
    for section in view.sections():
        yield Text(section.title, style="bold")
        if section.text:
            yield Text(section.text)
        for name, value in (section.facts or {}).items():
            yield Text(f"  {name}: {value}")
        if section.table is not None:
            table = Table(box=None, pad_edge=False, header_style="bold")
            for name in section.table.columns:
                table.add_column(Text(name), justify="right")
            for row in section.table.rows:
                table.add_row(*(Text(str(value)) for value in row))
            yield table
        if section.plot is not None:
            yield from _sketched(section.plot.series)  # type: ignore[attr-defined]
    if place is not None:
        write_text(place, page(view) if place.suffix == ".html" else drawing(view))
        yield Text(f"wrote {place}")


_BLOCKS = " ▁▂▃▄▅▆▇█"


def _sketched(series: dict[str, list[tuple[float, float]]]) -> Iterator[RenderableType]:
    """Each curve as a line of blocks over distances from 1 to the length, on a logarithmic scale."""
    from rich.text import Text

    largest = max(y for points in series.values() for _, y in points)
    width = max(map(len, series))
    for name, points in series.items():
        some = points[:: max(1, len(points) // 60)]
        line = "".join(_BLOCKS[max(0, round(8 * y / largest))] for _, y in some)
        yield Text(f"  {name:<{width}} {line}", no_wrap=True)
    far = next(iter(series.values()))[-1][0]
    yield Text(f"  from 1 to {far:,.0f} tokens apart; blank is at or below zero")
