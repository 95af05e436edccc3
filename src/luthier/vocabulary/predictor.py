"""What answers for a model without a head that got another vocabulary: nothing, and it says so."""

from __future__ import annotations

from luthier.models.predictor import Predictor
from luthier.registry import PREDICTORS


@PREDICTORS.register
class TransplantedEncoder(Predictor):
    """An encoder whose checkpoint has no head that could answer; `tune` or `pretrain` gives it one."""

    name = "transplant"
    made_by = "a transplant stage, of an encoder without a head,"
    why_not_exported = "it is a whole model, which any library loads from its folder"
    instead_of_export = "use the folder itself"
