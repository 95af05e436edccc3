"""What is fuzzed: every reader of files that users bring, each with sound examples and the changes that fit them.

A target's `run` reads a folder whose one file was changed. It may raise a `LuthierError`; anything else is a finding.
"""

from __future__ import annotations

import json
import random
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.fuzzing import mutations, seeds
from tests.fuzzing.mutations import Change

_TEXT = (mutations.of_bytes, mutations.of_lines, mutations.of_lines)
_JSON = (mutations.of_json, mutations.of_json, mutations.of_json, mutations.of_bytes)
_JSON_LINES = (mutations.of_json_lines, mutations.of_json_lines, mutations.of_json_lines, mutations.of_bytes)
_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} <eos>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)
# Seconds of processor time that one case may take, once the libraries are there.
SLOW = 10.0


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        name: of it.
        files: name in the folder -> sound content; the first one is changed, or any of `victims`.
        changes: one of which is made.
        run: what reads the folder.
        victims: files that are changed, if not the first.
        prepare: puts more into the folder, once.
    """

    name: str
    files: Callable[[], Mapping[str, bytes]]
    changes: Sequence[Change]
    run: Callable[[Path], None]
    victims: Sequence[str] = ()
    prepare: Callable[[Path], None] | None = None
    by_suffix: Mapping[str, Sequence[Change]] = field(default_factory=dict)

    def sound(self, folder: Path) -> dict[str, bytes]:
        """Write the sound files, and tell those that may be changed."""
        folder.mkdir(parents=True, exist_ok=True)
        files = dict(self.files())
        for name, content in files.items():
            (folder / name).write_bytes(content)
        if self.prepare is not None:
            self.prepare(folder)
        return {name: (folder / name).read_bytes() for name in self.victims or list(files)[:1]}

    def changed(self, sound: Mapping[str, bytes], draw: random.Random) -> tuple[str, bytes]:
        """One file with other content."""
        name = draw.choice(list(sound))
        changes = self.by_suffix.get(Path(name).suffix, self.changes)
        content = draw.choice(changes)(sound[name], draw)
        if draw.random() < 0.15:
            content = mutations.of_bytes(content, draw)
        return name, content


@cache
def _tokenizer() -> Any:
    from tests.data.tokenizers import word_tokenizer

    return word_tokenizer()


@cache
def _answering_tokenizer() -> Any:
    from tests.data.tokenizers import decoder_tokenizer

    tokenizer = decoder_tokenizer(eos_token="<eos>")
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def read_rows(**keys: Any) -> Callable[[Path], None]:
    """Looks at a training file as `init` does, and reads it as a run does: checked, encoded, in batches.

    Whatever `init` writes about a file that it takes has to be a valid recipe.
    """

    def run(folder: Path) -> None:
        from luthier.errors import LuthierError

        place = str(next(one for one in sorted(folder.iterdir()) if one.name.startswith("train.")))
        member = "!train.csv" if place.endswith((".zip", ".tar.gz")) else ""
        problem: LuthierError | None = None
        for step in (_init, _load):
            try:
                step(place + member, keys)
            except LuthierError as error:
                str(error).encode("utf-8")
                problem = problem or error
        if problem is not None:
            raise problem

    return run


def _init(source: str, _keys: Mapping[str, Any]) -> None:
    from luthier.cli.starter import starter_recipe
    from luthier.recipe.checking import examined
    from luthier.recipe.yaml_text import parse_yaml

    text = starter_recipe("base", source).text
    recipe, problems = examined(parse_yaml(text, "recipe.yaml"))
    assert recipe is not None, f"`init` wrote a recipe that is not valid: {problems}\n{text}"
    assert not problems, f"`init` wrote a recipe that is not valid: {problems}\n{text}"


def _load(source: str, keys: Mapping[str, Any]) -> None:
    from luthier.data import DataSettings, encode, load_data
    from luthier.errors import LuthierError

    for invalid in ("refuse", "drop"):
        settings = DataSettings(train=source, invalid_rows=invalid, **keys)
        try:
            data = load_data(settings, splits=("train",))
            writes = data.schema.label_kind is None
            tokenizer = _answering_tokenizer() if writes else _tokenizer()
            rows = encode(data, tokenizer, max_length=32, too_long="truncate")["train"]
        except LuthierError:
            if invalid == "drop":
                raise
            continue
        assert len(rows[:3]["row"]) > 0
        return


def read_recipe(folder: Path) -> None:
    from luthier.recipe.loading import load_recipe

    recipe = load_recipe(folder / "recipe.yaml", inputs=True)
    recipe.model_dump_json()


def read_words(folder: Path) -> None:
    """Values on the command line."""
    from luthier.recipe.loading import load_recipe

    words = (folder / "words").read_bytes().decode("utf-8", "surrogateescape")
    load_recipe(folder / "recipe.yaml", tuple(words.split("\n")))


def read_model(folder: Path) -> None:
    """As `plan` and then `run` read a model folder."""
    from luthier.models.artifacts import load_model
    from luthier.models.loading import empty_model, load_tokenizer

    empty_model(str(folder), "sequence_classification", num_labels=2)
    load_tokenizer(str(folder))
    load_model(str(folder), "sequence_classification", num_labels=2)


def read_tokenizer(folder: Path) -> None:
    from luthier.models.loading import load_tokenizer

    tokenizer = load_tokenizer(str(folder))
    tokenizer(["a good film", "bad"], padding=True)


def read_adapter(folder: Path) -> None:
    """An adapter with its card, its manifest made anew so that what is behind it is reached."""
    from luthier.models.artifacts import load_artifact
    from luthier.models.manifest import write_manifest

    place = folder / "adapter"
    if (folder / "reseal").exists():
        (place / "manifest.json").unlink(missing_ok=True)
        write_manifest(place)
    load_artifact(place)


def read_run(folder: Path) -> None:
    """A run directory, as the report reads it."""
    from luthier.report.html import write_report

    write_report([folder / "run"], folder / "report.html").read_text(encoding="utf-8")


def read_asked(folder: Path) -> None:
    """A file for `predict`, read as the card says that the model was trained."""
    from luthier.models.card import ModelCard
    from luthier.prediction.rows import rows_of_file

    for schema, columns in (
        ("single_sentence", {"text": "text"}),
        ("pair", {"text": "text", "text_pair": "text_pair"}),
        ("token_labels", {"tokens": "tokens"}),
        ("multiple_choice", {"context": "context", "choices": "choices"}),
        ("extractive_qa", {"context": "context", "question": "question"}),
        ("prompt_response", {"prompt": "prompt"}),
    ):
        from luthier.errors import LuthierError

        card = ModelCard(
            base="base", base_fingerprint="0", head="sequence_classification", schema=schema, columns=columns
        )
        try:
            rows = rows_of_file(str(folder / "asked.jsonl"), card)
        except LuthierError:
            continue
        assert rows


def read_documents(folder: Path) -> None:
    from luthier.errors import LuthierError
    from luthier.extraction.formats.files import read_documents

    place = next(one for one in sorted(folder.iterdir()) if one.name.startswith("corpus"))
    for invalid in ("refuse", "drop"):
        try:
            read_documents(place, invalid=invalid)
        except LuthierError:
            if invalid == "drop":
                raise


def _one(name: str, content: Callable[[], bytes]) -> Callable[[], Mapping[str, bytes]]:
    return lambda: {name: content()}


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _columns(records: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [one[name] for one in records] for name in records[0]}


def _csv() -> bytes:
    return seeds.separated(seeds.labelled(), ",")


def _released_run(folder: Path) -> None:
    """The small files of a run that an earlier revision wrote."""
    with tarfile.open(Path(__file__).parents[1] / "released" / "v1" / "runs.tar.gz") as bundle:
        for member in bundle.getmembers():
            content = bundle.extractfile(member) if member.isfile() else None
            if content is None or not member.name.startswith("runs/as-text/") or "/model/" in member.name:
                continue
            place = folder / "run" / member.name.removeprefix("runs/as-text/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content.read())


def _corpus(suffix: str) -> Callable[[], Mapping[str, bytes]]:
    def files() -> Mapping[str, bytes]:
        words = ["Ann", "lives", "in", "Rome", "."]
        entities = [{"type": "Peop", "start": 0, "end": 1}, {"type": "Loc", "start": 3, "end": 4}]
        record = {"tokens": words, "entities": entities, "relations": [{"type": "Live", "head": 0, "tail": 1}]}
        if suffix == ".json":
            return {"corpus.json": _json([record] * 3)}
        spans = [{"id": 0, "start": 0, "end": 3, "label": "Peop"}, {"id": 1, "start": 13, "end": 17, "label": "Loc"}]
        pairs = [{"from_id": 0, "to_id": 1, "type": "Live"}]
        text = {"text": "Ann lives in Rome .", "entities": spans, "relations": pairs}
        return {"corpus.jsonl": seeds.in_lines([text] * 3)}

    return files


def rows_target(name: str, file: str, content: Callable[[], bytes], changes: Sequence[Change], **keys: Any) -> Target:
    return Target(name, _one(file, content), changes, read_rows(**keys))


def _tiny_model(folder: Path) -> None:
    from tests.models.builders import BERT_TOKENS, bert_config, save_tiny

    save_tiny("BertForSequenceClassification", bert_config(), folder, **BERT_TOKENS)


def _tiny_adapter(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    from luthier.models.artifacts import load_model, save_artifact
    from luthier.models.card import describe
    from luthier.models.loading import load_tokenizer

    _tiny_model(folder / "base")
    base = str(folder / "base")
    model = get_peft_model(
        load_model(base, "sequence_classification", num_labels=2), LoraConfig(task_type="SEQ_CLS", r=2)
    )
    card = describe(
        base, "sequence_classification", schema="single_sentence", labels=["a", "b"], columns={"text": "text"}
    )
    save_artifact(model, load_tokenizer(base), folder / "adapter", card)


_MODEL_FILES = {".safetensors": (mutations.of_safetensors, mutations.of_bytes)}
_YAML = (*_TEXT, mutations.of_words)
_PARQUET = (mutations.of_parquet, mutations.of_parquet, mutations.of_bytes)
_RUN = ("run/recipe.yaml", "run/environment.json")
_RUN_STAGES = tuple(
    f"run/{stage}/{name}"
    for stage in ("00-tune", "01-evaluate")
    for name in ("done.json", "key.json", "log.jsonl", "metrics.json", "stage.yaml")
)
_BESIDE = {"train.tsv": seeds.separated(seeds.labelled(), "\t"), "dev.tsv": seeds.separated(seeds.labelled(), "\t")}


def _recipe_files(number: int) -> Callable[[], Mapping[str, bytes]]:
    return lambda: {"recipe.yaml": seeds.RECIPES[number], **_BESIDE}


def _model_beside(folder: Path) -> None:
    """What is looked at of a model before torch is there."""
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text("{}")
    (folder / "base" / "model.safetensors").write_bytes(b"")


TARGETS: dict[str, Target] = {
    one.name: one
    for one in (
        rows_target("csv", "train.csv", _csv, _TEXT),
        rows_target("tsv of pairs", "train.tsv", lambda: seeds.separated(seeds.scored(), "\t"), _TEXT),
        rows_target("txt", "train.txt", lambda: b"\n".join(seeds.sentence(n).encode() for n in range(9)), _TEXT),
        rows_target("jsonl", "train.jsonl", lambda: seeds.in_lines(seeds.labelled()), _JSON_LINES),
        rows_target("jsonl of pairs", "train.jsonl", lambda: seeds.in_lines(seeds.scored()), _JSON_LINES),
        rows_target("json", "train.json", lambda: _json(seeds.labelled()), _JSON),
        rows_target("json of columns", "train.json", lambda: _json(_columns(seeds.labelled())), _JSON),
        rows_target("words in jsonl", "train.jsonl", lambda: seeds.in_lines(seeds.tagged()), _JSON_LINES),
        rows_target("conll", "train.conll", seeds.conll, _TEXT),
        rows_target("parquet", "train.parquet", lambda: seeds.parquet(seeds.labelled()), _PARQUET),
        rows_target("parquet of words", "train.parquet", lambda: seeds.parquet(seeds.tagged()), _PARQUET),
        rows_target("squad", "train.json", lambda: _json(seeds.articles()), _JSON),
        rows_target("questions", "train.jsonl", lambda: seeds.in_lines(seeds.questions()), _JSON_LINES),
        rows_target("alpaca", "train.json", lambda: _json(seeds.instructions()), _JSON),
        rows_target("chat", "train.jsonl", lambda: seeds.in_lines(seeds.conversations()), _JSON_LINES),
        rows_target("shared chat", "train.jsonl", lambda: seeds.in_lines(seeds.shared_conversations()), _JSON_LINES),
        rows_target("choices", "train.jsonl", lambda: seeds.in_lines(seeds.choices()), _JSON_LINES),
        rows_target("lettered choices", "train.jsonl", lambda: seeds.in_lines(seeds.lettered_choices()), _JSON_LINES),
        rows_target("zip", "train.zip", lambda: seeds.zipped("train.csv", _csv()), (mutations.of_bytes,)),
        rows_target("tar", "train.tar.gz", lambda: seeds.tarred("train.csv", _csv()), (mutations.of_bytes,)),
        rows_target("gz", "train.csv.gz", lambda: seeds.compressed(_csv()), (mutations.of_bytes,)),
        rows_target("utf-16", "train.csv", lambda: _csv().decode().encode("utf-16"), _TEXT, encoding="utf-16"),
        *(
            Target(name, _recipe_files(number), _YAML, read_recipe, prepare=_model_beside)
            for number, name in enumerate(("recipe", "recipe with a grid", "recipe with a preset", "recipe of words"))
        ),
        Target(
            "words of the command line",
            lambda: {"words": b"stages.0.tune.epochs=3\nseed=7\nstages.0.tune.method.rank=8", **_recipe_files(0)()},
            _YAML,
            read_words,
            prepare=_model_beside,
        ),
        Target(
            "model",
            dict,
            _JSON,
            read_model,
            victims=("config.json", "model.safetensors"),
            prepare=_tiny_model,
            by_suffix=_MODEL_FILES,
        ),
        Target(
            "tokenizer",
            dict,
            _JSON,
            read_tokenizer,
            victims=("tokenizer.json", "tokenizer_config.json"),
            prepare=_tiny_model,
        ),
        Target(
            "adapter",
            lambda: {"reseal": b""},
            _JSON,
            read_adapter,
            victims=("adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter/luthier.json"),
            prepare=_tiny_adapter,
            by_suffix=_MODEL_FILES,
        ),
        Target("manifest", dict, _JSON, read_adapter, victims=("adapter/manifest.json",), prepare=_tiny_adapter),
        Target(
            "run directory",
            dict,
            _JSON,
            read_run,
            victims=(*_RUN, *_RUN_STAGES),
            prepare=_released_run,
            by_suffix={".yaml": _YAML, ".jsonl": _JSON_LINES},
        ),
        Target(
            "file for predict",
            _one("asked.jsonl", lambda: seeds.in_lines([*seeds.scored()[:2], *seeds.tagged()[:2], *seeds.choices()])),
            _JSON_LINES,
            read_asked,
        ),
        Target("spans of words", _corpus(".json"), _JSON, read_documents),
        Target("spans of characters", _corpus(".jsonl"), _JSON_LINES, read_documents),
    )
}
