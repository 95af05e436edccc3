"""Reading labelled and plain text from files, packages and the Hub, checking it, and encoding it for a model."""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "DataSettings": "luthier.data.settings",
    "TaskSchema": "luthier.data.schemas",
    "TaskData": "luthier.data.task_data",
    "load_data": "luthier.data.loading",
    "source_fingerprint": "luthier.data.sources.fingerprint",
    "encode": "luthier.data.batches.encoding",
    "make_collator": "luthier.data.batches.collating",
    "encode_rows": "luthier.data.batches.encoding",
    "LengthBucketSampler": "luthier.data.batches.sampling",
    "ShuffledStream": "luthier.data.batches.stream",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
