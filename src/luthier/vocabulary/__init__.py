"""Vocabularies for many languages: from raw text to one tokenizer, and to a model that uses it."""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "NativeTokenizer": "luthier.models.native_tokenizer",
    "allocate_capacity": "luthier.vocabulary.allocation",
    "average_log_probability": "luthier.vocabulary.log_probability",
    "build_vocabulary": "luthier.vocabulary.building",
    "cluster_languages": "luthier.vocabulary.clustering",
    "extend_tokenizer": "luthier.vocabulary.surgery",
    "lexical_fingerprints": "luthier.vocabulary.fingerprints",
    "load_encoder": "luthier.vocabulary.tokenizer_files",
    "measure_tokenizer": "luthier.vocabulary.measuring",
    "merge_vocabularies": "luthier.vocabulary.merging",
    "prune_tokenizer": "luthier.vocabulary.surgery",
    "transplant_embeddings": "luthier.vocabulary.transplanting",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
