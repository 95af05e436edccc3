"""What can be wrong with a `pretrain` stage, found before anything runs and without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.errors import ModelError, RecipeError, a_model, nearest
from luthier.language_modeling.documents import check_corpora
from luthier.models.depth_rules import depth_sources
from luthier.models.loading import load_config
from luthier.models.settings import RemapSettings
from luthier.pretraining.sentences import read_sentences

if TYPE_CHECKING:
    from luthier.pretraining.stage import ArchitectureSettings, Pretrain
    from luthier.stages.artifacts import Artifact
    from luthier.stages.base import StageInputs


def check_pretraining(stage: Pretrain, inputs: StageInputs) -> None:
    """Look at the first document of each text, the sentences to complete, the fields of a new architecture, and the
    sizes of the model that it starts from, where that is there.

    Raises:
        DataError: a text or the sentences can't be read.
        RecipeError: there is no such architecture, or it has no such field.
        ModelError: the weights of `initialise_from` don't fit it.
    """
    check_corpora(stage.corpus)
    if stage.cloze is not None:
        read_sentences(stage.cloze_file())
    if stage.architecture is not None:
        new = configuration(stage.architecture)
        if stage.initialise_from is not None and is_there(stage.start(inputs)):
            check_initial(stage, load_config(stage.start(inputs).model), new)


def is_there(artifact: Artifact) -> bool:
    """Whether the artefact itself can be read: in a dry run another model may stand in for it."""
    return not artifact.stands_in and (not artifact.key or artifact.folder.is_dir())


def check_initial(stage: Pretrain, trained: Any, new: Any) -> None:
    """Compare a new model with the trained one whose weights it gets.

    Args:
        trained, new: configurations of the trained model, and of the recipe's architecture.

    Raises:
        ModelError: they are of different architectures, or the depth rule asks for layers that are not there.
    """
    assert stage.architecture is not None
    kind = stage.architecture.model_type
    if trained.model_type != kind:
        raise ModelError(
            f"`architecture` is {kind}, and the model that it starts from is {trained.model_type}",
            where="pretrain.initialise_from",
            fix=f"set `model_type: {trained.model_type}`, or start from {a_model(kind)}",
        )
    layers = getattr(trained, "num_hidden_layers", None)
    if layers is not None:
        rule = stage.remap.depth if stage.remap is not None else RemapSettings().depth
        try:
            depth_sources(rule, new_depth(stage, trained, new), int(layers))
        except ModelError as error:
            raise ModelError(error.what, where="pretrain.remap.depth", fix=error.fix) from None


def new_depth(stage: Pretrain, trained: Any, new: Any) -> int:
    """Layers of a model that starts from a trained one: as many as the recipe's architecture names, else as many.

    Args:
        trained, new: configurations of the trained model, and of the recipe's architecture.
    """
    assert stage.architecture is not None
    named = {"num_hidden_layers", getattr(type(new), "attribute_map", {}).get("num_hidden_layers")}
    return int((new if named & set(stage.architecture.fields) else trained).num_hidden_layers)


def configuration(architecture: ArchitectureSettings, **more: Any) -> Any:
    """The configuration of a new model.

    Args:
        architecture: its kind and fields.
        more: fields that those of the recipe go before.

    Raises:
        RecipeError: there is no such architecture, or it has no such field.
    """
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = architecture.model_type
    if kind not in CONFIG_MAPPING_NAMES:
        guess = nearest(kind, list(CONFIG_MAPPING_NAMES))
        raise RecipeError(
            f"transformers has no architecture {kind!r}",
            where="pretrain.architecture.model_type",
            fix=f"did you mean {guess!r}?" if guess else "such as bert, roberta, gpt2 or llama",
        )
    known = AutoConfig.for_model(kind)
    other_names = getattr(known, "attribute_map", {})
    names = {*known.to_dict(), *other_names}
    for name in architecture.fields:
        if name not in names:
            guess = nearest(name, sorted(names))
            raise RecipeError(
                f"the configuration of {kind} has no field {name!r}",
                where=f"pretrain.architecture.{name}",
                fix=f"did you mean {guess!r}?" if guess else f"remove {name!r}",
            )
    given = {other_names.get(name, name) for name in architecture.fields}
    fields = {name: value for name, value in more.items() if name in names and other_names.get(name, name) not in given}
    try:
        return AutoConfig.for_model(kind, **fields, **architecture.fields)
    except (ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(
            f"no {kind} model can be built so: {reason}", where="pretrain.architecture", fix="correct its fields"
        ) from error
