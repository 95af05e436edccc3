"""Reading labelled and plain text from files, packages and the Hub, checking it, and encoding it for a model."""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "DataSettings": "luthier.data.settings",
    "TaskSchema": "luthier.data.schemas",
    "TaskData": "luthier.data.loading",
    "load_data": "luthier.data.loading",
    "source_fingerprint": "luthier.data.fingerprint",
    "encode": "luthier.data.encoding",
    "make_collator": "luthier.data.collating",
    "encode_rows": "luthier.data.encoding",
    "LengthBucketSampler": "luthier.data.sampling",
    "ShuffledStream": "luthier.data.streaming",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
