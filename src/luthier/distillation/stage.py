"""The `distil` stage: models that learn from labels, or from text, and from one another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import Field, ValidationError, create_model, model_validator

from luthier.data.settings import DataSettings
from luthier.data.stated import is_language
from luthier.distillation.edge import Edge, never_begun
from luthier.distillation.settings import Node, NodeName, TextSettings, Update
from luthier.evaluation.fit import check_patience
from luthier.language_modeling.settings import BUDGETS, LanguageTrainingSettings
from luthier.registry import METHODS, OBJECTIVES, STAGES, one_of
from luthier.settings import Paper
from luthier.stages.artifacts import MODEL_FIELD, Port, Reference
from luthier.stages.base import MODEL, Stage, StageInputs
from luthier.training.settings import TrainingSettings, by_steps_where_left_out

DWT = Paper(
    title="A Study on Knowledge Distillation from Weak Teacher for Scaling Up Pre-trained Language Models",
    authors="Lee, Hou, Kim, Liang, Hwang, Min",
    venue="Findings of ACL 2023",
    url="https://arxiv.org/abs/2305.18239",
)
_KINDS = ("pretrained", "task")


@STAGES.register
class Distil(TrainingSettings, Stage):
    """Trains a graph of models: each learns from labels or text, and from those that its edges name."""

    name: ClassVar[str] = "distil"
    summary: ClassVar[str] = (
        "train models that learn from one another: one-way, weak teacher, co-distillation, community"
    )
    paper: ClassVar[Paper | None] = DWT
    ports: ClassVar[Mapping[str, Port]] = {
        MODEL: Port(_KINDS, optional=True, about="what nodes start from that name no model of their own")
    }
    products: ClassVar[Mapping[str, tuple[str, ...]]] = {MODEL: ("task", "pretrained")}
    scores_by_step: ClassVar[bool] = True
    runs: ClassVar[str] = "luthier.distillation.run:run_distilling"
    plans: ClassVar[str] = "luthier.distillation.planning:plan_distilling"

    model: Reference = Field(None, description=MODEL_FIELD)
    data: DataSettings | None = Field(
        None, description="Labelled text that all nodes learn: a set's name, or a mapping with sources and columns."
    )
    text: TextSettings | None = Field(
        None, description="Plain text that they learn as language models, in place of it."
    )
    nodes: dict[NodeName, Any] = Field(min_length=1, description="The models by name.")
    edges: list[Edge] = Field(default_factory=list, description="Who learns from whom.")
    give: str | None = Field(
        None,
        description="The node that goes on to the next stage, that an objective acts on, and whose scores stop "
        "training early; null is the only one that is trained. The other trained nodes are kept beside it, as "
        "`stages.N.NAME`.",
    )
    update: Update = Field(
        "simultaneous",
        description="`simultaneous` updates all nodes at once, from outputs of the same weights. `alternating` updates "
        "them one after another, in the order of `nodes`, each on what those before it have just become (deep mutual "
        "learning); it takes a forward pass more for each edge.",
    )
    same_mask: bool = Field(
        True,
        description="Of masked text: whether all nodes guess the same tokens. False masks a copy for each node, and an "
        "edge compares the tokens that are masked in both copies.",
    )
    objective: Any = None

    @classmethod
    def resolved(cls) -> type[Stage]:
        about = "Tuning method of the node: its name, or a mapping with its settings."
        node: Any = create_model(
            "Node", __base__=Node, __module__=__name__, method=(one_of(METHODS), Field("full", description=about))
        )
        nodes = (dict[NodeName, node], Field(min_length=1, description=cls.model_fields["nodes"].description))
        fields: dict[str, Any] = {"nodes": nodes}
        if OBJECTIVES.names():
            about = "Training objective of the node that is given on; null is the task's own loss."
            fields["objective"] = (one_of(OBJECTIVES) | None, Field(None, description=about))
        built = create_model("Distil", __base__=cls, __module__=__name__, **fields)
        return built

    # -- what the settings have to agree on ----------------------------------------------------------------

    @model_validator(mode="before")
    @classmethod
    def _text_has_no_epochs(cls, given: Any) -> Any:
        text = given.get("text") if isinstance(given, Mapping) else None
        return given if text is None else by_steps_where_left_out(given)

    @model_validator(mode="after")
    def _graph_fits(self) -> Self:
        if (self.data is None) == (self.text is None):
            raise ValueError("give `data` with labels, or plain `text`: one of them")
        for name, node in self.nodes.items():
            self._check_like(name, node)
            if self.gradient_checkpointing and not (node.frozen or node.method.supports_gradient_checkpointing):
                raise ValueError(f"{node.method.name} of the node {name!r} does not work with gradient_checkpointing")
        self._check_edges()
        self._check_given()
        self._check_update()
        if self.text is not None and not self.group_by_length:
            raise ValueError("`group_by_length` has no effect: all blocks of text have one length")
        if self.text is not None and self.objective is not None:
            raise ValueError("an `objective` acts on a task: leave it out, or give `data`")
        if self.text is not None:
            self._check_text()
        if self.data is not None:
            check_patience(self.patience, self.data)
        if self.max_steps is not None and (late := never_begun(self.edges, self.max_steps)):
            raise ValueError(f"{late}: lower its `start_step`")
        return self

    def _check_text(self) -> None:
        try:
            settings = self.language_settings()
            if (given := [name for name in BUDGETS if getattr(settings, name) is not None]) and self.changed("epochs"):
                raise ValueError(f"`epochs` and `{given[0]}` both end the training: keep one of them")
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None

    def _check_like(self, name: str, node: Node) -> None:
        passed = [name]
        while node.like is not None:
            if node.like not in self.nodes:
                raise ValueError(f"the node {name!r} is like {node.like!r}, which is none of {', '.join(self.nodes)}")
            if node.like in passed:
                raise ValueError(f"the nodes {', '.join(passed)} are each like the next one, and none has a `model`")
            passed.append(node.like)
            node = self.nodes[node.like]

    def _check_edges(self) -> None:
        seen: set[str] = set()
        for edge in self.edges:
            for name in (edge.teacher, edge.student):
                if name not in self.nodes:
                    raise ValueError(f"an edge names {name!r}, which is none of the nodes {', '.join(self.nodes)}")
            if self.nodes[edge.student].frozen:
                raise ValueError(f"the node {edge.student!r} is frozen and can't learn from {edge.teacher!r}")
            if edge.name in seen:
                raise ValueError(f"there are two edges from {edge.teacher} to {edge.student}: keep one of them")
            if not edge.stop_gradient and self.nodes[edge.teacher].frozen:
                raise ValueError(f"`stop_gradient: false` has no effect: the teacher {edge.teacher!r} is frozen")
            seen.add(edge.name)
        for name, node in self.nodes.items():
            self._check_stored(name, node)
            own = [edge for edge in self.edges if edge.student == name]
            if node.frozen and not any(edge.teacher == name for edge in self.edges):
                raise ValueError(f"the frozen node {name!r} teaches nobody: give it an edge, or leave it out")
            inherited = [edge for edge in own if edge.weight.kind == "inherit"]
            if inherited and node.hard_weight is not None:
                raise ValueError(f"`hard_weight` of {name!r} follows its inherited edge: leave it out")
            if len(inherited) > 1:
                raise ValueError(f"{name!r} inherits from two nodes, which would leave its own loss less than nothing")

    def _check_stored(self, name: str, node: Node) -> None:
        if node.store is None:
            return
        taught = [edge for edge in self.edges if edge.teacher == name]
        if any(edge.temperature.changes for edge in taught) or len({edge.temperature.start for edge in taught}) > 1:
            raise ValueError(f"outputs of {name!r} are stored at one temperature: give its edges the same constant one")
        if len({edge.positions for edge in taught}) > 1:
            raise ValueError(f"outputs of {name!r} are stored for the same `positions`: give its edges one of them")
        if any(one.like == name for one in self.nodes.values()):
            raise ValueError(f"{name!r} is not loaded where its outputs are stored, and another node is `like` it")
        if self.data is not None and self.data.streaming:
            raise ValueError("`store` keeps the outputs on all rows, and a stream does not end: leave one of them out")
        if self.max_minutes is not None:
            raise ValueError(
                "`store` keeps the outputs on all rows of the run, and `max_minutes` does not say how many"
            )

    def _check_update(self) -> None:
        if self.update == "alternating":
            if len(self.trained) < 2:
                raise ValueError("`update: alternating` has no effect where one node is trained: leave it out")
            if any(not edge.stop_gradient for edge in self.edges):
                raise ValueError(
                    "`stop_gradient: false` moves two nodes at once, and `update: alternating` one at a time: keep one"
                )
            if self.objective is not None:
                raise ValueError("an `objective` does not work with `update: alternating`: leave one of them out")
            if self.precision == "float16":
                raise ValueError("`update: alternating` does not work with float16: use bfloat16 or float32")
        if not self.same_mask:
            if self.text is None or getattr(self.text, "objective", None) == "causal":
                raise ValueError("`same_mask` is about masked text: leave it out")
            if len(self.nodes) < 2:
                raise ValueError("`same_mask: false` has no effect on one node alone: leave it out")
            if any(node.store is not None for node in self.nodes.values()):
                raise ValueError("`store` keeps outputs on the rows that all nodes read: leave `same_mask` out")

    def _check_given(self) -> None:
        if not self.trained:
            raise ValueError("all nodes are frozen, so nothing would learn")
        if self.give is None and len(self.trained) > 1:
            raise ValueError(f"say with `give` which of {', '.join(self.trained)} goes on to the next stage")
        if self.give is not None and self.give not in self.trained:
            raise ValueError(
                f"`give` names {self.give!r}, which is none of the trained nodes {', '.join(self.trained)}"
            )
        if self.objective is not None and self.nodes[self.main].hard_weight is not None:
            raise ValueError(
                f"`hard_weight` of {self.main!r} has no effect beside an objective, which has its own weights"
            )
        if self.objective is not None and any(e.weight.kind == "inherit" for e in self.edges if e.student == self.main):
            raise ValueError(f"{self.main!r} can't inherit beside an objective, which has its own weights")

    # -- the graph -----------------------------------------------------------------------------------------

    @property
    def trained(self) -> list[str]:
        """The nodes that learn."""
        return [name for name, node in self.nodes.items() if not node.frozen]

    def language_settings(self) -> LanguageTrainingSettings:
        """How the text is trained on, as `pretrain` would have it."""
        text: Any = self.text
        own = {name: getattr(text, name) for name in type(text).model_fields}
        shared = {n: getattr(self, n) for n in TrainingSettings.model_fields if n not in ("epochs", "group_by_length")}
        budget = any((own | shared).get(name) is not None for name in BUDGETS)
        return LanguageTrainingSettings(**shared | own | ({} if budget else {"epochs": self.epochs}))

    @property
    def main(self) -> str:
        """The node that goes on."""
        return self.give or self.trained[0]

    def root(self, name: str) -> str:
        """The node whose `model` another one is built from in the end."""
        node = self.nodes[name]
        return name if node.like is None else self.root(node.like)

    # -- the contract of a stage ---------------------------------------------------------------------------

    def takes(self) -> dict[str, Port]:
        """A model for each node that names one, and that of the stages before for those that don't."""
        roots = {self.root(name) for name in self.nodes}
        ports = {f"nodes.{name}": Port(_KINDS, about=f"what the node {name} starts from") for name in sorted(roots)}
        named = {port: one for port, one in ports.items() if self.nodes[port.partition(".")[2]].model is not None}
        rest = {MODEL: Port(_KINDS, about=self.ports[MODEL].about)} if len(named) < len(ports) else {}
        return rest | named

    def place_of(self, port: str) -> tuple[str, ...]:
        return (MODEL,) if port == MODEL else ("nodes", port.partition(".")[2], MODEL)

    def gives(self) -> dict[str, str]:
        """The main node as `model`, and the other trained ones by their names."""
        language = self.text is not None or (self.data is not None and is_language(self.data))
        kind = "pretrained" if language else "task"
        return {MODEL: kind} | {name: kind for name in self.trained if name != self.main}

    def external_inputs(self, inputs: StageInputs) -> dict[str, str]:
        from luthier.data.sources.fingerprint import source_fingerprint

        found: dict[str, str] = {}
        for name in self.trained:
            found |= self.nodes[name].method.file_fingerprints()
        if self.data is not None:
            return found | {"data": source_fingerprint(self.data)}
        from luthier.language_modeling.documents import Corpus

        corpus: Any = self.text.corpus  # type: ignore[union-attr]
        found["text"] = Corpus(corpus.train, corpus).fingerprint()
        return found | ({"held out": Corpus(corpus.validation, corpus).fingerprint()} if corpus.validation else {})

    def check(self, inputs: StageInputs) -> None:
        from luthier.distillation.sources import check_data

        check_data(self, waits=inputs.waits)
