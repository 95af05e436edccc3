"""The table of stages that every check in `test_every_stage.py` runs through: a new stage adds one row.

Models and data are tiny, so that a whole run takes about a second.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Block = dict[str, Any]
STEPS = {"max_steps": 4, "batch_size": 8, "evaluate_every": 2, "checkpoint_every": 1}


@dataclass(frozen=True)
class Sources:
    """Data blocks that a row's stages may use.

    Attributes:
        labelled: texts with a class each.
        text: plain text.
    """

    labelled: Block
    text: Block


def nothing(_sources: Sources) -> list[Block]:
    return []


@dataclass(frozen=True)
class Case:
    """One row: a stage, and what holds for it.

    Attributes:
        name: of the row.
        stage: as recipes call it.
        settings: of the stage, from the data.
        gives: artefacts by name -> kind.
        before: stages that it can follow.
        after: a stage that takes what it gives; None where no stage does, and the next one is refused.
        change: settings that make it run again.
        on: which base model: `encoder` or `decoder`.
        reads_model: whether it starts from the recipe's model.
        answers: what an answer of `luthier predict` holds; empty where the stage gives nothing to ask.
        port: of the stage behind it, which takes what it gives.
    """

    name: str
    stage: str
    settings: Callable[[Sources], Block]
    gives: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[Sources], list[Block]] = nothing
    after: Callable[[Sources], Block] | None = None
    change: Mapping[str, Any] = field(default_factory=dict)
    on: str = "encoder"
    answers: str = "label"
    reads_model: bool = True
    port: str = "model"

    def __str__(self) -> str:
        return self.name

    def block(self, sources: Sources, **changes: Any) -> Block:
        """The stage as a recipe has it."""
        return {self.stage: {**self.settings(sources), **changes}}


def tuned(method: str, data: str = "labelled", **more: Any) -> Callable[[Sources], Block]:
    """Settings of a tune stage."""
    return lambda sources: {"method": method, "data": getattr(sources, data), **STEPS, "learning_rate": 5e-3, **more}


def judged(*suites: str, **more: Any) -> Callable[[Sources], Block]:
    """An evaluate stage."""
    return lambda sources: {"evaluate": {"suites": list(suites), **more}}


def represented(sources: Sources) -> Block:
    train = {key: value for key, value in sources.labelled.items() if key != "test"}
    heads = {key: value for key, value in sources.labelled.items() if key != "validation"}
    return {
        "tasks": {"films": {"data": train}},
        "heads": {"mood": {"data": heads, "l2": 1.0}},
        "prefix": {"prefix_length": 2},
        "pooling": "mean",
        **STEPS,
    }


def pretrained(**more: Any) -> Callable[[Sources], Block]:
    """Settings of a pretrain stage."""

    def settings(sources: Sources) -> Block:
        corpus = {"train": sources.text["train"], "validation": sources.text["validation"], "shuffle": 20}
        return {"corpus": corpus, "length": 16, **STEPS, "learning_rate": 5e-3, "pseudo_perplexity_tokens": 4, **more}

    return settings


def distilled(sources: Sources) -> Block:
    """A frozen teacher, a smaller student that starts from it, and a peer with an adapter that learns from it."""
    return {
        "data": sources.labelled,
        "nodes": {
            "teacher": {"frozen": True},
            "small": {"like": "teacher", "sizes": {"num_hidden_layers": 1}, "init": "remap"},
            "peer": {"method": "lora"},
        },
        "edges": [
            {"teacher": "teacher", "student": "small", "temperature": 2, "scale_by_t2": True},
            {"teacher": "small", "student": "peer", "weight": {"kind": "linear", "start": 4, "end": 1}},
            {"teacher": "peer", "student": "small", "start_step": 1},
        ],
        "give": "small",
        **STEPS,
        "learning_rate": 5e-3,
    }


def co_distilled(sources: Sources) -> Block:
    """Two masked language models that learn a text and each other."""
    corpus = {"train": sources.text["train"], "validation": sources.text["validation"], "shuffle": 20}
    return {
        "text": {"corpus": corpus, "objective": "masked", "length": 16, "pseudo_perplexity_tokens": 4},
        "nodes": {"small": {}, "large": {"like": "small", "sizes": {"num_hidden_layers": 3}}},
        "edges": [{"teacher": "small", "student": "large"}, {"teacher": "large", "student": "small"}],
        "give": "large",
        **STEPS,
        "learning_rate": 5e-3,
    }


def lengthened(sources: Sources) -> Block:
    """A mixture of two domains, in rows that become longer, documents apart from each other."""
    return {
        "corpus": {
            "train": sources.text["train"],
            "validation": sources.text["validation"],
            "shuffle": 20,
            "domains": {"more": {"train": sources.text["test"], "held_out": 0, "weight": 0.5}},
        },
        "length": 64,
        "curriculum": [{"length": 32, "share": 0.5}],
        "document_mask": "block",
        **STEPS,
        "batch_size": 2,
        "learning_rate": 5e-3,
    }


def instructed(sources: Sources) -> Block:
    """Sentences in pairs, with questions of a model whose texts keep to the form, and these sentences as instructions
    once more."""
    from tests.context.instruction.conftest import CHAIN, chained, tokenizer

    generator = Path(sources.text["train"]).parent / "generator"
    if not generator.exists():
        chained(CHAIN).save_pretrained(generator)
        tokenizer().save_pretrained(generator)
        rows = Path(sources.text["validation"]).read_text().splitlines()
        short = "".join(json.dumps({"prompt": row, "response": "fine"}) + "\n" for row in rows)
        (generator.parent / "short.jsonl").write_text(short)
    return {
        "generator": str(generator),
        "documents": {"train": sources.text["train"], "join": 2, "held_out": 0.3},
        "writing": {"chunk_tokens": 16, "max_new_tokens": 12, "temperature": 0},
        "short": {"train": str(generator.parent / "short.jsonl"), "task": "prompt_response"},
        **STEPS,
        "batch_size": 2,
        "learning_rate": 5e-3,
    }


def text_of(sources: Sources) -> Block:
    """The plain text as that of two languages."""
    return {"languages": {"aa": sources.text["train"], "bb": sources.text["validation"]}}


def vocabulary(sources: Sources) -> Block:
    """Two languages, each a cluster."""
    return {
        "text": text_of(sources),
        "size": 60,
        "language_pieces": 30,
        "cluster": {"count": 2},
        "capacity": {"step": 5, "least": 25, "most": 30},
        "trainer": {"seed_pieces": 1000},
    }


def redteamed(sources: Sources) -> Block:
    """One round against a model whose texts are random, judged by single words."""
    steps = {name: value for name, value in STEPS.items() if name != "evaluate_every"} | {"learning_rate": 5e-3}
    rules = {"kind": "rules", "refusals": ["fine"]}
    return {
        "seeds": {"file": sources.text["train"], "limit": 8},
        "held_out": {"file": sources.text["test"], "limit": 6},
        "near_duplicate": 0.95,
        "rounds": 1,
        "judges": {
            "safety": {**rules, "unsafe": ["awful", "dull", "cold"], "otherwise": 0.9},
            "helpfulness": {**rules, "aim": "helpfulness", "enough_words": 4},
            "cut_off": "judge",
        },
        "attacks": {"max_new_tokens": 8, "novelty": None},
        "answers": {"max_new_tokens": 8, "rejection_temperatures": [0.6, 0.9]},
        "adversary": steps,
        "target": steps,
        "evaluation": {"transfer": False, "final_attacks": False},
    }


TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
CASES = [
    Case(
        "tune-task",
        "tune",
        tuned("full"),
        gives={"model": "task"},
        after=judged("task"),
        change={"learning_rate": 1e-3},
    ),
    Case(
        "tune-language",
        "tune",
        tuned("lora", "text"),
        gives={"model": "pretrained"},
        after=lambda sources: {"evaluate": {"suites": ["perplexity"], "data": sources.text}},
        change={"max_steps": 2},
        on="decoder",
        answers="response",
    ),
    Case(
        "tune-adapter-on",
        "tune",
        tuned("lora", continue_adapter=True),
        gives={"model": "task"},
        before=lambda sources: [{"tune": tuned("lora")(sources)}],
        after=judged("task"),
        change={"max_steps": 2},
    ),
    Case(
        "evaluate",
        "evaluate",
        lambda sources: {"suites": ["task", "calibration"], "data": sources.labelled},
        before=lambda sources: [{"tune": tuned("head_only")(sources)}],
        after=lambda sources: {"tune": tuned("bitfit")(sources)},
        change={"split": "validation"},
    ),
    Case(
        "pretrain-masked",
        "pretrain",
        pretrained(cloze="english", masking={"whole_words": True}),
        gives={"model": "pretrained"},
        after=lambda sources: {"evaluate": {"suites": ["pseudo_perplexity"], "data": sources.text}},
        change={"length": 24},
        answers="pseudo_perplexity",
    ),
    Case(
        "pretrain-causal",
        "pretrain",
        pretrained(),
        gives={"model": "pretrained"},
        after=lambda sources: {"evaluate": {"suites": ["perplexity"], "data": sources.text}},
        change={"max_steps": 2},
        on="decoder",
        answers="response",
    ),
    Case(
        "pretrain-scratch",
        "pretrain",
        pretrained(architecture={"model_type": "bert", **TINY}, tokenizer={"vocabulary": 100}),
        gives={"model": "pretrained"},
        after=lambda sources: {"tune": tuned("full")(sources)},
        change={"masking": {"rate": 0.3}},
        answers="pseudo_perplexity",
        reads_model=False,
    ),
    Case(
        "pretrain-on",
        "pretrain",
        pretrained(),
        gives={"model": "pretrained"},
        before=lambda sources: [{"tune": tuned("full")(sources)}],
        after=lambda sources: {"tune": tuned("full")(sources)},
        change={"max_steps": 2},
        answers="pseudo_perplexity",
    ),
    Case(
        "glue",
        "glue",
        lambda sources: {"tasks": [], "more": {"films": sources.labelled}, "seeds": 1, **STEPS, "learning_rate": 5e-3},
        before=lambda sources: [{"tune": tuned("head_only")(sources)}],
        after=lambda sources: {"tune": tuned("bitfit")(sources)},
        change={"max_steps": 2},
    ),
    Case(
        "lengthen",
        "lengthen",
        lengthened,
        gives={"model": "pretrained"},
        after=lambda sources: {"evaluate": {"suites": ["perplexity"], "data": sources.text}},
        change={"document_mask": "none"},
        on="decoder",
        answers="response",
    ),
    Case(
        "instruct",
        "instruct",
        instructed,
        gives={"model": "pretrained"},
        after=lambda sources: {"evaluate": {"suites": ["perplexity"], "data": sources.text}},
        change={"input_loss_weight": 0.5},
        on="decoder",
        answers="response",
    ),
    Case(
        "represent",
        "represent",
        represented,
        gives={"model": "encoder"},
        before=lambda sources: [{"tune": tuned("bitfit")(sources)}],
        change={"normalise": True},
        answers="heads",
    ),
    Case(
        "distil-task",
        "distil",
        distilled,
        gives={"model": "task", "peer": "task"},
        before=lambda sources: [{"tune": tuned("full")(sources)}],
        after=judged("task"),
        change={"max_steps": 2},
    ),
    Case(
        "distil-text",
        "distil",
        co_distilled,
        gives={"model": "pretrained", "small": "pretrained"},
        after=lambda sources: {"tune": tuned("full")(sources)},
        change={"max_steps": 2},
        answers="pseudo_perplexity",
    ),
    Case(
        "vocabulary",
        "vocabulary",
        vocabulary,
        gives={"tokenizer": "tokenizer"},
        after=lambda sources: {"transplant": {"tokenizer": "stages.0"}},
        change={"size": 50},
        answers="",
        reads_model=False,
        port="tokenizer",
    ),
    Case(
        "transplant",
        "transplant",
        lambda sources: {"prune": {"text": text_of(sources)}, "init": "copy"},
        gives={"model": "pretrained"},
        after=lambda sources: {"evaluate": {"suites": ["perplexity"], "data": sources.text}},
        change={"init": "mean"},
        on="decoder",
        answers="response",
    ),
    Case(
        "redteam",
        "redteam",
        redteamed,
        gives={"model": "pretrained"},
        before=lambda sources: [{"tune": tuned("lora", "text")(sources)}],
        after=lambda sources: {"evaluate": {"suites": ["perplexity"], "data": sources.text}},
        change={"max_length": 512},
        on="decoder",
        answers="response",
    ),
]
