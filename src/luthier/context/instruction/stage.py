"""The `instruct` stage: a causal language model learns to answer questions about long documents of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pydantic import Field, create_model

from luthier.context.instruction.settings import InstructionSettings
from luthier.context.paper import LONG_CONTEXT
from luthier.registry import METHODS, STAGES, one_of
from luthier.settings import Paper
from luthier.stages.artifacts import MODEL_FIELD, Port, Reference
from luthier.stages.base import MODEL, Stage, StageInputs

GENERATOR = "generator"


@STAGES.register
class Instruct(InstructionSettings, Stage):
    """Instruction tuning on long documents with questions and answers that a model wrote about parts of them."""

    name: ClassVar[str] = "instruct"
    summary: ClassVar[str] = "tune a language model on questions about long documents, which a model asks and answers"
    paper: ClassVar[Paper | None] = LONG_CONTEXT
    ports: ClassVar[Mapping[str, Port]] = {
        MODEL: Port(("pretrained",), about="a causal language model, with a chat template or without"),
        GENERATOR: Port(("pretrained",), optional=True, about="what asks and answers; else the model itself"),
    }
    products: ClassVar[Mapping[str, tuple[str, ...]]] = {MODEL: ("pretrained",)}
    scores_by_step: ClassVar[bool] = True
    runs: ClassVar[str] = "luthier.context.instruction.run:run_instruction"
    merges_adapters: ClassVar[bool] = True
    plans: ClassVar[str] = "luthier.context.instruction.planning:plan_instruction"

    model: Reference = Field(None, description=MODEL_FIELD)
    generator: Reference = Field(
        None,
        description="The model that writes questions and answers, written as `model` is; null is the model as it comes "
        "in. Behind an endpoint it has no effect.",
    )

    @classmethod
    def resolved(cls) -> type[Stage]:
        about = "Tuning method: its name, or a mapping with its settings; one that adds no positions to the text."
        fields: dict[str, Any] = {"method": (one_of(METHODS), Field("full", description=about))}
        built = create_model("Instruct", __base__=cls, __module__=__name__, **fields)
        return built

    def takes(self) -> dict[str, Port]:
        """The model, and the one that writes where the recipe names one."""
        found = {MODEL: self.ports[MODEL]}
        if self.generator is not None:
            found[GENERATOR] = Port(self.ports[GENERATOR].kinds, about=self.ports[GENERATOR].about)
        return found

    def misfit(self, kinds: Mapping[str, str], data: Any, language_head: Callable[[str], str]) -> str:
        for port in (MODEL, GENERATOR):
            head = language_head(port) if port in kinds else ""
            if head not in ("", "causal_lm"):
                return f"it works with models that write text from left to right, and `{port}` has the head {head}"
        return ""

    def filled_in(self) -> Instruct:
        return self.model_copy(update={"learning_rate": self.rate()})

    def external_inputs(self, inputs: StageInputs) -> dict[str, str]:
        from luthier.data.sources.fingerprint import source_fingerprint

        short = {} if self.short is None else {"short": source_fingerprint(self.short)}
        return self.documents_read() | short | self.method.file_fingerprints()

    def documents_read(self) -> dict[str, str]:
        """Fingerprints of the documents, those held out among them."""
        from luthier.language_modeling.documents import Corpus

        texts = {"documents": self.documents.train, "held out": self.documents.validation}
        return {name: Corpus(one, self.documents).fingerprint() for name, one in texts.items() if one}

    def check(self, inputs: StageInputs) -> None:
        from luthier.context.instruction.planning import check_instruction

        check_instruction(self)
