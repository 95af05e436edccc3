"""Loads and builds joint extraction models: on any encoder, or from a folder that holds one."""

from __future__ import annotations

from typing import Any

import torch
from transformers import MODEL_MAPPING

from luthier.extraction.config import SinetConfig
from luthier.extraction.model import SinetForJointExtraction, encoder_arguments, encoder_class


class _Encoders:
    """Configurations of models that a text goes through once."""

    def __contains__(self, config: Any) -> bool:
        return config is SinetConfig or config in MODEL_MAPPING


class AutoModelForJointExtraction:
    """Joint extraction heads on what `AutoModel` loads, in the manner of transformers' Auto classes."""

    _model_mapping = _Encoders()

    @classmethod
    def head_config(cls, config: Any) -> SinetConfig:
        """The configuration of a joint extraction model on an encoder with this configuration, with the names of its
        outputs; a joint extraction model's own is given back."""
        if isinstance(config, SinetConfig):
            return config
        made = SinetConfig(encoder=config, id2label=dict(config.id2label))
        made.pad_token_id = getattr(config, "pad_token_id", None)
        return made

    @classmethod
    def from_config(cls, config: Any, **options: Any) -> SinetForJointExtraction:
        """A new model.

        Args:
            config: of a joint extraction model, or of an encoder whose labels are those of the head.
            options: `dtype`, `attn_implementation`.
        """
        made: SinetForJointExtraction = SinetForJointExtraction._from_config(cls.head_config(config), **options)
        return made

    @classmethod
    def from_pretrained(
        cls, folder: str, *, config: Any = None, output_loading_info: bool = False, **options: Any
    ) -> Any:
        """A model from a folder that holds one, or a new head on the encoder in it.

        Args:
            folder: with weights.
            config: as in `from_config`; None reads that of the folder.
            output_loading_info: also give back what transformers says of the weights.
            options: as of `AutoModel.from_pretrained`.
        """
        from transformers import AutoConfig

        there = AutoConfig.from_pretrained(folder, trust_remote_code=options.get("trust_remote_code", False))
        config = cls.head_config(there if config is None else config)
        if isinstance(there, SinetConfig):
            model, info = SinetForJointExtraction.from_pretrained(
                folder, config=config, output_loading_info=True, **options
            )
            # Saved thresholds are those of the saved settings.
            other = config.threshold != there.threshold or (there.tune_thresholds and not config.tune_thresholds)
            if other and model.relation_head is not None:
                with torch.no_grad():
                    model.relation_head.threshold.fill_(config.threshold)
            return (model, info) if output_loading_info else model
        encoder, info = encoder_class(config.encoder).from_pretrained(
            folder,
            output_loading_info=True,
            **options | {"config": config.encoder} | encoder_arguments(config.encoder),
        )
        with torch.device("cpu"):
            model = SinetForJointExtraction(config, encoder).to(dtype=encoder.dtype).eval()
        model.name_or_path = config.name_or_path = encoder.name_or_path
        return (model, _of_whole(info, model)) if output_loading_info else model


def _of_whole(info: dict[str, Any], model: SinetForJointExtraction) -> dict[str, Any]:
    """What is said of an encoder's weights as said of the model around it, whose head is new."""
    new = [name for name, _ in model.named_parameters() if not name.startswith("encoder.")]
    told = {**info, "missing_keys": [*(f"encoder.{name}" for name in info["missing_keys"]), *new]}
    if "mismatched_keys" in info:
        keys = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
        told["mismatched_keys"] = [f"encoder.{key}" for key in keys]
    return told
