"""Small examples of every format that is read, all of them sound; the fuzzer changes them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from typing import Any

WORDS = "the film was warm and clever but its plot is dull a good bad ending".split()
Record = dict[str, Any]


def sentence(number: int, length: int = 6) -> str:
    return " ".join(WORDS[(number * 7 + place * (number % 5 + 1)) % len(WORDS)] for place in range(length))


def labelled() -> list[Record]:
    return [{"text": sentence(n), "label": ("good", "bad", "so-so")[n % 3]} for n in range(12)]


def scored() -> list[Record]:
    return [{"text": sentence(n), "text_pair": sentence(n + 3), "label": n / 4} for n in range(12)]


def questions() -> list[Record]:
    found = []
    for n in range(6):
        context = sentence(n, 9)
        word = context.split()[1]
        answers = {"text": [word], "answer_start": [context.index(word)]}
        found.append({"context": context, "question": "what is dull ?", "answers": answers})
    return found


def articles() -> Record:
    """As the files of SQuAD have them."""
    data = []
    for number, one in enumerate(questions()):
        text, start = one["answers"]["text"][0], one["answers"]["answer_start"][0]
        asked = {"id": str(number), "question": one["question"], "answers": [{"text": text, "answer_start": start}]}
        data.append({"title": "x", "paragraphs": [{"context": one["context"], "qas": [asked]}]})
    return {"version": "1.1", "data": data}


def instructions() -> list[Record]:
    return [{"instruction": sentence(n), "input": sentence(n + 1, 2), "output": sentence(n + 2)} for n in range(6)]


def conversations() -> list[Record]:
    roles = ("system", "user", "assistant", "user", "assistant")
    return [{"messages": [{"role": r, "content": sentence(n + i)} for i, r in enumerate(roles)]} for n in range(5)]


def shared_conversations() -> list[Record]:
    roles = ("human", "gpt", "human", "gpt")
    return [{"conversations": [{"from": r, "value": sentence(n + i)} for i, r in enumerate(roles)]} for n in range(5)]


def choices() -> list[Record]:
    return [
        {"context": sentence(n), "choices": [sentence(n + i, 2) + str(i) for i in range(3)], "label": n % 3}
        for n in range(6)
    ]


def lettered_choices() -> list[Record]:
    texts = ["plot", "film", "ending"]
    return [
        {"question": sentence(n), "choices": {"text": texts, "label": ["A", "B", "C"]}, "answerKey": "ABC"[n % 3]}
        for n in range(6)
    ]


def tagged() -> list[Record]:
    tags = ["O", "B-PER", "I-PER", "O", "B-LOC", "O"]
    return [{"tokens": sentence(n).split(), "tags": tags} for n in range(6)]


def conll() -> bytes:
    blocks = ("".join(f"{w} {t}\n" for w, t in zip(one["tokens"], one["tags"], strict=True)) for one in tagged())
    return ("-DOCSTART- O\n\n" + "\n".join(blocks)).encode()


def separated(records: list[Record], mark: str) -> bytes:
    lines = [mark.join(records[0]), *(mark.join(str(value) for value in one.values()) for one in records)]
    return ("\n".join(lines) + "\n").encode()


def in_lines(records: list[Record]) -> bytes:
    return "".join(json.dumps(one) + "\n" for one in records).encode()


def parquet(records: list[Record]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), out)
    return out.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr(name, content)
    return out.getvalue()


def tarred(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as bundle:
        about = tarfile.TarInfo(name)
        about.size = len(content)
        bundle.addfile(about, io.BytesIO(content))
    return out.getvalue()


def compressed(content: bytes) -> bytes:
    return gzip.compress(content)


RECIPES = (
    b"""\
name: job
model: {reference: base, dtype: float32}
seed: 13
stages:
  - tune:
      method: {name: lora, rank: 4, alpha: 8, target_modules: [query, value]}
      data: {train: train.tsv, validation: dev.tsv, text: text, label: label, max_length: 32, too_long: truncate}
      epochs: 2
      batch_size: 8
      learning_rate: 5e-4
      objective: {name: roast, alpha: 0.6}
  - evaluate: {suites: [task, calibration, cost]}
""",
    b"""\
name: grid
model: base
stages:
  - tune: {method: prompt, data: {train: train.tsv, validation_fraction: 0.1}, max_steps: 5}
compare:
  over:
    stages.0.tune.method: [lora, {name: prompt, length: 4}]
    seed: [1, 2]
  baseline: lora
""",
    b"""\
name: preset
model: base
stages:
  - tune: {method: lora, data: {train: train.tsv, validation_fraction: 0.2}, epochs: 1}
compare: {preset: tuning}
""",
    b"""\
name: words
model: base
stages:
  - pretrain: {corpus: {train: train.tsv, validation: dev.tsv}, length: 16, max_steps: 5, batch_size: 2}
""",
)
