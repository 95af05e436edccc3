"""Joint extraction of entities and relations: span models with cross-task attention (SINET, LREC-COLING 2024),
and what it reads and tells: annotation files, checks, scores, mistakes, pages.

`SinetForJointExtraction` is a transformers model on any encoder; the task `joint_extraction` has recipes train it.
"""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "Types": "luthier.extraction.types",
    "check_documents": "luthier.extraction.checking",
    "read_documents": "luthier.extraction.formats.files",
    "write_documents": "luthier.extraction.formats.files",
    "score_extractions": "luthier.extraction.scoring",
    "find_mistakes": "luthier.extraction.mistakes",
    "corpus_statistics": "luthier.extraction.statistics",
    "write_view": "luthier.extraction.view.page",
    "write_graph": "luthier.extraction.view.graph",
    "AutoModelForJointExtraction": "luthier.extraction.auto",
    "JointExtractionPipeline": "luthier.extraction.pipeline",
    "load_pipeline": "luthier.extraction.pipeline",
    "SinetConfig": "luthier.extraction.config",
    "SinetForJointExtraction": "luthier.extraction.model",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
