"""A component of spaCy's pipelines: `nlp.add_pipe("luthier_sinet", config={"model": "runs/own"})`. Needs the extra
`spacy`, which also makes the component known to spaCy; elsewhere import this module first.

Words are spaCy's tokens, blanks left out. Found entities are `doc.spans["sc"]`, with their scores, as they may overlap,
and `doc.ents` the surest of those that don't. Relations are `doc._.relations`, a list of {type, head, tail, score}: its
ends are places in these spans, and `doc._.rel`, the form of spaCy's tutorial on relations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc, Span

from luthier.extraction.formats.spacy_docbin import SPANS, relations_by_words

NAME = "luthier_sinet"
RELATIONS = "relations"


class SinetComponent:
    """Tells entities and relations of docs with a trained model.

    Args:
        model: a run, cell, stage or model directory; a `JointExtractionPipeline` is taken as it is.
        spans_key: of `doc.spans`.
        set_ents: put the surest entities that do not overlap into `doc.ents`, too.
        batch_size: windows in one forward pass.
    """

    def __init__(self, model: Any, *, spans_key: str = SPANS, set_ents: bool = True, batch_size: int = 16) -> None:
        from luthier.extraction.pipeline import JointExtractionPipeline, load_pipeline

        self.tell = model if isinstance(model, JointExtractionPipeline) else load_pipeline(model)
        self.spans_key, self.set_ents, self.batch_size = spans_key, set_ents, batch_size
        for name in (RELATIONS, "rel"):
            if not Doc.has_extension(name):
                Doc.set_extension(name, default=None)

    def __call__(self, doc: Doc) -> Doc:
        return next(self.pipe([doc]))

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Docs with what is told of them, in their order.

        Args:
            stream: of docs.
            batch_size: docs that are looked at together.
        """
        docs = iter(stream)
        while some := list(islice(docs, batch_size)):
            words = [[token.i for token in doc if not token.is_space] for doc in some]
            asked = [{"tokens": [doc[i].text for i in kept]} for doc, kept in zip(some, words, strict=True) if kept]
            told = iter(self.tell(asked, batch_size=self.batch_size))
            for doc, kept in zip(some, words, strict=True):
                self._annotate(doc, kept, next(told) if kept else {"entities": [], "relations": []})
                yield doc

    def _annotate(self, doc: Doc, words: list[int], told: dict[str, Any]) -> None:
        entities, relations = told["entities"], told["relations"]
        spans = [Span(doc, words[e["start"]], words[e["end"] - 1] + 1, label=e["type"]) for e in entities]
        doc.spans[self.spans_key] = spans
        doc.spans[self.spans_key].attrs["scores"] = [one["score"] for one in entities]
        if self.set_ents:
            taken, free = list[Span](), set(range(len(doc)))
            for i in sorted(range(len(spans)), key=lambda i: -entities[i]["score"]):
                if free >= (held := set(range(spans[i].start, spans[i].end))):
                    free -= held
                    taken.append(spans[i])
            doc.set_ents(taken)
        doc._.set(RELATIONS, relations)
        doc._.set("rel", relations_by_words(spans, relations))


@Language.factory(
    NAME,
    assigns=["doc.ents", "doc.spans"],
    default_config={"spans_key": SPANS, "set_ents": True, "batch_size": 16},
)
def make_component(
    nlp: Language, name: str, model: str, spans_key: str, set_ents: bool, batch_size: int
) -> SinetComponent:
    """The component as spaCy makes it from a pipeline's configuration."""
    return SinetComponent(model, spans_key=spans_key, set_ents=set_ents, batch_size=batch_size)
