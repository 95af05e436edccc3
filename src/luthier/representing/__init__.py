"""Task-specific prefixes for fixed text representations (Huang et al., Findings of EMNLP 2023).

`TaskPrefixConfig` trains one prefix for one task with the model frozen; `SharedEncoder` combines any set of them into
one representation that many light heads read.
"""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "SharedEncoder": "luthier.representing.shared_encoder",
    "TaskPrefixConfig": "luthier.representing.tuner",
    "TaskPrefixModel": "luthier.representing.tuner",
    "activate_prefixes": "luthier.representing.tuner",
    "fold_task_prefix": "luthier.representing.tuner",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
