"""What a run tuned, for engines that serve models without PEFT: a prompt or prefix as one plain safetensors file, and a
head that was saved without its frozen base as one whole model.

The layout of the file is that of docs/interchange.md. Shapes: L vectors of the prompt or columns of the prefix, D width
of the token embeddings, N layers, G key/value heads, d width of a head.
"""

from __future__ import annotations

import importlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import ModelError, WorkspaceError
from luthier.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, is_adapter
from luthier.models.artifacts import save_artifact, saved_artifact
from luthier.models.card import ModelCard, read_card
from luthier.models.manifest import verify_manifest
from luthier.models.references import resolve
from luthier.models.safety import check_configs, check_links
from luthier.models.saved_head import save_head_only, saved_head_in
from luthier.models.settings import Danger
from luthier.models.tensors import check_safetensors, read_json
from luthier.peft_bridge.adapter_types import ADAPTER_TYPES, PROMPT_EMBEDDINGS
from luthier.registry import PREDICTORS, discover
from luthier.secrets import as_reference, redact_values
from luthier.storage.files import fix_of, write_bytes
from luthier.storage.output_places import check_place_of, refuse_what_is_read
from luthier.storage.paths import user_path

if TYPE_CHECKING:
    from torch import Tensor

    _Reader = Callable[[dict[str, Tensor], dict[str, Any], "Saved"], "Exported"]

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
ENTRY = "luthier"
_WHOLE = "serve or share its own folder, which holds the whole model"
LOAD_IT = "serve it with transformers and PEFT: `import luthier`, then PeftModel.from_pretrained(base, folder)"
_AS_SAVED = "give the engine the adapter's own folder, which is as PEFT saves it"
_REFUSED = {
    "LORA": ("it adds to the model's weights and has no prompt", _AS_SAVED),
    "IA3": ("it rescales activations and has no prompt", _AS_SAVED),
}


@dataclass(frozen=True)
class Exported:
    """What the file will hold.

    Attributes:
        kind: "prompt" or "prefix".
        tensors: by name.
        length: L.
        first_position: position of the text's first token, in models that count positions.
        more: further entries of the metadata.
    """

    kind: str
    tensors: Mapping[str, Tensor]
    length: int
    first_position: int
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Saved:
    """The adapter that is exported: its card and folder, and what loading its base may do."""

    card: ModelCard
    folder: Path
    allow: tuple[Danger, ...] = ()


def export_run(
    run: str | Path, place: str | Path, *, overwrite: bool = False, allow: tuple[Danger, ...] = ()
) -> tuple[Path, str]:
    """Write what a run tuned, in the form that suits its method; see `export_prompt` and `export_model`.

    Returns:
        Where it was written, and what is in it.
    """
    folder = _artifact_folder(run, allow)
    if is_adapter(folder) and saved_head_in(folder) is not None:
        return export_model(run, place, overwrite=overwrite, allow=allow), "the whole model, its base with the head"
    file = export_prompt(run, place, overwrite=overwrite, allow=allow)
    return file, "a task head that was trained with it is not part of the file"


def export_model(
    run: str | Path, folder: str | Path, *, overwrite: bool = False, allow: tuple[Danger, ...] = ()
) -> Path:
    """Write a head that was saved without its base, and the base, as one model that `from_pretrained` loads.

    Args:
        run: a run, cell, stage or model directory whose method is head_only.
        folder: appears whole or not at all.
        overwrite: replace a model that Luthier saved there.
        allow: as in `export_prompt`.

    Returns:
        The folder's place.

    Raises:
        ModelError: the directory holds something else or is damaged, or the base is missing or another one.
        WorkspaceError: there is something already, or the folder can't be written.
    """
    source, place = _artifact_folder(run, allow), user_path(folder)
    if not is_adapter(source) or saved_head_in(source) is None:
        raise ModelError(
            "only a head that was saved without its base is exported as a model", where=str(source), fix=_WHOLE
        )
    if place.is_file() or (place.is_dir() and any(place.iterdir()) and not overwrite):
        raise WorkspaceError(
            "there is something already", where=str(place), fix="name another folder, or add --force (overwrite=True)"
        )
    refuse_what_is_read(place, source)
    model, tokenizer, card = saved_artifact(source, allow).load()
    save_head_only(model, None)
    return save_artifact(model, tokenizer, place, card)


