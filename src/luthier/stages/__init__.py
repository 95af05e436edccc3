"""The contract of a stage: what it takes, what it gives, how it is planned and run."""

from __future__ import annotations

from luthier.stages.artifacts import Artifact, ArtifactKind, Port, Reference, register_kind
from luthier.stages.base import Stage, StageInputs, StageOutputs, StagePlan, metrics_record

__all__ = [
    "Artifact",
    "ArtifactKind",
    "Port",
    "Reference",
    "Stage",
    "StageInputs",
    "StageOutputs",
    "StagePlan",
    "metrics_record",
    "register_kind",
]
