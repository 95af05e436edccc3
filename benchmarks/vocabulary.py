"""A clustered vocabulary against a joint one of the same size, in tokens a sentence on text of another source.

Claim (XLM-V, EMNLP 2023, table 7): at an equal number of pieces, models of language clusters with capacities by average
log probability cut text into fewer tokens than one joint model: -6.8 % over all languages of FLoRes at a million
pieces. Main comparison, named beforehand: `alp` (k-means on -log p of length 1, ALP capacities) against `joint` (k =
1), relative change of tokens a line by language, mean over languages; it holds where the 95 % interval (drawn over
languages and seeds) is below 0, and does not hold where the interval excludes half of the published effect. Second:
the same over the languages with the least text. Beside them, exploratory: `literal`, fingerprints as they are
published, without a common length, which was the main arm until its first seed showed that k-means then parts single
languages from all others; capacities by the union of vocabularies (Chung et al.); and every language by itself.

Text: sentences of `tatoeba` (English: 6,000 of its translations, at most 1,000 of every other language) train, the
Universal Declaration of Human Rights (`udhr2`) is cut. Of each seed another 80 % of the lines. Every arm has the same
number of pieces, to within 0.5 %: clustered arms get a larger sum of capacities, for the pieces that several clusters
have.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import harness
import numpy as np
from tables import table

from luthier.data.sources.base import data_folder
from luthier.errors import DataError

SIZES, SEEDS, CLUSTERS, ENGLISH, SHARE = (24_000, 40_000), (1, 2, 3), 8, 6000, 0.8
ARMS = ("joint", "alp", "literal", "union", "separate")
# Those of at most 600 sentences.
LOW = ["amh", "ast", "bos", "ceb", "cha", "cym", "fao", "hsb", "jav", "kaz", "swh", "tam", "tha", "tuk", "xho"]
DECLARATION = {
    "bos": "bos_latn", "cmn": "cmn_hans", "ell": "ell_monotonic", "pes": "pes_1", "por": "por_BR", "srp": "srp_cyrl",
    "tuk": "tuk_latn", "uig": "uig_arab",
}  # fmt: skip
CAPACITY = {"step": 250, "least": 250, "most": 3000}
SETTINGS = {
    "sizes": SIZES,
    "seeds": SEEDS,
    "clusters": CLUSTERS,
    "english": ENGLISH,
    "share": SHARE,
    "capacity": CAPACITY,
    "language_pieces": 2000,
    "low": LOW,
    "declaration": DECLARATION,
}


def main() -> None:
    options = harness.arguments(__doc__)
    work = Path(tempfile.gettempdir()) / "luthier-vocabulary"
    os.environ.setdefault("LUTHIER_CACHE", str(work / "cache"))
    text, held_out = prepare(work)

    def measure(cell: dict[str, Any]) -> dict[str, Any]:
        return measured(cell, text, held_out, work)

    # The main comparison first, over all seeds.
    groups = [(size, arms) for size in SIZES for arms in (ARMS[:2], ARMS[2:3], ARMS[3:])]
    cells = [{"size": size, "seed": seed, "arm": arm} for size, arms in groups for seed in SEEDS for arm in arms]
    harness.run_cells("vocabulary", SETTINGS, cells, measure, options)


def prepare(work: Path) -> tuple[Path, dict[str, list[str]]]:
    """A folder with the training text of every language that both sets have, and the held-out lines."""
    tatoeba, declaration = (data_folder(name) / name for name in ("tatoeba", "udhr2"))
    if not tatoeba.is_dir() or not declaration.is_dir():
        raise DataError("needs the sets tatoeba and udhr2 under LUTHIER_DATA")
    text, held_out = work / "text", {}
    text.mkdir(parents=True, exist_ok=True)
    english: dict[str, None] = {}
    for path in sorted(tatoeba.glob("*.tsv")):
        rows = [line.split("\t") for line in path.read_text(encoding="utf8").splitlines()]
        english |= dict.fromkeys(row[1] for row in rows)
        whole = declaration / f"{DECLARATION.get(path.stem, path.stem)}.txt"
        if whole.is_file():
            (text / f"{path.stem}.txt").write_text("".join(f"{row[0]}\n" for row in rows), encoding="utf8")
            held_out[path.stem] = lines_of(whole)
    (text / "eng.txt").write_text(
        "".join(f"{line}\n" for line in list(english)[:: len(english) // ENGLISH]), encoding="utf8"
    )
    held_out["eng"] = lines_of(declaration / "eng.txt")
    return text, dict(sorted(held_out.items()))


def lines_of(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf8", errors="replace").splitlines() if line.strip()]


def measured(cell: dict[str, Any], text: Path, held_out: dict[str, list[str]], work: Path) -> dict[str, Any]:
    from luthier.vocabulary import build_vocabulary, load_encoder

    size, asked = cell["size"], cell["size"]
    lines = sum(path.read_bytes().count(b"\n") for path in text.iterdir())
    for _ in range(6):
        settings = {
            "text": str(text),
            "size": asked,
            "language_pieces": SETTINGS["language_pieces"],
            "sample": {"lines": round(SHARE * lines)},
            "cluster": {"count": {"joint": 1, "separate": len(held_out)}.get(cell["arm"], CLUSTERS)},
            "capacity": capacity(cell["arm"]),
            "fingerprint": {"normalise": "none" if cell["arm"] == "literal" else "l2"},
        }
        built = build_vocabulary(settings, work / "built" / harness.cell_name(cell), seed=cell["seed"])
        pieces = built.about["merged"]["pieces"]
        if abs(pieces - size) <= 0.005 * size:
            break
        asked = round(asked * size / pieces)
    encoder = load_encoder(built.folder)
    tokens, unknown = {}, {}
    for language, texts in held_out.items():
        encoded = encoder.encode(texts)
        tokens[language] = sum(map(len, encoded)) / len(encoded)
        unknown[language] = sum(ids.count(3) for ids in encoded) / sum(map(len, encoded))
    return {
        "pieces": pieces,
        "asked": asked,
        "tokens_a_line": statistics.fmean(tokens.values()),
        "languages": {name: round(value, 4) for name, value in tokens.items()},
        "unknown": {name: round(value, 5) for name, value in unknown.items()},
        "clusters": built.clusters,
        "capacities": built.capacities,
        "letters": built.about["allocation"]["letters"],
    }


def capacity(arm: str) -> dict[str, Any]:
    if arm in ("alp", "literal"):
        return {"rule": "alp", **CAPACITY}
    return {"rule": "union" if arm == "union" else "uniform"}


def changes(cells: list[dict[str, Any]], size: int, arm: str, languages: list[str]) -> np.ndarray:
    """(seeds, languages) relative change of tokens a line against the joint vocabulary."""
    by = {(c["cell"]["size"], c["cell"]["seed"], c["cell"]["arm"]): c["languages"] for c in cells}
    seeds = [s for s in SEEDS if (size, s, arm) in by and (size, s, "joint") in by]
    return np.array([[by[size, s, arm][n] / by[size, s, "joint"][n] - 1 for n in languages] for s in seeds])


def interval(table: np.ndarray) -> tuple[float, float, float]:
    """Mean, and a 95 % interval of it that redraws seeds and languages."""
    draw = np.random.default_rng(0)
    means = []
    for _ in range(4000):
        rows, columns = (draw.integers(0, n, n) for n in table.shape)
        means.append(table[np.ix_(rows, columns)].mean())
    low, high = np.percentile(means, [2.5, 97.5])
    return float(table.mean()), float(low), float(high)


def answers(cells: list[dict[str, Any]]) -> list[list[str]]:
    named = list(cells[0]["languages"])
    found = []
    for size in SIZES:
        for told, languages in (("all", named), ("those with the least text", [n for n in LOW if n in named])):
            shown = changes(cells, size, "alp", languages)
            if len(shown):
                mean, low, high = interval(shown)
                seeds = "one seed" if len(shown) == 1 else f"{len(shown)} seeds"
                verdict = "holds" if high < 0 else "does not hold" if low > -0.034 else "not told"
                found.append(
                    [
                        f"clustered vocabularies with ALP capacities need fewer tokens than a joint one of {size:,} "
                        f"pieces (XLM-V, published -6.8 %), {told} of {len(languages)} languages",
                        f"{verdict}: {mean:+.1%} [{low:+.1%}, {high:+.1%}], {seeds}",
                    ]
                )
    return found


def page(cells: list[dict[str, Any]]) -> str:
    named, rows = list(cells[0]["languages"]), []
    for size in SIZES:
        for arm in ARMS:
            own = [c for c in cells if c["cell"]["size"] == size and c["cell"]["arm"] == arm]
            if not own:
                continue
            row = [f"{size:,}", arm, f"{statistics.fmean(c['tokens_a_line'] for c in own):.2f}"]
            for languages in (named, [n for n in LOW if n in named]):
                shown = changes(cells, size, arm, languages)
                mean, low, high = interval(shown) if len(shown) else (0.0, 0.0, 0.0)
                row.append("" if arm == "joint" or not len(shown) else f"{mean:+.1%} [{low:+.1%}, {high:+.1%}]")
            spare = min(a / b for c in own for a, b in zip(c["capacities"], c["letters"], strict=True))
            unknown = statistics.fmean(v for c in own for v in c["unknown"].values())
            rows.append([*row, f"{unknown:.2%}", f"{spare:.1f}", str(len(own))])
    columns = [
        "pieces", "arm", "tokens a line", "change, all languages", "change, least text", "unknown tokens",
        "least capacity by letters needed", "seeds",
    ]  # fmt: skip
    text = (
        f"## Vocabularies by language clusters\n\nTokens a line of the Universal Declaration of Human Rights in "
        f"{len(named)} languages, cut by vocabularies of equal size learned from Tatoeba's sentences. Changes "
        "are against the joint vocabulary, paired by language and seed.\n\n"
    )
    return text + table(columns, rows) + "\n"


if __name__ == "__main__":
    main()
