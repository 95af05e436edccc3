"""From documents to samples, step by step: what was done is found again, and a stopped step goes on.

Source: Xiong et al., “Effective Long-Context Scaling of Foundation Models” (NAACL 2024), section 4.1.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.context.instruction import wording
from luthier.context.instruction.documents import Chunk, LongDocument, chunks_of, long_documents
from luthier.context.instruction.samples import Sample, sample_of, tokens_around
from luthier.context.instruction.settings import DocumentSettings, WritingSettings
from luthier.errors import DataError
from luthier.generation.asking import Asking
from luthier.generation.records import Record, read_records, write_records
from luthier.generation.writing import Request, seed_of
from luthier.models.settings import ModelSettings
from luthier.storage.files import reporting_failed_writes
from luthier.storage.steps import Step, Workspace

_VERDICT_TOKENS = 8


@dataclass(frozen=True)
class Synthesis:
    """What becomes of documents.

    Attributes:
        samples: that are learned, and that are held out.
        folder: of the last step, with `samples.jsonl`.
        counts: what was left after each step, in order.
    """

    samples: list[Sample]
    folder: Path
    counts: Mapping[str, int]

    @property
    def learned(self) -> list[Sample]:
        return [one for one in self.samples if not one.held_out]

    @property
    def held_out(self) -> list[Sample]:
        return [one for one in self.samples if one.held_out]


class Synthesising:
    """Asks a model for questions and answers about parts of documents.

    Args:
        documents, writing: the settings.
        model: that writes.
        tokenizer: of the model that is trained, which parts and samples are measured with.
        length: tokens of a sample.
        workspace: where steps are kept.
        key: of all that they depend on, which is less than the stage does.
        seed: of all draws.
    """

    def __init__(
        self,
        documents: DocumentSettings,
        writing: WritingSettings,
        model: ModelSettings,
        tokenizer: Any,
        length: int,
        *,
        workspace: Workspace,
        key: str,
        seed: int,
    ) -> None:
        self.documents, self.writing, self.model, self.tokenizer = documents, writing, model, tokenizer
        self.length, self.workspace, self.key, self.seed = length, workspace, key, seed
        self.asking = Asking(workspace.folder)

    def run(self) -> Synthesis:
        """All steps.

        Raises:
            DataError: the documents can't be read, or no sample comes of them.
            ModelError: the writing model can't be used.
            WorkspaceError: an endpoint's budget is spent, or the folder can't be written.
        """
        cut = self._step("chunks", self._cut)
        chunks = [Chunk(**one) for one in read_records(cut.folder / "chunks.jsonl")]
        asked = self._kept("questions", lambda work: self._ask(work, chunks))
        pairs = [one for one in read_records(asked.folder / "questions.jsonl") if not one["dropped"]]
        kept = pairs
        counts = {**cut.result, "with question and answer": len(pairs)}
        if self.writing.verify:
            checked = self._kept("verdicts", lambda work: self._verify(work, chunks, pairs))
            verdicts = {one["id"]: one["verdict"] for one in read_records(checked.folder / "verdicts.jsonl")}
            kept = [one for one in pairs if verdicts[one["id"]] == "yes"]
            counts["found right"] = len(kept)
        self.asking.models.release()
        made = self._step("samples", lambda work: self._make(work, cut.folder, chunks, kept))
        samples = [Sample(**one) for one in read_records(made.folder / "samples.jsonl")]
        counts["samples"] = len(samples)
        if not any(not one.held_out for one in samples):
            raise DataError(
                "no sample came of the documents: " + ", ".join(f"{n} {name}" for name, n in counts.items()),
                where=", ".join(self.documents.train),
                fix="read `questions.jsonl` and `verdicts.jsonl` in the stage's folder; a larger `generator`, other "
                "`writing` settings or longer samples may help",
            )
        return Synthesis(samples, made.folder, counts)

    def _step(self, name: str, work: Any, *, shared: bool = False) -> Step:
        return self.workspace.step(name, {"synthesis": self.key, "step": name}, work, shared=shared)

    def _kept(self, name: str, work: Any) -> Step:
        """A step in which a model writes: other runs find its texts, which lie in this one's folder to be read."""
        step = self._step(name, work, shared=True)
        place = self.workspace.folder / name
        if step.folder != place:
            with reporting_failed_writes(place):
                place.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(step.folder / f"{name}.jsonl", place / f"{name}.jsonl")
        return step

    # -- the steps -----------------------------------------------------------------------------------------------

    def _cut(self, work: Workspace) -> dict[str, Any]:
        """Documents, and the parts of them that fit in a sample beside question and answer."""
        w = self.writing
        room = self.length - w.max_new_tokens - max(tokens_around(self.tokenizer, kind) for kind in ("normal", "short"))
        if room < w.chunk_tokens:
            raise DataError(
                f"samples of {self.length:,} tokens leave {max(0, room):,} for the document, and its parts have "
                f"{w.chunk_tokens:,}",
                fix="raise `length`, or lower `writing.chunk_tokens` or `writing.max_new_tokens`",
            )
        documents = list(long_documents(self.documents))
        chunks = [
            chunk
            for one in documents
            for chunk in chunks_of(
                one,
                self.tokenizer,
                tokens=w.chunk_tokens,
                room=room,
                count=w.chunks,
                short_share=w.short_share,
                seed=self.seed,
            )
        ]
        write_records(work.folder / "documents.jsonl", [one.to_json() for one in documents])
        write_records(work.folder / "chunks.jsonl", [one.to_json() for one in chunks])
        return {"documents": len(documents), "parts": len(chunks)}

    def _ask(self, work: Workspace, chunks: Sequence[Chunk]) -> dict[str, Any]:
        """A question and its answer for every part."""
        w = self.writing
        requests = [
            Request(
                one.id,
                wording.asked_for_a_pair(one.text, one.kind),
                temperature=w.temperature,
                top_p=w.top_p,
                seed=seed_of(self.seed, "question", one.id),
                begins=wording.BEGINS,
                chat=w.chat,
            )
            for one in chunks
        ]
        written = self._write(work.folder / "written.jsonl", requests, "questions", w.max_new_tokens)
        kinds = {one.id: one.kind for one in chunks}
        found = [self._read(one, kinds[one["id"]]) for one in written]
        write_records(work.folder / "questions.jsonl", found)
        return {"questions": sum(not one["dropped"] for one in found)}

    def _read(self, record: Record, kind: str) -> Record:
        pair = wording.pair_in(record["text"])
        question, answer = pair or ("", "")
        reason = "" if pair else "no question and answer in their tags"
        if pair and kind == "short" and len(answer.split()) > self.writing.short_words:
            reason = "the short answer is long"
        generator = getattr(self.writing.backend, "model", None) or self.model.reference
        told = {"kind": kind, "question": question, "answer": answer, "dropped": reason, "generator": generator}
        return {"id": record["id"], **told, "text": record["text"], "sampling": record["sampling"]}

    def _verify(self, work: Workspace, chunks: Sequence[Chunk], pairs: Sequence[Record]) -> dict[str, Any]:
        """What the model says of its own answers."""
        texts = {one.id: one.text for one in chunks}
        requests = [
            Request(
                one["id"],
                wording.asked_for_a_verdict(texts[one["id"]], one["question"], one["answer"]),
                temperature=0.0,
                seed=seed_of(self.seed, "verdict", one["id"]),
                chat=self.writing.chat,
            )
            for one in pairs
        ]
        written = self._write(work.folder / "written.jsonl", requests, "verdicts", _VERDICT_TOKENS)
        found = [{"id": one["id"], "verdict": wording.verdict_in(one["text"]), "text": one["text"]} for one in written]
        write_records(work.folder / "verdicts.jsonl", found)
        return {verdict: sum(one["verdict"] == verdict for one in found) for verdict in ("yes", "no", "unclear")}

    def _make(self, work: Workspace, cut: Path, chunks: Sequence[Chunk], kept: Sequence[Record]) -> dict[str, Any]:
        """Samples of what is left; one whose part does not stay inside the cut document is none."""
        documents = {one["id"]: LongDocument(**one) for one in read_records(cut / "documents.jsonl")}
        by_id = {one.id: one for one in chunks}
        made = [
            sample_of(
                documents[by_id[one["id"]].document],
                by_id[one["id"]],
                one["question"],
                one["answer"],
                self.tokenizer,
                self.length,
            )
            for one in kept
        ]
        samples = [one for one in made if one is not None]
        write_records(work.folder / "samples.jsonl", [one.to_json() for one in samples])
        return {"samples": len(samples), "outside": len(made) - len(samples)}

    def _write(self, place: Path, requests: Sequence[Request], about: str, most: int) -> list[Record]:
        def writer() -> Any:
            return self.asking.writer_of(self.writing.backend, self.model, about)

        return self.asking.write(place, requests, writer, most, {})