def export_prompt(
    run: str | Path, file: str | Path, *, overwrite: bool = False, allow: tuple[Danger, ...] = ()
) -> Path:
    """Write a tuned prompt (`embeddings`, (L, D)) or prefix (`key` and `value`, each (N, G, L, d)) to one file.

    A residual prompt, and a prefix that a network makes, are folded first. The task head is not written.

    Args:
        run: a run, cell, stage or model directory whose method is prompt, p_tuning, residual_prompt, prefix or
            task_prefix.
        file: a safetensors file; it appears whole or not at all.
        overwrite: replace the file if it is there.
        allow: `pickle` or `remote_code`, where the base is refused without; as in a recipe's model.

    Returns:
        The file's place.

    Raises:
        ModelError: the directory holds no tuned model, is damaged, or was tuned by a method without prompt or prefix.
        WorkspaceError: the file is there already, or can't be written.
    """
    place = user_path(file)
    _check_place(place, overwrite)
    folder = _adapter_folder(run, allow)
    card, config = read_card(folder), read_json(folder / ADAPTER_CONFIG)
    check_safetensors(folder / ADAPTER_WEIGHTS)
    read = _reader(str(config.get("peft_type")))
    if read is None:
        raise _refusal(str(config.get("peft_type")), card, folder)
    from safetensors.torch import load_file

    state = load_file(folder / ADAPTER_WEIGHTS)
    try:
        exported = read(state, config, Saved(card, folder, allow))
    except (KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
        raise ModelError(
            f"the adapter's configuration does not describe its tensors: {error}",
            where=str(folder / ADAPTER_CONFIG),
            fix="restore the folder from a copy",
        ) from error
    _write(place, exported, _about(exported, card, state))
    return place


def _artifact_folder(run: str | Path, allow: tuple[Danger, ...]) -> Path:
    source = resolve(str(run))
    folder = source.path
    if source.kind != "artifact" or folder is None:
        raise ModelError(
            "there is no model that Luthier tuned here",
            where=str(run),
            fix="name a finished run, a stage of it, or the stage's `model` folder",
        )
    check_links(folder)
    verify_manifest(folder)
    check_configs(folder, allow)
    return folder


def _adapter_folder(run: str | Path, allow: tuple[Danger, ...]) -> Path:
    folder = _artifact_folder(run, allow)
    if is_adapter(folder) and saved_head_in(folder) is not None:
        raise ModelError(
            "head_only can't be exported as a prompt or prefix: it has neither, the task head was trained",
            where=str(folder),
            fix="export the whole model: `luthier export RUN --to FOLDER`, or export_model(run, folder)",
        )
    if not is_adapter(folder):
        name = _method_name(read_card(folder)) or "this model"
        kind = PREDICTORS.get(name) if name in PREDICTORS else None
        if kind is not None and kind.why_not_exported:
            raise ModelError(kind.why_not_exported, where=str(folder), fix=kind.instead_of_export)
        raise ModelError(
            f"{name} can't be exported as a prompt or prefix: it has neither, its own weights were trained",
            where=str(folder),
            fix=_WHOLE,
        )
    return folder


def _refusal(peft_type: str, card: ModelCard, folder: Path) -> ModelError:
    own = ADAPTER_TYPES.get(peft_type)
    if own is not None and own.why_not_exported:
        reason, fix = own.why_not_exported, LOAD_IT
    else:
        reason, fix = _REFUSED.get(peft_type, ("it is neither a prompt nor a prefix", _AS_SAVED))
    name = _method_name(card)
    named = peft_type if name in (None, "peft") else name
    return ModelError(f"{named} can't be exported as a prompt or prefix: {reason}", where=str(folder), fix=fix)


def _method_name(card: ModelCard) -> str | None:
    return (card.method or {}).get("name")


def _stored_prompt(state: dict[str, Tensor], config: dict[str, Any], saved: Saved) -> Exported:
    """PEFT's prompt and P-tuning, which are stored as the vectors that their network gave."""
    length = int(config["num_virtual_tokens"])
    return _prompt(_stored(state, saved.folder)[:length])


def folded_prompt(state: dict[str, Tensor], config: dict[str, Any], saved: Saved) -> Exported:
    """Prompts of ours, which are stored with the network that makes them."""
    from luthier.peft_bridge.folded_prompt import fold_prompt

    return _prompt(fold_prompt(saved.folder).state[PROMPT_EMBEDDINGS])


def _prompt(embeddings: Tensor) -> Exported:
    return Exported("prompt", {"embeddings": embeddings}, len(embeddings), len(embeddings))


def _stored_prefix(state: dict[str, Tensor], config: dict[str, Any], saved: Saved) -> Exported:
    """PEFT's prefix tuning, which stores (L, N x 2 x G x d), a key and a value for each layer in turn."""
    layers, heads = int(config["num_layers"]), int(config["num_attention_heads"])
    stored = _stored(state, saved.folder)
    length = len(stored)
    key, value = stored.view(length, layers, 2, heads, -1).permute(2, 1, 3, 0, 4)
    if int(config.get("num_transformer_submodules") or 1) == 1:
        return Exported("prefix", {"key": key, "value": value}, length, length)
    # In an encoder-decoder PEFT lays the layers out twice, and gives every decoder layer the first of two.
    used = [(2 * layer) % layers for layer in range(layers)]
    tensors = {"decoder.key": key[used], "decoder.value": value[used]}
    return Exported("prefix", tensors, length, length)


def _stored(state: dict[str, Tensor], folder: Path) -> Tensor:
    if PROMPT_EMBEDDINGS not in state:
        raise ModelError("the adapter holds no prompt", where=str(folder), fix="restore the folder from a copy")
    return state[PROMPT_EMBEDDINGS]


_READERS: dict[str, _Reader] = {
    "PROMPT_TUNING": _stored_prompt,
    "P_TUNING": _stored_prompt,
    "PREFIX_TUNING": _stored_prefix,
}
_NOT_OF_A_HEAD = re.compile(rf"{PROMPT_EMBEDDINGS}|residual_prompt\..+|.*\.task_prefix\..+")


def _reader(peft_type: str) -> _Reader | None:
    """The reader of an adapter type: ours for PEFT's own types, else that of the code that brings the type."""
    if peft_type in _READERS:
        return _READERS[peft_type]
    discover()
    own = ADAPTER_TYPES.get(peft_type)
    if own is None or not own.exported_by:
        return None
    module, _, function = own.exported_by.partition(":")
    reader: _Reader = getattr(importlib.import_module(module), function)
    return reader


def _about(exported: Exported, card: ModelCard, state: Mapping[str, Tensor]) -> dict[str, Any]:
    head = sorted(name.removeprefix("base_model.model.").removeprefix("base_model.") for name in state)
    return {
        "format_version": FORMAT_VERSION,
        "kind": exported.kind,
        "base": as_reference(card.base),
        "base_fingerprint": card.base_fingerprint,
        "method": _method_name(card),
        "length": exported.length,
        "first_position": exported.first_position,
        "head": card.head,
        "head_left_out": [name for name in head if not _NOT_OF_A_HEAD.fullmatch(name)],
        **exported.more,
    }


def _check_place(place: Path, overwrite: bool) -> None:
    if place.is_dir():
        raise WorkspaceError("this is a folder", where=str(place), fix="name a file, such as prompt.safetensors")
    if place.exists() and not overwrite:
        raise WorkspaceError(
            "the file is there already", where=str(place), fix="name another one, or add --force (overwrite=True)"
        )
    check_place_of(place)


def _write(place: Path, exported: Exported, about: dict[str, Any]) -> None:
    from safetensors.torch import save

    tensors = {name: x.detach().cpu().contiguous() for name, x in exported.tensors.items()}
    # One entry, since the order of several is not fixed, and equal exports should be equal files.
    content = save(tensors, metadata={ENTRY: json.dumps(redact_values(about), sort_keys=True)})
    try:
        write_bytes(place, content)
    except WorkspaceError as error:
        refused = error.__cause__
        fix = fix_of(refused, "file") if isinstance(refused, OSError) else error.fix
        raise WorkspaceError(error.what, where=str(place), fix=fix) from error
    if about["head_left_out"]:
        logger.info("the task head is not part of the file: %s", ", ".join(about["head_left_out"]))
