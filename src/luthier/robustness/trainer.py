"""RoAST in front of transformers' Trainer."""

from __future__ import annotations

from transformers import Trainer

from luthier.objectives.mixin import ObjectiveMixin
from luthier.robustness.settings import RoastSettings


class RoastMixin(ObjectiveMixin):
    """The objective mixin with RoAST as its default."""

    default_objective = RoastSettings


class RoastTrainer(RoastMixin, Trainer):
    """transformers' Trainer with RoAST (Kim et al., Findings of EMNLP 2023).

    `RoastTrainer(model=..., args=..., train_dataset=..., objective=RoastSettings(alpha=0.6, beta=1.0))`.
    """
