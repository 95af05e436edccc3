"""Makes the texts of `recipes/local/extraction.yaml`: short news of people, firms and places, and how they are related.

There is no annotated corpus of relations in a small package, so these are sentences of our own, filled with names by a
fixed draw: names and sentence frames of the test texts do not occur in training. They show what a recipe needs and what
a report says; scores on them say little of real texts.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

FOLDER = Path(__file__).parent.parent / ".cache" / "demo"
SIZES = {"train": 400, "validation": 80, "test": 120}
FIRST = "Anna Boris Clara Dario Emil Farah Greta Hugo Ines Jonas Kira Leon Mira Nils Olga Pavel Rosa Samir Tessa Viktor"
LAST = "Berg Sand Hahn Novak Okoye Lind Marsh Ferri Vogel Duarte Ekman Roth Silva Tanaka Weiss Young Abadi Costa Dahl"
FIRM = "Nordic Paper|Blue Harbour|Red Lantern|Green Mills|Stone & Sons|Alta Foods|Kestrel Air|Orbit Labs|Vale Timber"
FIRM += "|Iron Gate|Silver Line|Cedar Bank|Polar Motors|Lark Media|Summit Glass|Delta Yarn"
PLACE = "Oslo|Turin|Graz|Lake Arden|Port Ellis|Malmo|Genoa|Brno|Santa Rosa|Upper Weald|Riga|Porto|Ghent|Novi Most"
PLACE += "|Fort Lane|Tartu"
# [TYPE:name] is an entity; behind the bar are relations as type(head, tail).
FRAMES = {
    "train": """
[Person:a] works for [Firm:b] . | employs(b,a)
[Firm:a] hired [Person:b] last spring . | employs(a,b)
[Firm:a] hired [Person:b] and [Person:c] , both from [Place:d] . | employs(a,b) employs(a,c) lives(b,d) lives(c,d)
[Person:a] , who lives in [Place:b] , works for [Firm:c] . | lives(a,b) employs(c,a)
[Person:a] was born in [Place:b] and now lives in [Place:c] . | lives(a,c)
[Firm:a] , based in [Place:b] , had a good year . | seat(a,b)
The head office of [Firm:a] is in [Place:b] . | seat(a,b)
[Person:a] is married to [Person:b] . | married(a,b)
[Person:a] and [Person:b] married in [Place:c] . | married(a,b)
Nobody from [Firm:a] wanted to talk about it .
The road from [Place:a] to [Place:b] is closed .
[Person:a] met [Person:b] in [Place:c] .
[Firm:a] , where [Person:b] works , moved to [Place:c] . | employs(a,b) seat(a,c)
It rained in [Place:a] all week , and the fair was called off .
[Person:a] lives in [Place:b] with [Person:c] , a painter . | lives(a,b) lives(c,b)
[Firm:a] bought [Firm:b] from [Place:c] . | seat(b,c)
""",
    "test": """
[Person:a] has worked for [Firm:b] since 1990 . | employs(b,a)
[Firm:a] , whose head office is in [Place:b] , hired [Person:c] . | seat(a,b) employs(a,c)
[Person:a] , married to [Person:b] , lives in [Place:c] . | married(a,b) lives(a,c)
[Person:a] met nobody from [Firm:b] in [Place:c] .
[Person:a] works in [Place:b] for [Firm:c] . | employs(c,a)
Last week [Person:a] and [Person:b] , who live in [Place:c] , married . | married(a,b) lives(a,c) lives(b,c)
The fair in [Place:a] was good for [Firm:b] .
[Firm:a] , based in [Place:b] , bought [Firm:c] . | seat(a,b)
""",
}
_PART = re.compile(r"\[(\w+):(\w)\]|(\S+)")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for number, (split, size) in enumerate(SIZES.items()):
        path = FOLDER / f"relations-{split}.json"
        if not path.exists():
            draw = random.Random(number)
            path.write_text(json.dumps([document(draw, split) for _ in range(size)]) + "\n", encoding="utf8")


def document(draw: random.Random, split: str) -> dict[str, object]:
    """One sentence of a split, with the names of that split."""
    frames = FRAMES["test" if split == "test" else "train"].strip().splitlines()
    text, _, related = draw.choice(frames).partition(" | ")
    tokens: list[str] = []
    entities: list[dict[str, object]] = []
    place: dict[str, int] = {}
    used: set[str] = set()
    for kind, key, word in _PART.findall(text):
        words = [word]
        if kind:
            name = draw.choice([one for one in names(kind, split) if one not in used])
            used.add(name)
            words, place[key] = name.split(), len(entities)
            entities.append({"type": kind, "start": len(tokens), "end": len(tokens) + len(words)})
        tokens += words
    relations = [
        {"type": kind, "head": place[head], "tail": place[tail]}
        for kind, head, tail in re.findall(r"(\w+)\((\w),(\w)\)", related)
    ]
    return {"tokens": tokens, "entities": entities, "relations": relations}


def names(kind: str, split: str) -> list[str]:
    """Those of a split; the last quarter of each list is kept for the test texts."""
    pools = {"Person": FIRST.split(), "Firm": FIRM.split("|"), "Place": PLACE.split("|")}
    pool, last = pools[kind], LAST.split()
    bound = len(pool) * 3 // 4, len(last) * 3 // 4
    pool = pool[bound[0] :] if split == "test" else pool[: bound[0]]
    if kind != "Person":
        return pool
    return [f"{one} {other}" for one in pool for other in (last[bound[1] :] if split == "test" else last[: bound[1]])]


if __name__ == "__main__":
    main()
