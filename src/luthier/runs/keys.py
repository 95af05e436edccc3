"""The key of a stage: a digest over everything that its results depend on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.errors import ModelError
from luthier.models.card import CARD, read_card
from luthier.models.references import fingerprint, resolve
from luthier.registry import METHODS
from luthier.secrets import references
from luthier.stages.artifacts import Artifact
from luthier.stages.base import Stage, StageInputs
from luthier.stages.parts import modules_of
from luthier.storage.code import code_digest
from luthier.storage.hashing import combined_sha256
from luthier.storage.keys import digest_of
from luthier.storage.ranks import several_processes


def stage_key(stage: Stage, active: Stage, inputs: StageInputs) -> str:
    """Digest of a stage's settings, its inputs, the seed and the code that it runs: equal keys mean equal results.

    Args:
        stage: as the recipe has it.
        active: with every secret filled in.
        inputs: what it starts from.
    """
    settings, used = (one.filled_in().model_dump(mode="json", exclude=_left_out(one)) for one in (stage, active))
    return digest_of(
        {
            "stage": stage.name,
            "settings": settings,
            **({"used": used} if references(settings) else {}),
            "artifacts": {port: _identity(artifact) for port, artifact in inputs.artifacts.items()},
            "external": active.external_inputs(inputs),
            "seed": inputs.seed,
            "code": code_digest(stage_modules(stage, inputs)),
            **several_processes(),
        }
    )


def made_from(inputs: StageInputs) -> str:
    """Digest of the artefacts that a stage takes."""
    return digest_of({port: _identity(artifact) for port, artifact in inputs.artifacts.items()})


def _left_out(stage: Stage) -> dict[str, Any]:
    """What no result depends on, and what the settings say of artefacts, as pydantic excludes it: the artefacts
    themselves are part of the key."""
    left_out: dict[str, Any] = stage.outside_keys()
    for port in stage.takes():
        *above, last = stage.place_of(port)
        inside = left_out
        for key in above:
            inside = inside.setdefault(key, {})
        inside[last] = True
    return left_out


def stage_modules(stage: Stage, inputs: StageInputs) -> set[str]:
    """The modules that a stage's run starts from: of its class, of its parts, of the task of its data, and of the
    methods that made the adapters that it takes from outside of the run."""
    data = inputs.data if getattr(stage, "data", None) is None else None
    return modules_of(stage).union(modules_of(data), *map(_modules_of_maker, inputs.artifacts.values()))


def _identity(artifact: Artifact) -> dict[str, Any]:
    if isinstance(artifact.settings, Path):
        files = [path for path in artifact.settings.rglob("*") if path.is_file()]
        return {"kind": artifact.kind, "content": artifact.key or combined_sha256(artifact.settings, files)}
    return {
        "kind": artifact.kind,
        "content": artifact.key or fingerprint(resolve(artifact.settings)),
        "settings": artifact.settings.loaded_as(),
    }


def _modules_of_maker(artifact: Artifact) -> set[str]:
    if artifact.key or isinstance(artifact.settings, Path):
        return set()  # the key of the stage that gives it has its maker
    source = resolve(artifact.settings)
    if source.path is None or not (source.path / CARD).is_file():
        return set()
    try:
        name = str((read_card(source.path).method or {}).get("name"))
    except ModelError:
        return set()
    return {METHODS.get(name).__module__} if name in METHODS else set()
