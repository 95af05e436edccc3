"""What `luthier explain rope` tells of a model before any training: periods, decay of attention, a base. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from luthier.context.rope import (
    ROPE_TYPES,
    BaseAdvice,
    Numbers,
    Rope,
    decay,
    granularity,
    inverse_frequencies,
    periods,
    recommended_base,
    rope_of,
)
from luthier.context.rope_settings import ABOUT, RopeKind, RopeSettings
from luthier.errors import ModelError
from luthier.models.loading import local_folder
from luthier.models.references import resolve
from luthier.models.settings import ModelSettings
from luthier.models.tensors import read_json
from luthier.report.sections import Lines, Section, SectionTable, Value

_POINTS, _SHOWN_PAIRS = 240, 12


@dataclass(frozen=True)
class RopeView:
    """A model's rotary embedding, and what others would do on longer texts.

    Attributes:
        rope: as it is.
        length: of the longer texts.
        old: tokens that it was trained on.
        advice: a base for the length.
        others: name -> (d/2,) frequencies on texts of the length.
    """

    rope: Rope
    length: int
    old: int
    advice: BaseAdvice
    others: dict[str, Numbers]

    def sections(self) -> list[Section]:
        """The page: what to know, the periods of the pairs, and the curves of attention against distance."""
        return [self._facts(), self._kinds(), self._periods(), self._decay()]

    def _facts(self) -> Section:
        facts: dict[str, Value] = {
            "rotary type": f"{self.rope.kind}: {ROPE_TYPES.get(self.rope.kind, 'of the model itself')}",
            "base": f"{self.rope.base:,.0f}",
            "pairs in a head": self.rope.dim // 2,
            "trained on": f"{self.old:,} tokens",
            "target length": f"{self.length:,} tokens",
            "recommended base": f"{self.advice.base:,.0f}: {self.advice.reason}",
        }
        return Section(f"Rotary positions up to {self.length:,} tokens", facts=facts)

    def _kinds(self) -> Section:
        n = np.unique(np.geomspace(1, self.length, 4 * _POINTS).round())
        rows: list[list[Value]] = []
        for name, frequencies in self.others.items():
            scores = decay(frequencies, n)
            rows.append(
                [
                    name,
                    int((periods(frequencies) > self.length).sum()),
                    int((periods(frequencies) > self.old).sum()),
                    round(granularity(frequencies), 4),
                    round(float(scores.min()), 2),
                    round(float(decay(frequencies, [self.length])[0]), 2),
                ]
            )
        columns = ["", "pairs slower than the length", "than the old length", "granularity", "least score", "at length"]
        text = (
            "Scores are those of a query and a key of ones; 11.3 at distance 0 where a head has 128 dimensions. Least "
            "is over distances up to the target. Granularity is how far apart neighbouring positions are."
        )
        return Section("What each kind would do", text=text, table=SectionTable(columns, rows))

    def _periods(self) -> Section:
        turns = {name: periods(frequencies) for name, frequencies in self.others.items()}
        pairs = np.unique(np.linspace(0, self.rope.dim // 2 - 1, _SHOWN_PAIRS).round().astype(int))
        rows: list[list[Value]] = [[int(j), *(_told(turns[name][j], self.length) for name in turns)] for j in pairs]
        text = f"Positions after which a pair has turned once; * is more than {self.length:,}: no text holds a turn."
        return Section("Rotation periods", text=text, table=SectionTable(["pair", *turns], rows))

    def _decay(self) -> Section:
        n = np.unique(np.geomspace(1, self.length, _POINTS).round())
        curves = {
            name: [(float(x), float(y)) for x, y in zip(n, decay(frequencies, n), strict=True)]
            for name, frequencies in self.others.items()
        }
        return Section(
            "How attention falls with distance",
            plot=Lines(curves, x_label="distance in tokens", y_label="raw score of ones", log_x=True),
        )


# transformers' types that interpolate, and the kind that suits such a model: factors of every pair can't be guessed.
_INTERPOLATED: Mapping[str, RopeKind] = {
    "linear": "interpolation",
    "yarn": "yarn",
    "llama3": "llama3",
    "longrope": "base",
}


def view_of(reference: str, length: int, settings: RopeSettings | None = None) -> RopeView:
    """Look at a model's configuration.

    Args:
        reference: a model, its folder, or a `config.json` alone.
        length: of the longer texts.
        settings: a kind to show beside the model's own, interpolation and the recommended base; default `abf`, but
            `interpolation` for a model whose positions are interpolated already, and the model's own where slow pairs
            are.

    Raises:
        ModelError: there is no such model, it has no rotary embedding, or the kind does not fit it.
    """
    rope = rope_of(_configuration(reference), reference)
    interpolated = rope.kind in _INTERPOLATED
    chosen = settings or RopeSettings(kind=_INTERPOLATED.get(rope.kind, "abf"))
    old = chosen.old_length(rope)
    if interpolated:
        advice = BaseAdvice(rope.base, "its own, since another one would take back that its positions are interpolated")
    else:
        advice = recommended_base(rope.dim, length, old_base=rope.base, old_length=old)
    others = {"as it is": rope.frequencies(length)}
    shown = [RopeSettings(kind="interpolation", original_length=chosen.original_length), chosen]
    for one in shown:
        try:
            given = one.parameters(rope, length)
        except ValueError as error:
            raise ModelError(str(error), where=reference, fix="choose another kind") from None
        name = f"abf {given['rope_theta']:,.0f}" if one.kind == "abf" else one.kind
        others[name] = inverse_frequencies(
            given, rope.dim, positions=one.positions(rope, length), length=length, head_dim=rope.head_dim
        )
    if advice.base != rope.base:
        advised = {"rope_type": "default", "rope_theta": advice.base}
        others.setdefault(f"abf {advice.base:,.0f}", inverse_frequencies(advised, rope.dim))
    return RopeView(rope, length, old, advice, others)


def config_place(model: str | ModelSettings) -> Path:
    """The `config.json` of a model; no weights are needed beside it."""
    path = Path(model if isinstance(model, str) else model.reference).expanduser()
    if path.is_file() and path.suffix == ".json":
        return path
    if (path / "config.json").is_file():
        return path / "config.json"
    settings = ModelSettings.model_validate(model)
    return local_folder(resolve(settings), settings, weights=False) / "config.json"


def _configuration(reference: str) -> Mapping[str, Any]:
    """What the `config.json` of a model holds; a GGUF file, which has none, is asked by transformers."""
    place = config_place(reference)
    if place.is_file():
        return read_json(place)
    from luthier.models.loading import load_config

    found: Mapping[str, Any] = load_config(reference).to_dict()
    return found


def page(view: RopeView) -> str:
    """One HTML page with the tables and the plot."""
    from html import escape

    parts = []
    for section in view.sections():
        parts.append(f"<h2>{escape(section.title)}</h2>")
        parts.append(f"<p>{escape(section.text)}</p>" if section.text else "")
        if section.facts:
            items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in section.facts.items())
            parts.append(f"<dl>{items}</dl>")
        if section.table:
            head = "".join(f"<th>{escape(name)}</th>" for name in section.table.columns)
            rows = "".join(
                "<tr>" + "".join(f"<td>{escape(str(value))}</td>" for value in row) + "</tr>"
                for row in section.table.rows
            )
            parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")
        parts.append(section.plot.draw(section.title) if section.plot else "")
    style = (
        "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}table{border-collapse:"
        "collapse}td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #8884}dt{font-weight:600}"
        "svg{max-width:100%;height:auto}"
    )
    about = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in ABOUT.items())
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Rotary positions</title><style>{style}</style><body>{''.join(parts)}"
        f"<h2>The kinds</h2><dl>{about}</dl></body></html>\n"
    )


def drawing(view: RopeView) -> str:
    """The curves of attention as an SVG file."""
    section = view.sections()[-1]
    assert section.plot is not None
    return section.plot.draw(section.title)


def _told(period: float, length: int) -> str:
    if math.isinf(period):
        return "never"
    return f"{period:,.0f}" + ("*" if period > length else "")
