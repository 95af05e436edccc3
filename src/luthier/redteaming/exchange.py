"""Attacks for other tools: a list of prompts that garak takes, a seed file of PyRIT, JSON lines, and pairs of answers
for training on preferences."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier._version import __version__
from luthier.errors import WorkspaceError
from luthier.redteaming.seeds import Prompt
from luthier.secrets import redact_values
from luthier.storage.files import json_text, write_json, write_text

_SOURCE = f"written by luthier {__version__} while a model was made safer; for testing models that are yours"


def write_garak(path: str | Path, prompts: Sequence[Prompt]) -> Path:
    """One prompt a line, as JSON strings in one list where the name ends in .json, else as plain lines.

    Garak's probes that read prompts from a file take either; a plain line holds a prompt whose line breaks are blanks.

    Raises:
        WorkspaceError: the file can't be written.
    """
    place = Path(path)
    if place.suffix == ".json":
        write_json(place, [one.text for one in prompts])
    else:
        write_text(place, "".join(" ".join(one.text.split()) + "\n" for one in prompts))
    return place


def write_pyrit(path: str | Path, prompts: Sequence[Prompt], name: str = "luthier") -> Path:
    """A seed file of PyRIT (`.prompt`, YAML): each prompt as a literal value with its category.

    Raises:
        WorkspaceError: the file can't be written.
    """
    from ruamel.yaml import YAML

    seeds: list[dict[str, Any]] = []
    for one in prompts:
        seed: dict[str, Any] = {"value": one.text, "data_type": "text"}
        if one.category:
            seed["harm_categories"] = [one.category]
        seeds.append(seed)
    content = {
        "dataset_name": name,
        "description": "Attack prompts, to test and protect models",
        "source": _SOURCE,
        "groups": ["luthier"],
        "data_type": "text",
        "seeds": seeds,
    }
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.allow_unicode, yaml.width = False, True, 4096
    yaml.sort_base_mapping_type_on_output = False
    text = io.StringIO()
    yaml.dump(redact_values(content), text)
    write_text(Path(path), text.getvalue(), hidden=True)
    return Path(path)


def write_preferences(path: str | Path, pairs: Sequence[Mapping[str, Any]]) -> Path:
    """One pair a line with `prompt`, `chosen` and `rejected`, as trainers on preferences read them.

    Raises:
        WorkspaceError: the file can't be written, or there is nothing to write.
    """
    if not pairs:
        raise WorkspaceError(
            "no prompt has both an answer that was learned and an unsafe one",
            where=str(path),
            fix="take other rounds; rounds with context distillation or rejection sampling have most of them",
        )
    write_text(Path(path), "".join(json_text(one, indent=None) for one in pairs), hidden=True)
    return Path(path)


def write_attacks(path: str | Path, prompts: Sequence[Prompt], form: str) -> Path:
    """Write attacks in a form by its name: `garak`, `pyrit` or `jsonl`.

    Raises:
        WorkspaceError: the file can't be written, or there is nothing to write.
    """
    if not prompts:
        raise WorkspaceError("there are no such attacks", where=str(path), fix="take other rounds, or `--all`")
    if form == "garak":
        return write_garak(path, prompts)
    if form == "pyrit":
        return write_pyrit(path, prompts)
    write_text(Path(path), "".join(json_text(one.to_json(), indent=None) for one in prompts), hidden=True)
    return Path(path)
