"""Task-specific prefixes for fixed text representations (Huang et al., Findings of EMNLP 2023).

`TaskPrefixConfig` trains one prefix for one task with the model frozen; `SharedEncoder` combines any set of them into
one representation that many light heads read. Importing this package makes `TaskPrefixConfig` known to PEFT.
"""

from __future__ import annotations

from luthier.tuning.peft_registration import register_tuner
from luthier.tuning.task_prefix.config import TaskPrefixConfig
from luthier.tuning.task_prefix.tuner import TaskPrefixModel, activate_prefixes, fold_task_prefix

__all__ = ["TaskPrefixConfig", "TaskPrefixModel", "activate_prefixes", "fold_task_prefix"]

register_tuner("task_prefix", TaskPrefixConfig, TaskPrefixModel, prefix="task_prefix_")
