"""The contract of a stage: what it takes, what it gives, how it is planned and run."""

from __future__ import annotations

from luthier.stages.base import Kind, Stage, StageInputs, StageOutputs, StagePlan, metrics_record

__all__ = ["Kind", "Stage", "StageInputs", "StageOutputs", "StagePlan", "metrics_record"]
