"""Small texts in made-up languages of two families, with letters and words of their own, and one without blanks; and
real sentences in a dozen scripts, with odd characters put in."""

from __future__ import annotations

import os
import random
import signal
import unicodedata
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


def ended(_: int) -> None:
    """Ends its own process, as a machine does that has no memory left."""
    os.kill(os.getpid(), signal.SIGKILL)


def write_texts(folder: Path, lines: int = 150) -> Path:
    """One file a language."""
    folder.mkdir(parents=True, exist_ok=True)
    for language in (*FAMILIES, UNSPACED):
        text = "".join(f"{line}\n" for line in lines_of(language, lines))
        (folder / f"{language}.txt").write_text(text, encoding="utf8")
    return folder


TEXTS = [
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "Все люди рождаются свободными и равными в своём достоинстве и правах.",
    "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "人人生而自由，在尊严和权利上一律平等。",
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "मनुष्य मात्र स्वतन्त्रता और समानता का जन्मसिद्ध अधिकार है।",
    "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்; அவர்கள் போன்றோர்.",
    "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
    "כל בני אדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
]
BLANKS = [
    "\t",
    "\n",
    "\u00a0",
    "\u1680",
    "\u2003",
    "\u2028",
    "\u3000",
    "\u0085",
    "  ",
    "\u200b",
    "\u200c",
    "\u200d",
    "\ufeff",
    "▁",
]
ODD = [
    "\0",
    "\x07",
    "\x7f",
    "\xad",
    "\u0301",
    "\u0323",
    "\u3099",
    "\u1161",
    "ﬁ",
    "①",
    "ｶﾞ",
    "ﷺ",
    "Ⅷ",
    "𝔘",
    "😀",
    "👩‍👩‍👧",
    "🇩🇪",
    "\U0010ffff",
    "<unk",
    "x" * 40,
]


def fuzzed(count: int) -> list[str]:
    """Texts, decomposed texts, texts with odd characters put in, and odd characters alone."""
    draw = random.Random(0)
    marks = [chr(c) for c in range(0x300, 0x20000) if unicodedata.category(chr(c)).startswith("M")]
    anything = [chr(c) for c in range(1, 0x30000) if unicodedata.category(chr(c)) not in ("Cs", "Co", "Cn")]
    found = [
        *TEXTS,
        *(unicodedata.normalize(form, one) for form in ("NFD", "NFKD") for one in TEXTS),
        "",
        " ",
        "\u200b",
    ]
    for _ in range(count):
        letters = list(draw.choice(TEXTS)) if draw.random() < 0.7 else []
        for _ in range(draw.randint(1, 8)):
            kind = draw.choice([BLANKS, ODD, marks, anything])
            letters.insert(draw.randint(0, len(letters)), draw.choice(kind))
        found.append("".join(letters))
    return [*found, " ".join(TEXTS * 20)]
