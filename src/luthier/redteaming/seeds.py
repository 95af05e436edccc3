"""Lists of prompts: read from files of several kinds, split, and cleaned of near-duplicates."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from luthier.data.sources.base import FileSource
from luthier.data.table import listing, shorten
from luthier.errors import DataError, nearest
from luthier.generation.writing import text_id, whole
from luthier.redteaming.inputs import file_of, read_list

if TYPE_CHECKING:
    from luthier.redteaming.settings import PromptSource

_TEXT_COLUMNS = ("prompt", "text", "goal", "behavior", "Behavior", "instruction", "question", "value", "request")
_CATEGORY_COLUMNS = (
    "category",
    "SemanticCategory",
    "harm_area",
    "harm_categories",
    "types_of_harm",
    "risk_area",
    "area",
)
_STYLE_COLUMNS = ("style", "attack_style")
_PYRIT = (".prompt", ".yaml", ".yml")


@dataclass(frozen=True)
class Prompt:
    """A prompt with where it comes from.

    Attributes:
        id: of its text: the same text has the same id in every run.
        category, style: empty where they are not known.
        source: name of the file.
        parent: id of the prompt that it was written from; empty for those that were read.
    """

    text: str
    category: str = ""
    style: str = ""
    source: str = ""
    parent: str = ""
    id: str = ""

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", text_id(self.text))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_prompts(source: PromptSource | Mapping[str, Any] | str) -> list[Prompt]:
    """The prompts of a file, each text once, in its order.

    Raises:
        DataError: the file can't be read, has no column of prompts, or holds no prompt.
    """
    if isinstance(source, str):
        return _listed(source)
    return _listed(**(source if isinstance(source, Mapping) else source.model_dump()))


def _listed(
    file: str,
    format: str = "auto",  # noqa: A002
    text: str | None = None,
    category: str | None = None,
    style: str | None = None,
    limit: int | None = None,
) -> list[Prompt]:
    """`read_prompts` by the fields of `PromptSource`."""
    source = file_of(file)
    kind = format if format != "auto" else _kind(source)
    named = {"text": text, "category": category, "style": style}
    if kind == "pyrit" and (idle := [name for name, column in named.items() if column is not None]):
        raise DataError(
            f"`{idle[0]}` has no effect on a PyRIT file, whose fields have names of their own",
            where=file,
            fix=f"leave `{idle[0]}` out",
        )
    read = _pyrit(source) if kind == "pyrit" else _table(source, kind, file, (text, category, style))
    found = [replace(one, text=whole(one.text), id="") for one in read]
    kept = list({one.id: one for one in found if one.text.strip()}.values())
    if not kept:
        raise DataError("there is no prompt in it", where=file, fix="is it the right file?")
    return kept[:limit]


def _kind(file: FileSource) -> str:
    name = (file.member or file.path.name).lower()
    if name.endswith(_PYRIT):
        return "pyrit"
    return "garak" if name.endswith(".hitlog.jsonl") else "table"


def _table(file: FileSource, kind: str, where: str, wanted: Sequence[str | None]) -> Iterable[Prompt]:
    table = read_list(file, "txt" if kind == "txt" else None)
    names = list(table.columns)
    if kind == "table" and {"attempt_id", "prompt"} <= set(names):
        kind = "garak"
    text = _column(wanted[0], names, _TEXT_COLUMNS, where, "prompts", needed=True)
    category = _column(wanted[1], names, ("probe",) if kind == "garak" else _CATEGORY_COLUMNS, where)
    style = _column(wanted[2], names, _STYLE_COLUMNS, where)
    columns = [table.columns[name] if name else None for name in (text, category, style)]
    for i in range(len(table.columns[str(text)])):
        cells = [None if column is None else column[i] for column in columns]
        yield Prompt(_text_of(cells[0]), _word(cells[1]), _word(cells[2]), source=file.name)


def _column(
    wanted: str | None, names: Sequence[str], known: Sequence[str], where: str, what: str = "", *, needed: bool = False
) -> str | None:
    if wanted is not None:
        if wanted in names:
            return wanted
        guess = nearest(wanted, list(names))
        raise DataError(
            f"there is no column {wanted!r}; there are {listing(names)}",
            where=where,
            fix=f"did you mean {guess!r}?" if guess else "name one of them",
        )
    found = next((name for name in known if name in names), None)
    if found is None and needed:
        if len(names) == 1:
            return names[0]
        raise DataError(
            f"no column looks like one of {what}; there are {listing(names)}", where=where, fix="name it with `text:`"
        )
    return found


def _text_of(cell: Any) -> str:
    """A prompt as text; of a conversation, as garak's newer hit logs and sets on the Hub have it, the last turn of the
    user is taken.

    Raises:
        DataError: it is a list of something else.
    """
    if isinstance(cell, str):
        if cell.startswith("{") and '"turns"' in cell:
            try:
                return _text_of(json.loads(cell))
            except (ValueError, RecursionError):
                return cell
        return cell
    if isinstance(cell, Mapping):
        if isinstance(cell.get("turns"), Sequence):
            said = [turn for turn in cell["turns"] if isinstance(turn, Mapping) and turn.get("role") == "user"]
            return _text_of(said[-1].get("content")) if said else ""
        return _text_of(cell.get("text") or cell.get("content") or "")
    if isinstance(cell, list | tuple):
        if any(isinstance(part, Mapping) and part.get("type") == "text" for part in cell):  # content in parts
            texts = [part.get("text") for part in cell if isinstance(part, Mapping) and part.get("type") == "text"]
            return "".join(map(_text_of, texts))
        if not all(isinstance(turn, Mapping) for turn in cell):
            told = f"a prompt is {shorten(cell)}, which is neither text nor a conversation"
            raise DataError(told, fix="give its text")
        return _text_of({"turns": [_as_turn(turn) for turn in cell]})
    return "" if cell is None or cell != cell else str(cell)


def _as_turn(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message as {role, content}; {from, value} is the same."""
    role = message.get("role", message.get("from"))
    return {"role": "user" if role == "human" else role, "content": message.get("content", message.get("value"))}


