"""An adapter on disk: written beside its base's name, put on its base, and held against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.errors import ModelError
from luthier.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from luthier.models.card import ModelCard
from luthier.models.loading import local_folder, translate
from luthier.models.references import content_fingerprint, fingerprint, resolve
from luthier.models.settings import ModelSettings
from luthier.models.tensors import check_safetensors, read_json
from luthier.models.weights import new_modules, some
from luthier.peft_bridge.adapter_types import ADAPTER_TYPES
from luthier.secrets import as_reference
from luthier.storage.files import json_text


def write_adapter(model: Any, folder: Path, card: ModelCard) -> None:
    """Write the active adapter of a PEFT model.

    Raises:
        ModelError: a new head that it was trained with is not part of it.
    """
    active = model.active_adapter
    model.save_pretrained(folder, selected_adapters=[active])
    if active != "default":  # PEFT gives it a folder of its own
        for path in list((folder / active).iterdir()):
            path.replace(folder / path.name)
        (folder / active).rmdir()
    (folder / "README.md").unlink(missing_ok=True)
    if card.head != "encoder":  # a bare encoder's hidden states don't pass through its new pooler
        _check_new_parts_saved(model, folder)
    name_base(folder, card)


def name_base(folder: Path, card: ModelCard) -> None:
    """Write the base that a card names into an adapter's configuration, where stock PEFT looks for it."""
    base = resolve(card.base)
    config = read_json(folder / ADAPTER_CONFIG)
    config["base_model_name_or_path"] = as_reference(base.hub_id or str(base.path))
    config["revision"] = base.revision
    (folder / ADAPTER_CONFIG).write_text(json_text(config, indent=2, sort_keys=True, ensure_ascii=True), "utf-8")


def _check_new_parts_saved(model: Any, folder: Path) -> None:
    """A head that was new when the base was loaded must be in the adapter's file, or it is lost."""
    saved = check_safetensors(folder / ADAPTER_WEIGHTS)
    new = getattr(model.get_base_model(), "luthier_new_parameters", ())
    lost = [name for name in new if not any(key.endswith(name) for key in saved)]
    if lost:
        raise ModelError(
            f"parts that the base model lacks are not part of the adapter and would be lost: {some(lost)}",
            where=str(folder),
            fix=f"make them part of it: modules_to_save={new_modules(model)}",
        )


def attach_adapter(body: Any, folder: Path, *, trainable: bool = False) -> Any:
    """Put a saved adapter on its base.

    PEFT's own prompt methods stand beside the text, as when they were trained. PEFT refuses to load them for
    training: they are loaded for inference, and then made trainable. What is trained on is the prompt itself,
    without the network that may have produced it.

    Raises:
        ModelError: PEFT can't read it, or its file lacks weights that its configuration names.
    """
    from peft import PeftConfig, PeftModel

    from luthier.peft_bridge.prompt_placement import keep_prompt_beside_text, rows_before_text

    source = resolve(str(folder))
    config = translate(
        lambda: PeftConfig.from_pretrained(str(folder)), source, "the adapter's configuration can't be read"
    )
    prompt = bool(config.is_prompt_learning) and _type_name(config.peft_type) not in ADAPTER_TYPES
    if prompt:
        keep_prompt_beside_text(body, config.task_type, rows_before_text(config))
    model: Any = translate(
        lambda: PeftModel.from_pretrained(body, str(folder), is_trainable=trainable and not prompt, config=config),
        source,
        "the adapter can't be put on its base",
    )
    _refuse_lacking(model, folder)
    if not trainable:
        model.requires_grad_(False)
    elif prompt:
        for part in _adapter_parts(model):
            part.requires_grad_(True)
    return model.eval()


def _refuse_lacking(model: Any, folder: Path) -> None:
    """PEFT leaves what it does not find as it was drawn, and only warns."""
    from peft import get_peft_model_state_dict

    named = get_peft_model_state_dict(model, save_embedding_layers=False)
    lacking = sorted(set(named) - set(check_safetensors(folder / ADAPTER_WEIGHTS)))
    if lacking:
        raise ModelError(
            f"{len(lacking)} weights that the adapter's configuration names are not in its file: {some(lacking)}",
            where=str(folder / ADAPTER_WEIGHTS),
            fix="copy the adapter again: adapter_config.json and the weights do not belong together",
        )


def _type_name(peft_type: Any) -> str:
    return str(getattr(peft_type, "value", peft_type))


def _adapter_parts(model: Any) -> list[Any]:
    from peft.utils.other import ModulesToSaveWrapper

    name = model.active_adapter
    heads = [
        m.modules_to_save[name]
        for m in model.modules()
        if isinstance(m, ModulesToSaveWrapper) and name in m.modules_to_save
    ]
    return [model.prompt_encoder[name], *heads]


def refuse_other_base(folder: Path, card: ModelCard, base: ModelSettings) -> None:
    """Compare the base that a card names with the model that `base` finds.

    Raises:
        ModelError: they differ, or there is none.
    """
    try:
        source = resolve(base)
    except ModelError as error:
        raise ModelError(
            f"the base {card.base!r} that this was trained on is no longer there",
            where=str(folder),
            fix="put it back there; in Python, pass its new place as `base`: load_artifact(folder, base=...)",
        ) from error
    found = content_fingerprint(local_folder(source, base), source.gguf_file)
    if card.base_fingerprint == found or (source.kind == "hub" and card.base_fingerprint == fingerprint(source)):
        return
    raise ModelError(
        f"adapter for another base: it was trained on {card.base} (fingerprint "
        f"{card.base_fingerprint[:12]}), not on {base.reference} (fingerprint {found[:12]})",
        where=str(folder),
        fix=f"use the base it was trained on, {card.base}, as it was then",
    )
