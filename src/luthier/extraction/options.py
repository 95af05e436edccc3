"""What a recipe can choose of a joint extraction head; every field is one of `SinetConfig`."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, model_validator

from luthier.settings import Settings

Interaction = Literal["cls_cross", "none", "cls_self", "token_cross", "partition"]


class ExtractionHead(Settings):
    """SINET's head on any encoder; the defaults are the paper's."""

    interaction: Interaction = Field(
        "cls_cross",
        description="How the two tasks see each other: cls_cross, the paper's, lets each task's sentence vector attend "
        "to the other task's tokens; cls_self to its own; token_cross lets all tokens attend to the other task's; "
        "partition is PFN's recurrent cell; none is SpERT.",
    )
    heads: Literal["span", "table"] = Field(
        "span",
        description="How entities and relations are classified: span, the paper's and SpERT's; table is PFN's, which "
        "learns from all cells and knows no pooling, no widths, no negatives that are drawn and no `train_pairs`.",
    )
    direction: Literal["both", "ner_from_re", "re_from_ner"] = Field(
        "both", description="Which task is informed by the other one."
    )
    share_attention: bool = Field(True, description="One attention module for both directions.")
    attention_heads: int = Field(4, gt=0, description="Heads of the interaction's attention.")
    attention_dropout: float = Field(0.2, ge=0, lt=1, description="Dropout of its weights and of its output.")
    own_vector_in_keys: bool = Field(True, description="A sentence vector attends to itself, too.")
    interaction_layers: int = Field(1, gt=0, description="How often the interaction is repeated.")
    task_projection: bool | None = Field(
        None, description="Project the encoder's output for each task; null does unless `interaction` is none."
    )
    projection_bias: bool = Field(False, description="The projections have a bias.")
    projection_activation: Literal["none", "gelu", "relu", "tanh"] = Field(
        "none", description="What follows the projections."
    )
    context_from: Literal["encoder", "relation"] = Field(
        "encoder", description="What the words between two entities are pooled from: the encoder's output, or RE's."
    )
    sentence_vector: Literal["auto", "first", "mean"] = Field(
        "auto",
        description="What stands for a sentence: the first token, or the mean over all; auto takes the first where it "
        "stands before the first word.",
    )
    sentence_in_relations: bool | None = Field(
        None, description="The relation head sees the sentence vector; null has it do so unless `interaction` is none."
    )
    width_embedding: int = Field(25, ge=0, description="Size of the embedding of a span's words; 0 leaves it out.")
    pooling: Literal["max", "mean", "endpoints", "attention"] = Field(
        "max", description="How the word pieces of a span become one vector."
    )
    head_dropout: float = Field(0.1, ge=0, lt=1, description="Dropout before the two classifiers.")
    max_span_size: int = Field(10, gt=0, description="Words of the longest span that is looked at.")
    negative_spans: int = Field(100, ge=0, description="Spans without an entity that a sentence is trained on, drawn.")
    negative_pairs: int = Field(100, ge=0, description="Pairs without a relation that it is trained on, drawn.")
    train_pairs: Literal["gold", "predicted", "mixed"] = Field(
        "gold", description="Whose pairs relations are learned from: entities as annotated, as predicted, or both."
    )
    entity_weight: float = Field(1.0, ge=0, description="Weight of the entity loss.")
    relation_weight: float = Field(1.0, ge=0, description="Weight of the relation loss.")
    threshold: float = Field(0.5, gt=0, lt=1, description="Score from which on a relation is told.")
    tune_thresholds: bool = Field(
        True, description="Choose the threshold of every relation type on the validation rows, after training."
    )
    max_entities: int = Field(
        64, gt=1, description="Entities of a sentence whose pairs are looked at, the surest ones; all are told."
    )
    pair_chunk: int = Field(1000, gt=0, description="Pairs whose words between are pooled at once, in evaluation.")
    mask_padding: bool = Field(
        True, description="false attends to padding as the released code does: scores then depend on the batch."
    )

    @property
    def projects(self) -> bool:
        """Whether the encoder's output is projected for each task."""
        wanted = self.task_projection
        return self.interaction != "partition" and (self.interaction != "none" if wanted is None else wanted)

    @model_validator(mode="after")
    def _settings_have_an_effect(self, info: ValidationInfo) -> Self:
        if info.context != SAVED and (found := without_effect(self)):
            told = ", ".join(f"`{name}`" for name in found)
            verb = "have" if len(found) > 1 else "has"
            heads = f"`heads: {self.heads}` and " if found.keys() & set(_SPAN_HEADS) else ""
            raise ValueError(f"{told} {verb} no effect with {heads}`interaction: {self.interaction}`: leave it out")
        return self


# The context in which settings of a saved model are read: one that was written before some of them were refused.
SAVED = "saved"
_ATTENTION = ("cls_cross", "cls_self", "token_cross")
_SPAN_HEADS = (
    *("pooling", "width_embedding", "negative_spans", "negative_pairs", "train_pairs"),
    *("context_from", "sentence_in_relations", "pair_chunk"),
)
_OF_ATTENTION = (
    *("direction", "share_attention", "attention_heads", "attention_dropout"),
    *("own_vector_in_keys", "interaction_layers", "mask_padding"),
)


def without_effect(options: ExtractionHead) -> dict[str, Any]:
    """Settings that differ from their defaults and that nothing reads, given the others."""
    idle: list[str] = []
    projects = options.projects
    if options.heads == "table":
        idle += _SPAN_HEADS
    if options.interaction not in _ATTENTION:
        idle += _OF_ATTENTION
    elif options.interaction == "token_cross":
        idle += ["own_vector_in_keys"]
    if options.direction != "both":
        idle += ["share_attention"]
    if not projects:
        idle += ["projection_bias", "projection_activation"]
    if options.interaction == "partition":
        idle += ["task_projection", "sentence_vector"]
    elif options.interaction == "none" and not projects:
        idle += ["context_from"]
    fields = ExtractionHead.model_fields
    values = {name: getattr(options, name) for name in idle}
    return {name: value for name, value in values.items() if value not in (fields[name].default, None)}