def _word(cell: Any) -> str:
    if isinstance(cell, list | tuple):
        return str(cell[0]) if cell else ""
    return "" if cell is None or cell != cell else str(cell)


def _pyrit(file: FileSource) -> Iterable[Prompt]:
    """A PyRIT seed file: `seeds` or `prompts`, each with a `value`; what they share stands above them."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe", pure=True).load(file.read().decode("utf8", "replace"))
    except (YAMLError, ValueError) as error:
        raise DataError(
            f"is no YAML: {str(error).splitlines()[0]}", where=file.name, fix="is it a PyRIT seed file?"
        ) from error
    seeds = (content.get("seeds") or content.get("prompts")) if isinstance(content, dict) else None
    if not isinstance(seeds, list):
        raise DataError(
            "has neither `seeds` nor `prompts`", where=file.name, fix="is it a seed file of PyRIT, and no template?"
        )
    for seed in seeds:
        entry = seed if isinstance(seed, dict) else {"value": seed}
        if entry.get("data_type", content.get("data_type", "text")) != "text" or entry.get("value") is None:
            continue
        category = entry.get("harm_categories", content.get("harm_categories"))
        yield Prompt(str(entry["value"]), _word(category), source=file.name)


@dataclass(frozen=True)
class SeedSplit:
    """Seeds, and what is never trained on.

    Attributes:
        train: seeds.
        held_out: attack prompts to measure by.
        dropped: id of every seed that is too similar to a held-out prompt -> that prompt's id.
    """

    train: list[Prompt]
    held_out: list[Prompt]
    dropped: dict[str, str]


def split_seeds(
    seeds: Sequence[Prompt], held_out: Sequence[Prompt] | None, *, share: float, similar: float, seed: int
) -> SeedSplit:
    """Seeds apart from held-out prompts, without a near-duplicate between them.

    Args:
        seeds: all that were read.
        held_out: prompts of another list; None takes a share of the seeds, of each category and style at least one
            where it has two.
        share: of the seeds that is held out.
        similar: the similarity from which on a seed is left out.
        seed: of the split, which depends on it and the texts alone.

    Raises:
        DataError: nothing is left on one side.
    """
    from luthier.redteaming.duplicates import NearDuplicates

    if held_out is None:
        train, kept = _cut(seeds, share, seed)
    else:
        train, kept = list(seeds), list(held_out)
    known = NearDuplicates(similar)
    for one in kept:
        known.add(one.id, one.text)
    dropped = {one.id: like for one in train if (like := known.like(one.text)) is not None}
    train = [one for one in train if one.id not in dropped]
    if not train or not kept:
        raise DataError(
            "no seed is left to train on: all are like held-out prompts" if kept else "no prompt is held out",
            fix="give more seeds, or other held-out prompts",
        )
    return SeedSplit(train, kept, dropped)


def _cut(seeds: Sequence[Prompt], share: float, seed: int) -> tuple[list[Prompt], list[Prompt]]:
    groups: dict[tuple[str, str], list[Prompt]] = defaultdict(list)
    for one in seeds:
        groups[one.category, one.style].append(one)
    held = set()
    for members in groups.values():
        ordered = sorted(members, key=lambda one: text_id(str(seed), one.id))
        count = min(len(members) - 1, max(1, round(share * len(members))))
        held |= {one.id for one in ordered[:count]}
    return [one for one in seeds if one.id not in held], [one for one in seeds if one.id in held]
