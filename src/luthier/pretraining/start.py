"""What pretraining starts from: a model, given or new, and its tokenizer."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from luthier.errors import ModelError, RecipeError, a_model
from luthier.language_modeling.preparing import TextJob, text_job
from luthier.models.artifacts import load_model
from luthier.models.head_kinds import Head
from luthier.models.heads import auto_class, check_head_fits, kinds_of_layers
from luthier.models.inspect import is_decoder, is_encoder_decoder, model_max_length
from luthier.models.loading import empty_model, load_config, load_tokenizer
from luthier.models.quiet import quiet_transformers
from luthier.models.remapping import Remapping, remap_parameters
from luthier.models.settings import RemapSettings
from luthier.models.source import ModelSource
from luthier.pretraining.checking import check_initial, configuration, new_depth
from luthier.pretraining.tokenizers import saved_tokenizer

if TYPE_CHECKING:
    from luthier.pretraining.stage import ArchitectureSettings, Pretrain
    from luthier.stages.base import StageInputs


# Of a tokenizer: no limit, as transformers writes it.
UNLIMITED = int(1e30)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """A model that is not built yet.

    Attributes:
        tokenizer: of the model.
        config: of the model.
        masked: whether it guesses masked tokens, and not the next one.
    """

    stage: Pretrain
    inputs: StageInputs
    tokenizer: Any
    config: Any
    masked: bool

    @property
    def head(self) -> Head:
        """Its head."""
        return "masked_lm" if self.masked else "causal_lm"

    def text(self) -> TextJob:
        """What it is trained on; see `text_job` for what is refused."""
        return text_job(
            self.stage,
            self.tokenizer,
            self.config,
            masked=self.masked,
            seed=self.inputs.seed,
            context_parallel_size=self.stage.context_parallel_size,
        )

    def model(self) -> Any:
        """The model, in training: read, or drawn from the run's seed; a head that the checkpoint lacks is drawn, and
        tied to the embeddings where its architecture ties them. A new one gets the weights of `initialise_from`."""
        if self.stage.architecture is None:
            return load_model(self.inputs.model, self.head, seed=self.inputs.seed)
        model = new_model(self.config, self.head, self.inputs.seed)
        if self.stage.initialise_from is not None:
            trained = load_model(self.stage.start(self.inputs).model, self.head, seed=self.inputs.seed)
            done = self.remap(model, trained)
            logger.info("layers start from layers %s of %s", done.sources, self.stage.initialise_from.reference)
        return model

    def remap(self, model: Any, trained: Any) -> Remapping:
        """Fit the weights of a trained model into a new one; both may be on the meta device.

        Raises:
            ModelError: they don't fit.
        """
        rules = self.stage.remap or RemapSettings()
        return remap_parameters(model, trained, **rules.model_dump(), seed=self.inputs.seed)

    def empty_initial(self) -> Any:
        """The model of `initialise_from` without numbers, on the meta device."""
        return empty_model(self.stage.start(self.inputs).model, self.head)

    def empty_model(self) -> Any:
        """The model without numbers, on the meta device."""
        if self.stage.architecture is None:
            return empty_model(self.inputs.model, self.head)
        with torch.device("meta"):
            return _built(self.config, self.head)


def start_of(stage: Pretrain, inputs: StageInputs, tokenizer_folder: Path | None = None) -> Start:
    """What a stage starts from.

    Args:
        tokenizer_folder: where a new tokenizer was saved.

    Raises:
        ModelError, RecipeError: there is no such model, or it has no head that the objective needs.
    """
    tokenizer = (
        load_tokenizer(stage.start(inputs).model) if tokenizer_folder is None else saved_tokenizer(tokenizer_folder)
    )
    if stage.architecture is None:
        config: Any = load_config(inputs.model)
    elif stage.initialise_from is None:
        config = new_configuration(stage.architecture, tokenizer, stage.length)
    else:
        config = resized_configuration(stage, load_config(stage.start(inputs).model))
    if stage.architecture is not None:  # the tokenizer knows the length of the model that it came with
        tokenizer.model_max_length = model_max_length(config) or UNLIMITED
    if len(tokenizer) > config.vocab_size:
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} tokens, and the model embeds {config.vocab_size}",
            where=stage.start(inputs).model.reference,
            fix="put the model's own tokenizer beside its config.json",
        )
    masked = is_masked(stage.objective, config)
    head: Head = "masked_lm" if masked else "causal_lm"
    where = inputs.model.reference if stage.architecture is None else f"architecture {config.model_type}"
    if is_encoder_decoder(config):
        raise RecipeError(
            f"{a_model(config.model_type)} has an encoder and a decoder, and is neither a masked nor a causal model",
            where=where,
            fix="take an encoder such as bert, or a decoder such as llama",
        )
    check_head_fits(config, head, ModelSource("directory", where))
    return Start(stage, inputs, tokenizer, config, masked)


def is_masked(objective: str | None, config: Any) -> bool:
    """Whether a model guesses masked tokens, by what is asked for, else by what it is built for."""
    return objective == "masked" if objective is not None else not is_decoder(config)


def resized_configuration(stage: Pretrain, trained: Any) -> Any:
    """The configuration of a trained model with the fields that the recipe's architecture changes.

    Raises:
        ModelError: it is of another architecture.
        RecipeError: it has no such field.
    """
    assert stage.architecture is not None
    new = configuration(stage.architecture)
    check_initial(stage, trained, new)
    kept = trained.to_dict()
    if kept.get("layer_types") is not None:
        kept["layer_types"] = kinds_of_layers(trained, new_depth(stage, trained, new))
    for name in (*stage.architecture.fields, "model_type", "architectures", "transformers_version", "dtype"):
        kept.pop(getattr(type(trained), "attribute_map", {}).get(name, name), None)
    return type(trained)(**kept, **stage.architecture.fields)


def new_configuration(architecture: ArchitectureSettings, tokenizer: Any, length: int) -> Any:
    """The configuration of a new model for a tokenizer: its vocabulary and special tokens, and at least `length`
    positions, where the recipe does not say otherwise.

    Raises:
        RecipeError: there is no such architecture, it has no such field, or its vocabulary is smaller than that of the
            tokenizer.
    """
    names = ("pad", "bos", "eos", "cls", "sep")
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id", None) for name in names}
    # RoBERTa-like models count positions from behind the padding id.
    positions = length if tokenizer.pad_token_id is None else length + tokenizer.pad_token_id + 1
    config = configuration(
        architecture, vocab_size=len(tokenizer), max_position_embeddings=max(512, positions), **special
    )
    if config.vocab_size < len(tokenizer):
        raise RecipeError(
            f"`vocab_size` is {config.vocab_size}, and the tokenizer has {len(tokenizer)} tokens",
            where="pretrain.architecture.vocab_size",
            fix="leave it out",
        )
    return config


def new_model(config: Any, head: Head, seed: int) -> Any:
    """A model with weights drawn from a seed, in float32; the caller's random state is left as it was.

    Args:
        config: of transformers.
        head: masked_lm or causal_lm.

    Raises:
        ModelError: no such model can be built.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _built(config, head).eval()


def _built(config: Any, head: Head) -> Any:
    try:
        with quiet_transformers():
            return auto_class(head).from_config(config, dtype=torch.float32)
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"no {config.model_type} model can be built so: {reason}",
            where="pretrain.architecture",
            fix="correct its fields; `hidden_size` has to be a multiple of `num_attention_heads`",
        ) from error
