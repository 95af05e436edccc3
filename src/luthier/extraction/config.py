"""The configuration of a SINET model: that of its encoder, the names of its outputs, and the head's options."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from luthier.errors import ModelError
from luthier.extraction.options import SAVED, ExtractionHead
from luthier.extraction.types import Types

OPTIONS = tuple(ExtractionHead.model_fields)
# What code that reads a configuration's fields, as PEFT does, looks for; they are the encoder's.
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")


class SinetConfig(PreTrainedConfig):
    """Attributes that it lacks are the encoder's, so that what reads a model's sizes finds them.

    Args:
        encoder: configuration of the encoder, or its fields with `model_type`.
        id2label: names of the outputs, see `luthier.extraction.types`.
        options: fields of `luthier.extraction.options.ExtractionHead`; what is left out is its default.

    Raises:
        ModelError: an option has a value that it can't have.
    """

    model_type = "sinet"
    has_no_defaults_at_init = True

    def __init__(self, encoder: Any = None, **options: Any) -> None:
        if isinstance(encoder, dict):
            fields = dict(encoder)
            encoder = AutoConfig.for_model(fields.pop("model_type"), **fields)
        self.encoder = encoder
        for name in _SIZES:
            options.pop(name, None)
        for name, field in ExtractionHead.model_fields.items():
            setattr(self, name, options.pop(name, field.default))
        if encoder is not None and "id2label" not in options:
            options["id2label"] = {}
        super().__init__(**options)

    def __getattr__(self, name: str) -> Any:
        encoder = self.__dict__.get("encoder")
        if encoder is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(encoder, name)

    @property
    def head_options(self) -> ExtractionHead:
        """The options, checked.

        Raises:
            ModelError: one has a value that it can't have.
        """
        from pydantic import ValidationError

        try:
            return ExtractionHead.model_validate({name: getattr(self, name) for name in OPTIONS}, context=SAVED)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise ModelError(f"`{key}` of a joint extraction head: {first['msg']}", fix="correct it") from error

    @property
    def types(self) -> Types:
        """The entity and relation types.

        Raises:
            ModelError: the names of the outputs say of one not what it is.
        """
        try:
            return Types.of_labels(str(name) for _, name in sorted(self.id2label.items()))
        except ValueError as error:
            fix = "name the types as labels, such as `entity:Person` and `relation:works_for`"
            raise ModelError(str(error), fix=fix) from error

    def to_dict(self) -> dict[str, Any]:
        if self.encoder is None:
            return dict(super().to_dict())
        sizes = {name: getattr(self.encoder, name) for name in _SIZES if hasattr(self.encoder, name)}
        return super().to_dict() | sizes | {"encoder": self.encoder.to_dict()}


AutoConfig.register(SinetConfig.model_type, SinetConfig, exist_ok=True)
