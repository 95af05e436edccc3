"""What can be wrong with a `lengthen` stage, found before anything runs and without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.context.rope import rope_of
from luthier.context.rope_report import config_place
from luthier.errors import ModelError, RecipeError
from luthier.language_modeling.documents import check_corpora
from luthier.models.tensors import read_json

if TYPE_CHECKING:
    from luthier.context.stage import Lengthen
    from luthier.stages.base import StageInputs


def check_lengthening(stage: Lengthen, inputs: StageInputs) -> None:
    """Look at the first document of each text, and at the rotary embedding of a model that is there.

    Raises:
        DataError: a text can't be read.
        ModelError: the model has no rotary embedding, or the settings do not fit its heads.
        RecipeError: two kinds of attention are asked for.
    """
    check_corpora(*stage.corpus.by_name.values())
    artifact = inputs.artifacts["model"]
    if stage.document_attention == "varlen" and artifact.model.attention not in ("auto", "sdpa"):
        raise RecipeError(
            f"`document_attention: varlen` is SDPA, and the model's `attention` is {artifact.model.attention}",
            where="lengthen.document_attention",
            fix="leave the model's `attention` out, or leave out `document_attention`",
        )
    if artifact.stands_in or (artifact.key and not artifact.folder.is_dir()):
        return
    place = config_place(artifact.model)
    if not place.is_file():
        return  # a saved adapter: its base is looked at when it is loaded
    rope = rope_of(read_json(place), artifact.model.reference)
    try:
        stage.rope.parameters(rope, stage.length)
    except ValueError as error:
        raise ModelError(str(error), where="lengthen.rope", fix="correct it") from None
