"""Small texts in made-up languages of two families, with letters and words of their own, and one without blanks."""

from __future__ import annotations

import random
from pathlib import Path

FAMILIES = {
    "la": ("aeio", "bdlmnrst", 3),
    "lb": ("aeio", "bdlmnrst", 4),
    "ka": ("аеиоу", "бвгдклмн", 5),
    "kb": ("аеиоу", "бвгдклмн", 6),
}
UNSPACED = "zh"


def words_of(language: str, count: int = 120) -> list[str]:
    """Words of a language: those of one family share half of them."""
    vowels, consonants, seed = FAMILIES[language]
    shared, own = random.Random(vowels), random.Random(seed)

    def word(draw: random.Random) -> str:
        return "".join(draw.choice(consonants) + draw.choice(vowels) for _ in range(draw.randint(1, 4)))

    return [word(shared) for _ in range(count // 2)] + [word(own) for _ in range(count // 2)]


def lines_of(language: str, count: int, seed: int = 0) -> list[str]:
    """Sentences of a language, in which few words are frequent."""
    draw = random.Random(f"{language} {seed}")
    if language == UNSPACED:
        letters = "的一是不了在人有我他这中大来上国个到说们为子和你地出道也时年"
        return ["".join(draw.choices(letters, k=draw.randint(6, 18))) for _ in range(count)]
    words = words_of(language)
    weights = [1 / (rank + 1) for rank in range(len(words))]
    return [" ".join(draw.choices(words, weights, k=draw.randint(3, 9))) for _ in range(count)]


def write_texts(folder: Path, lines: int = 150) -> Path:
    """One file a language."""
    folder.mkdir(parents=True, exist_ok=True)
    for language in (*FAMILIES, UNSPACED):
        text = "".join(f"{line}\n" for line in lines_of(language, lines))
        (folder / f"{language}.txt").write_text(text, encoding="utf8")
    return folder
