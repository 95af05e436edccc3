"""The frozen model under all prefixes: what reads texts, and where prefixes come from that belong to it.

Shapes: B texts, D width.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.errors import ModelError, a_model
from luthier.models.adapter_files import refuse_other_base
from luthier.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, is_adapter
from luthier.models.artifacts import load_model
from luthier.models.card import ModelCard, describe, read_card
from luthier.models.inspect import is_encoder_decoder, model_max_length
from luthier.models.layers.trunk import Trunk, bare_pass, find_trunk
from luthier.models.loading import load_tokenizer
from luthier.models.manifest import verify_manifest
from luthier.models.references import resolve
from luthier.models.safety import check_configs, check_links
from luthier.models.settings import ModelSettings
from luthier.models.tensors import check_safetensors, read_json
from luthier.representing.rack import PrefixRack
from luthier.representing.settings import FILE_NAME, FILE_NAME_RULE
from luthier.representing.states import TaskPrefix, prefix_of_adapter
from luthier.representing.tuner import PARTS, TaskPrefixConfig
from luthier.storage.one_version import one_version
from luthier.storage.paths import is_file, user_path

_LONGEST = 512
# Parts that are trained with a head, and the prefixes themselves.
_NOT_OF_THE_BODY = (f"{PARTS}.", "modules_to_save.", "original_module.", "pooler.")


@dataclass
class FrozenBase:
    """A pretrained model whose weights never change.

    Attributes:
        settings: how it is loaded.
        card: names it, and holds the fingerprint of its files.
        model: the bare model, without a head.
        trunk: the part of it that reads text.
        rack: where prefixes stand in it.
    """

    settings: ModelSettings
    card: ModelCard
    model: Any
    trunk: Trunk
    tokenizer: Any
    rack: PrefixRack

    @classmethod
    def load(cls, reference: ModelSettings | str) -> FrozenBase:
        """Load a model.

        Raises:
            ModelError: it can't be found or loaded, or its attention can't take prefixes.
        """
        settings = ModelSettings.model_validate(reference)
        with one_version():
            card = describe(settings, "encoder")
            model: Any = load_model(settings, "encoder")
            tokenizer = load_tokenizer(settings)
        model.requires_grad_(False)
        try:
            trunk, rack = find_trunk(model), PrefixRack(model)
        except ValueError as error:
            raise ModelError(
                f"{a_model(model.config.model_type)} can't take prefixes: {error}", where=settings.reference
            ) from error
        return cls(settings, card, model, trunk, tokenizer, rack)

    @property
    def longest(self) -> int:
        """The longest text, in tokens, that is not cut unless a shorter one is asked for."""
        return self.limit or _LONGEST

    @property
    def limit(self) -> int | None:
        """The longest text that the model takes; None where nothing limits it."""
        return model_max_length(self.model.config, self.tokenizer)

    @property
    def dtype(self) -> str:
        """Number format of the weights."""
        return str(next(self.trunk.module.parameters()).dtype).removeprefix("torch.")

    def vectors(self, batch: Mapping[str, Tensor], pooling: str) -> Tensor:
        """A batch -> (B, D), at least float32, with the prefixes that stand in the rack now."""
        known = inspect.signature(self.trunk.module.forward).parameters
        device = self.trunk.module.get_input_embeddings().weight.device
        call = {name: x.to(device) for name, x in batch.items() if name in known}
        found = bare_pass(self.trunk, call, call["attention_mask"], pooling)
        return found if found.dtype == torch.float64 else found.float()

    def prefix_from(self, source: str | Path | Any) -> tuple[TaskPrefix, float]:
        """A prefix, and its weight, out of what holds one.

        Args:
            source: a folder that the `tune` stage, or `save_artifact`, saved (its own, the stage's or the run's), the
                file of a prefix, or a PEFT model with a task prefix as its active adapter.

        Raises:
            ModelError: there is none, the file is damaged, or it was trained on another base.
        """
        if not isinstance(source, str | Path):
            prefix, weight = self._of_model(source)
            where = f"adapter {source.active_adapter!r}"
        else:
            where = str(source)
            path = user_path(source)
            prefix, weight = (self._of_file(path), 1.0) if is_file(path) else self._of_folder(where)
        prefix = prefix.without_decoder() if is_encoder_decoder(self.model.config) else prefix
        self.rack.check(prefix, where)
        return prefix, weight

    def _of_file(self, path: Path) -> TaskPrefix:
        prefix, about = TaskPrefix.read(path)
        named = f"the base of {about['task']!r}"
        card = ModelCard(base=named, base_fingerprint=about["base_fingerprint"], head="encoder")
        refuse_other_base(path, card, self.settings)
        return prefix

    def _of_folder(self, where: str) -> tuple[TaskPrefix, float]:
        source = resolve(where)
        folder = source.path
        if source.kind != "artifact" or folder is None or not is_adapter(folder):
            raise ModelError(
                "there is no task prefix that Luthier saved here",
                where=where,
                fix="name the folder of a `tune` stage with method task_prefix, a prefix file of a shared encoder, or "
                "pass a PEFT model",
            )
        check_links(folder)
        verify_manifest(folder)
        check_configs(folder)
        config = read_json(folder / ADAPTER_CONFIG)
        if config.get("peft_type") != "TASK_PREFIX":
            raise ModelError(
                f"the adapter is of the kind {config.get('peft_type')}, not a task prefix",
                where=str(folder),
                fix="train it with the method task_prefix",
            )
        refuse_other_base(folder, read_card(folder), self.settings)
        from safetensors.torch import load_file

        check_safetensors(folder / ADAPTER_WEIGHTS)
        state = load_file(folder / ADAPTER_WEIGHTS)
        return prefix_of_adapter(state, is_encoder_decoder(self.model.config)), float(config.get("weight", 1.0))

    def _of_model(self, model: Any) -> tuple[TaskPrefix, float]:
        from peft import get_peft_model_state_dict

        name = getattr(model, "active_adapter", None)
        config = getattr(model, "peft_config", {}).get(name) if isinstance(name, str) else None
        if not isinstance(config, TaskPrefixConfig):
            raise ModelError(
                "the model has no task prefix as its active adapter", fix="pass a PEFT model with a TaskPrefixConfig"
            )
        self._refuse_other_weights(find_trunk(model.get_base_model()).module)
        state = get_peft_model_state_dict(model, adapter_name=name)
        return prefix_of_adapter(state, is_encoder_decoder(self.model.config)), config.weight

    def _refuse_other_weights(self, module: Any) -> None:
        theirs, ours = (
            {name: x for name, x in part.state_dict().items() if not any(mark in name for mark in _NOT_OF_THE_BODY)}
            for part in (module, self.trunk.module)
        )
        for name in {**ours, **theirs}:
            a, b = theirs.get(name), ours.get(name)
            if a is None or b is None or a.dtype != b.dtype or not torch.equal(a.cpu(), b.cpu()):
                raise ModelError(
                    f"prefix for another base: the model that it stands in is not {self.settings.reference}; "
                    f"{name} differs",
                    fix="use the base it was trained on, in the same number format",
                )


def check_name(name: str, kind: str) -> None:
    """Refuse the name of a task or head that could not be a file's.

    Raises:
        ModelError: it has characters beside letters, digits, `_`, `-` and `.`.
    """
    if not FILE_NAME.fullmatch(name):
        raise ModelError(f"{name!r} can't be the name of a {kind}", fix=FILE_NAME_RULE)
