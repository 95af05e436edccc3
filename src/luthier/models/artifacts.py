"""Saving and loading what Luthier makes: a model or a PEFT adapter, with tokenizer, card and manifest.

A saved full model is also loaded by `AutoModelFor….from_pretrained(directory)`, a saved adapter by
`peft.PeftModel.from_pretrained(base, directory)`.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import ModelError, WorkspaceError
from luthier.models.adapter_files import attach_adapter, name_base, refuse_other_base, write_adapter
from luthier.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, base_settings, is_adapter
from luthier.models.card import CARD, ModelCard, read_card, write_card
from luthier.models.head_kinds import HEAD_KINDS, Head
from luthier.models.heads import HeadRequest
from luthier.models.loading import (
    load_plain_model,
    load_tokenizer,
    local_folder,
    read_model,
    translate,
    without_adapter,
)
from luthier.models.manifest import verify_manifest, write_manifest
from luthier.models.quiet import quiet_transformers
from luthier.models.references import check_model_unchanged, resolve
from luthier.models.safety import check_configs, check_links
from luthier.models.saved_head import head_to_save, put_head, save_head_only, saved_head_in, write_head
from luthier.models.settings import Danger, ModelSettings
from luthier.models.source import ModelSource
from luthier.models.tensors import check_safetensors, read_json
from luthier.models.weights import refuse_non_finite
from luthier.peft_bridge.adapter_types import ensure_adapter_type
from luthier.storage.files import disk_failure, fix_of, json_text, sync

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Heads below which a model learns from text alone, so that another head can be put on what it learned.
log = logging.getLogger(__name__)


def save_artifact(model: Any, tokenizer: PreTrainedTokenizerBase, directory: str | Path, card: ModelCard) -> Path:
    """Save a model, a PEFT model's adapter, or a model's head alone where `luthier.models.saved_head` says so.

    The directory appears whole or not at all; it replaces an older one.

    Raises:
        ModelError: an adapter would be saved without the new head that it was trained with.
        WorkspaceError: the directory can't be written, or holds something that Luthier did not save.
    """
    with whole_artifact(directory) as scratch, quiet_transformers():
        _write(model, tokenizer, scratch, card)
    return Path(directory).absolute()


@contextmanager
def whole_artifact(directory: str | Path) -> Iterator[Path]:
    """A scratch folder that takes the place of `directory` when the block ends, and goes away when it fails.

    Raises:
        WorkspaceError: the directory can't be written, or holds something that Luthier did not save.
    """
    directory = Path(directory).absolute()
    scratch: Path | None = None
    try:
        _refuse_foreign_files(directory)
        directory.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        scratch.chmod(0o755)
        yield scratch
        _flush(scratch)
        _put_in_place(scratch, directory)
    except Exception as error:
        failure = error if isinstance(error, OSError) else disk_failure(error)
        if failure is None:
            raise
        raise WorkspaceError(
            f"the model can't be saved: {failure.strerror or failure}",
            where=str(directory),
            fix=fix_of(failure),
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def load_artifact(
    directory: str | Path,
    *,
    trainable: bool = False,
    settings: ModelSettings | None = None,
    base: ModelSettings | str | None = None,
) -> tuple[Any, PreTrainedTokenizerBase, ModelCard]:
    """Load what `save_artifact` saved, after comparing every file with the manifest.

    Args:
        directory: an artefact's own directory, that of a stage, or that of a run (its last finished stage).
        trainable: for an adapter, whether it and its head can be trained on; the base stays frozen.
            The parameters of a full model always can.
        settings: number format and attention implementation; its `reference` is not used.
        base: the model to put an adapter on, where it is no longer at the place that the card names.

    Returns:
        The model in eval mode, its tokenizer, and its card.

    Raises:
        ModelError: a file is missing or changed, or the base is not the one that the adapter was made for.
    """
    return check_artifact(directory, settings=settings).load(trainable=trainable, base=base)


@dataclasses.dataclass(frozen=True)
class CheckedArtifact:
    """What `save_artifact` saved, with every file as its manifest says; nothing of the model is loaded yet."""

    source: ModelSource
    folder: Path
    card: ModelCard
    settings: ModelSettings

    def load(
        self, *, trainable: bool = False, base: ModelSettings | str | None = None
    ) -> tuple[Any, PreTrainedTokenizerBase, ModelCard]:
        """See `load_artifact`."""
        folder, settings = self.folder, self.settings
        own = settings.model_copy(update={"reference": str(folder), "gguf_file": None})
        tokenizer = load_tokenizer(own)
        if is_adapter(folder):
            model = _load_adapter(
                folder,
                self.card,
                base_settings(self.card, settings) if base is None else ModelSettings.model_validate(base),
                trainable,
            )
            check_model_unchanged(self.source, folder)
            refuse_non_finite(model, self.source)
        else:
            request = HeadRequest(self.card.head, regression=self.card.regression)
            model = read_model(self.source, folder, own, request)
        return model, tokenizer, self.card


def check_artifact(directory: str | Path, *, settings: ModelSettings | None = None) -> CheckedArtifact:
    """Compare every file of a saved artefact with its manifest, and read its card; torch is not imported.

    Raises:
        ModelError: a file is missing, changed or refused for safety, or it holds no model.
    """
    source = resolve(str(directory))
    if source.kind != "artifact" or source.path is None:
        raise ModelError(
            "Luthier did not save this folder", where=str(directory), fix="use load_model for a plain model"
        )
    folder = source.path
    check_links(folder)
    verify_manifest(folder)
    settings = settings or ModelSettings(reference=str(folder))
    check_configs(folder, settings.allow)
    card = read_card(folder)
    if not is_adapter(folder) and not (folder / "config.json").is_file():
        raise ModelError(
            f"the folder holds no model, but a {(card.method or {}).get('name')} on the model {card.base}",
            where=str(folder),
            fix="load it with what made it",
        )
    return CheckedArtifact(source, folder, card, settings)


def saved_artifact(directory: str | Path, allow: Collection[Danger] = ()) -> CheckedArtifact:
    """The same, to be loaded in the number format in which it was trained.

    Raises:
        ModelError: as `check_artifact`.
    """
    return _in_own_format(
        check_artifact(directory, settings=ModelSettings(reference=str(directory), allow=tuple(allow)))
    )


def _in_own_format(checked: CheckedArtifact) -> CheckedArtifact:
    dtype = checked.card.dtype or checked.settings.dtype
    return dataclasses.replace(checked, settings=checked.settings.model_copy(update={"dtype": dtype}))


def load_model(
    settings: ModelSettings | str,
    head: Head,
    *,
    num_labels: int | None = None,
    labels: list[str] | None = None,
    regression: bool = False,
    seed: int = 0,
    config_overrides: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """A pretrained model with a head, in eval mode, with every parameter trainable.

    What the checkpoint lacks (a new head) is drawn from `seed`; the caller's random state is left as it was.
    The names of those parameters are kept as `model.luthier_new_parameters`.

    Args:
        settings: the model, or a reference to it. A saved adapter that can be merged gives the merged model, below a
            new head where it was trained for another one or for other labels.
        num_labels: outputs of a classification head; default: as many as `labels`, or as the checkpoint has.
        labels: their names, in order.
        regression: one output, and mean squared error as the loss.
        config_overrides: further fields of the model's configuration, such as dropout rates.

    Raises:
        ModelError: the model is not found, damaged, refused for safety, or has no such head; or weights below
            the head are missing, of another shape, or not finite.
    """
    settings = ModelSettings.model_validate(settings)
    source = resolve(settings)
    request = HeadRequest(head, num_labels, labels, regression, config_overrides)
    if source.kind != "artifact" or not is_adapter(local_folder(source, settings)):
        model: PreTrainedModel = load_plain_model(source, settings, request, seed)
        return model
    card = read_card(Path(str(source.path)))
    means_the_same = card.regression == regression and (labels is None or card.labels in (None, labels))
    if card.head == head and means_the_same and not config_overrides:
        return merged_adapter(source, settings)
    with tempfile.TemporaryDirectory(prefix="luthier-merged-") as place:
        merged = merged_adapter(source, settings)
        merged.save_pretrained(place)
        load_tokenizer(settings).save_pretrained(place)
        at_place = settings.model_copy(update={"reference": place, "revision": None, "gguf_file": None})
        named = dataclasses.replace(resolve(at_place), reference=settings.reference)
        model = read_model(named, Path(place), at_place, request, seed)
        model.name_or_path = model.config.name_or_path = merged.name_or_path
        return model


def load(reference: ModelSettings | str, head: Head = "encoder") -> tuple[Any, PreTrainedTokenizerBase]:
    """A model and its tokenizer: of a directory that Luthier saved, with its adapter, or of any reference. A saved one
    comes in the number format in which it was trained, unless the settings name another.

    Args:
        head: for a model that Luthier did not save.
    """
    settings = ModelSettings.model_validate(reference)
    source = resolve(settings)
    if source.kind == "artifact":
        checked = check_artifact(str(source.path), settings=settings)
        as_trained = "dtype" not in settings.model_fields_set
        model, tokenizer, _ = (_in_own_format(checked) if as_trained else checked).load()
        return model, tokenizer
    return load_model(settings, head), load_tokenizer(settings)


def merged_adapter(source: ModelSource, settings: ModelSettings) -> Any:
    """The plain model that a saved adapter and its base make together, for a next stage to start from.

    Raises:
        ModelError: the adapter is of a kind that can't be merged.
    """
    check_merges(source)
    folder = Path(str(source.path))
    model = load_artifact(folder, settings=settings)[0]
    if saved_head_in(folder) is not None:
        save_head_only(model, None)
        model.requires_grad_(True)
        return model
    kind = read_json(folder / ADAPTER_CONFIG).get("peft_type")
    plain = translate(model.merge_and_unload, source, f"the {kind} adapter can't be merged")
    plain.requires_grad_(True)
    return plain.eval()


def check_merges(source: ModelSource) -> None:
    """Refuse a saved adapter of a kind that can't be merged into its base, without loading either; any other model can
    be built on as it is.

    Raises:
        ModelError: it is of such a kind.
    """
    folder = Path(str(source.path))
    if source.kind != "artifact" or not is_adapter(folder) or saved_head_in(folder) is not None:
        return
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    from luthier.models.layers.attached import AttachedTuner

    kind = str(read_json(folder / ADAPTER_CONFIG).get("peft_type"))
    ensure_adapter_type(kind, str(folder / ADAPTER_CONFIG))
    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(kind)
    if tuner is None or not hasattr(tuner, "merge_and_unload") or issubclass(tuner, AttachedTuner):
        raise ModelError(
            f"a {kind} adapter can't be merged into its base, so nothing can be built on top of it",
            where=str(folder),
            fix=f"start from its base, {read_card(folder).base}, or train the adapter itself on with "
            "`continue_adapter: true`",
        )


def _refuse_foreign_files(directory: Path) -> None:
    if directory.exists() and not (directory / CARD).is_file() and (directory.is_file() or any(directory.iterdir())):
        raise WorkspaceError(
            "there is something that Luthier did not save", where=str(directory), fix="name another directory"
        )


def _write(model: Any, tokenizer: Any, folder: Path, card: ModelCard) -> None:
    head = head_to_save(model)
    if _is_peft(model):
        write_adapter(model, folder, card)
    elif head is not None:
        write_head(model, head, folder)
        name_base(folder, card)
    else:
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _forget_paths(folder)
    write_card(folder, _with_labels(card, model))
    write_manifest(folder)


def _with_labels(card: ModelCard, model: Any) -> ModelCard:
    if card.labels is not None or card.regression or not HEAD_KINDS[card.head].has_labels:
        return card
    names = model.config.id2label
    return dataclasses.replace(card, labels=[str(names[number]) for number in sorted(names)])


def _is_peft(model: Any) -> bool:
    from peft import PeftModel

    return isinstance(model, PeftModel)


def _forget_paths(folder: Path) -> None:
    """Take the places that a model was loaded from out of its saved tokenizer configuration."""
    path = folder / "tokenizer_config.json"
    if path.is_file():
        config = read_json(path)
        for key in ("name_or_path", "tokenizer_file", "special_tokens_map_file"):
            config.pop(key, None)
        path.write_text(json_text(config, indent=2), encoding="utf-8")


def _load_adapter(folder: Path, card: ModelCard, base: ModelSettings, trainable: bool) -> Any:
    check_safetensors(folder / ADAPTER_WEIGHTS)
    peft_type = str(read_json(folder / ADAPTER_CONFIG).get("peft_type"))
    ensure_adapter_type(peft_type, str(folder / ADAPTER_CONFIG))
    refuse_other_base(folder, card, base)
    without_adapter(base)
    labels = card.labels if not card.regression else None
    body = load_model(base, card.head, labels=labels, regression=card.regression, config_overrides=card.head_settings)
    head = saved_head_in(folder)
    if head is not None:
        return put_head(body, head, folder, trainable=trainable)
    return attach_adapter(body, folder, trainable=trainable)


def _flush(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def _put_in_place(scratch: Path, directory: Path) -> None:
    aside = None
    if directory.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".{directory.name}.old.", dir=directory.parent))
        directory.rename(aside)
    scratch.rename(directory)
    sync(directory.parent)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)
