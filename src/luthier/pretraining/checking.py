"""What can be wrong with a `pretrain` stage, found before anything runs and without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.errors import DataError, RecipeError, nearest
from luthier.language_modeling.documents import Corpus
from luthier.pretraining.sentences import read_sentences

if TYPE_CHECKING:
    from luthier.pretraining.stage import ArchitectureSettings, Pretrain


def check_pretraining(stage: Pretrain) -> None:
    """Look at the first document of each text, the sentences to complete, and the fields of a new architecture.

    Raises:
        DataError: a text or the sentences can't be read.
        RecipeError: there is no such architecture, or it has no such field.
    """
    for names in (stage.corpus.train, stage.corpus.validation):
        for name in names:
            if next(Corpus([name], stage.corpus).documents(), None) is None:
                raise DataError("there is no text in it", where=name, fix="is it the right file?")
    if stage.cloze is not None:
        read_sentences(stage.cloze_file())
    if stage.architecture is not None:
        configuration(stage.architecture)


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
    names = {*known.to_dict(), *getattr(known, "attribute_map", {})}
    for name in architecture.fields:
        if name not in names:
            guess = nearest(name, sorted(names))
            raise RecipeError(
                f"the configuration of {kind} has no field {name!r}",
                where=f"pretrain.architecture.{name}",
                fix=f"did you mean {guess!r}?" if guess else f"remove {name!r}",
            )
    fields = {name: value for name, value in more.items() if name in names and name not in architecture.fields}
    try:
        return AutoConfig.for_model(kind, **fields, **architecture.fields)
    except (ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(
            f"no {kind} model can be built so: {reason}", where="pretrain.architecture", fix="correct its fields"
        ) from error
