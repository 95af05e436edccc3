"""Heads: which transformers class makes one, whether an architecture has it, what its outputs are called."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from luthier.errors import ModelError, a_model, nearest
from luthier.models.head_kinds import HEAD_KINDS, Head
from luthier.models.inspect import is_decoder, is_encoder_decoder
from luthier.models.source import ModelSource

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeadRequest:
    """The head that is wanted on a model, and what its outputs mean."""

    head: Head
    num_labels: int | None = None
    labels: list[str] | None = None
    regression: bool = False
    config_overrides: dict[str, Any] | None = None

    def differs_from(self, saved: list[str] | None) -> bool:
        """Whether a head that was trained for these labels means others than the request: the same number of outputs
        would otherwise be taken over under new names.

        Args:
            saved: names of the outputs, in order; None where they have none of their own.
        """
        return self.labels is not None and saved is not None and set(saved) != set(self.labels)

    def configure(self, config: Any, source: ModelSource) -> Any:
        """Write the request into a model's configuration.

        Raises:
            ModelError: the architecture has no such head, or no such configuration field.
        """
        check_head_fits(config, self.head, source)
        made = getattr(auto_class(self.head), "head_config", None)
        if made is not None:
            config = made(config)
        self._override(config, source)
        if HEAD_KINDS[self.head].has_labels:
            self._name_outputs(config, source)
        return config

    def _override(self, config: Any, source: ModelSource) -> None:
        for name, value in (self.config_overrides or {}).items():
            if not hasattr(config, name):
                guess = nearest(name, list(config.to_dict()))
                raise ModelError(
                    f"the configuration of {config.model_type} has no field {name!r}",
                    where=source.reference,
                    fix=f"did you mean {guess!r}?" if guess else f"remove {name!r}",
                )
            setattr(config, name, value)
        _fit_kinds_of_layers(config, self.config_overrides or {})

    def _name_outputs(self, config: Any, source: ModelSource) -> None:
        labels, count = self.labels, self.num_labels
        if labels is not None and len(set(labels)) != len(labels):
            raise ValueError(f"labels are named twice: {labels}")
        if labels is not None and count not in (None, len(labels)):
            raise ValueError(f"num_labels is {count}, but {len(labels)} labels are named")
        if self.regression:
            config.num_labels = 1
            config.problem_type = "regression"
            return
        if labels is not None:
            _warn_of_other_order(config, labels, source)
            config.id2label = dict(enumerate(labels))
            config.label2id = {label: number for number, label in enumerate(labels)}
        elif count is not None and count != config.num_labels:
            config.num_labels = count
        if self.head == "sequence_classification" and not self._keeps_problem(config):
            config.problem_type = "single_label_classification"

    def _keeps_problem(self, config: Any) -> bool:
        """Whether the kind of answers was asked for, or is that of a saved head that is taken as it is."""
        asked = "problem_type" in (self.config_overrides or {})
        return asked or (self.labels is None and config.problem_type == "multi_label_classification")


def auto_class(head: Head) -> Any:
    """The class that loads and builds models with a head.

    Raises:
        ModelError: there is no such head.
    """
    import importlib

    module, _, name = HEAD_KINDS[head].made_by.rpartition(":")
    return getattr(importlib.import_module(module or "transformers"), name)


def know_model_type(model_type: Any) -> None:
    """Import what makes models of a type that a head brings, so that transformers knows it."""
    import importlib

    for name in HEAD_KINDS:
        if HEAD_KINDS[name].model_type and HEAD_KINDS[name].model_type == model_type:
            importlib.import_module(HEAD_KINDS[name].made_by.partition(":")[0])


def check_head_fits(config: Any, head: str, source: ModelSource) -> None:
    """Refuse a head that the architecture does not have, naming those it has."""
    if _fits(config, head) or (hasattr(config, "auto_map") and head in HEAD_KINDS):
        return
    fitting = [name for name in HEAD_KINDS if _fits(config, name)]
    raise ModelError(
        f"{a_model(config.model_type)} has no {head} head",
        where=source.reference,
        fix=f"it has: {', '.join(fitting) or 'none'}",
    )


def _fits(config: Any, head: str) -> bool:
    if type(config) not in auto_class(head)._model_mapping:
        return False
    if head == "causal_lm":
        return is_decoder(config)
    return head != "seq2seq_lm" or is_encoder_decoder(config)


def output_names(config: Any) -> list[str] | None:
    """What a configuration calls the outputs of its head, in order; None where it only numbers them."""
    names = [str(name) for _, name in sorted((getattr(config, "id2label", None) or {}).items())]
    return None if all(name == f"LABEL_{number}" for number, name in enumerate(names)) else names


def _warn_of_other_order(config: Any, labels: list[str], source: ModelSource) -> None:
    own = [str(config.id2label[number]) for number in sorted(config.id2label)]
    if own != labels and sorted(own) == sorted(labels):
        log.warning(
            "%s: the checkpoint's labels are %s; asking for %s gives a trained head's outputs other meanings",
            source.reference,
            own,
            labels,
        )


def _fit_kinds_of_layers(config: Any, given: Mapping[str, Any]) -> None:
    """Give another number of layers a kind each, where a configuration lists kinds."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and "num_hidden_layers" in given and "layer_types" not in given:
        config.layer_types = kinds_of_layers(config, int(given["num_hidden_layers"]))


def kinds_of_layers(config: Any, wanted: int) -> list[str]:
    """Kinds of so many layers: the first of a configuration's own, else what its class gives so many."""
    kinds = config.layer_types
    return list((kinds if wanted <= len(kinds) else type(config)(num_hidden_layers=wanted).layer_types)[:wanted])
