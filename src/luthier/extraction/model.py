"""SINET on any encoder (Luo et al., LREC-COLING 2024, section 3).

Shapes: B sentences, T word pieces, W words, d width, S candidate spans, G annotated entities, N annotated relations,
P entities whose pairs are looked at, E entity types and none, Q relation types.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_MAPPING,
    AutoModel,
    AutoModelForTextEncoding,
    PreTrainedModel,
)
from transformers import initialization as init

from luthier.extraction.config import SinetConfig
from luthier.extraction.heads import EntityClassifier, RelationClassifier, WidthEmbedding
from luthier.extraction.interaction import Sentence, TaskInteraction, TaskStates
from luthier.extraction.losses import Annotated, Unknown, comparable, entity_losses, precise, relation_losses
from luthier.extraction.options import ExtractionHead
from luthier.extraction.output import ExtractionOutput
from luthier.extraction.pooling import SpanPooling
from luthier.extraction.spans import Spans, candidates, marked, sentence_seeds
from luthier.extraction.table import (
    RelationTable,
    TableHead,
    entity_cells,
    entity_table_losses,
    relation_table_losses,
    with_none,
)
from luthier.extraction.types import Types

DEVIATION = 0.02


def encoder_class(config: Any) -> Any:
    """The Auto class that makes an encoder: of a model with a decoder, that of its encoder alone where transformers has
    one, as for T5."""
    alone = type(config).is_encoder_decoder and type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING
    return AutoModelForTextEncoding if alone else AutoModel


def encoder_arguments(config: Any) -> dict[str, Any]:
    """Arguments that make an encoder without the pooler that nothing here reads."""
    made = MODEL_MAPPING[type(config)]
    made = made[0] if isinstance(made, tuple) else made
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(made).parameters else {}


class SinetForJointExtraction(PreTrainedModel):
    """Tells the entities of a text and how they are related.

    Args:
        config: with the encoder's configuration and the names of the types.
        encoder: one that is loaded already; None makes a new one.
    """

    config_class = SinetConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    entity_head: EntityClassifier | TableHead
    relation_head: RelationClassifier | RelationTable | None

    def __init__(self, config: SinetConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        options, types, width = config.head_options, config.types, config.encoder.hidden_size
        self.options = options
        made = encoder or encoder_class(config.encoder).from_config(config.encoder, **encoder_arguments(config.encoder))
        self.encoder = made
        self.interaction = TaskInteraction(options, width)
        if options.heads == "table":
            self.entity_head = TableHead(options, width, len(types.entities))
            self.relation_head = RelationTable(options, width, len(types.relations)) if types.relations else None
        else:
            self._make_span_heads(options, width, types)
        if encoder is not None:
            for part in encoder.modules():
                part._is_hf_initialized = True  # what is loaded is not drawn anew
        self.post_init()

    def _make_span_heads(self, options: ExtractionHead, width: int, types: Types) -> None:
        self.span_pooling = SpanPooling(options.pooling, width)
        self.widths = WidthEmbedding(options.width_embedding) if options.width_embedding else None
        span = self.span_pooling.size
        self.entity_head = EntityClassifier(options, width, span, 1 + len(types.entities))
        wanted = options.sentence_in_relations
        sentence = options.interaction != "none" if wanted is None else wanted
        self.relation_head = (
            RelationClassifier(options, width, span, len(types.relations), sentence) if types.relations else None
        )

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            init.normal_(module.weight, 0.0, DEVIATION)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, RelationClassifier | RelationTable):
            init.constant_(module.threshold, self.options.threshold)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Any = None,
        position_ids: Tensor | None = None,
        word_start: Tensor | None = None,
        word_end: Tensor | None = None,
        text_mask: Tensor | None = None,
        entity_words: Tensor | None = None,
        entity_types: Tensor | None = None,
        relations: Tensor | None = None,
        unknown_words: Tensor | None = None,
        unknown_pairs: Tensor | None = None,
        unknown_types: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        labels: Any = None,
    ) -> ExtractionOutput:
        """Args:
            input_ids: (B, T); or `inputs_embeds`, (B, P + T, d) with a prompt in front.
            attention_mask: (B, P + T).
            word_start, word_end: (B, W) first piece of every word and the one behind its last, in the T positions;
                -1 behind the last word.
            text_mask: (B, T), pieces that are no padding; it has to be given with a prompt in front. None takes the end
                of the attention mask, and all pieces without one.
            entity_words: (B, G, 2) annotated entities, each span once, -1 for none; None without annotations.
            entity_types: (B, G), from 1.
            relations: (B, N, 3) annotated (head, tail, type), indices of entities and of the type from 0; -1 for none.
            unknown_words: (B, W), words of which nothing is known; this and the next two together, or None where all
                is annotated.
            unknown_pairs: (B, M, 2) entities, head and tail, that may be related; -1 for none.
            unknown_types: (B, E - 1 + Q), types that were not looked for, those of entities first.

        Returns:
            In training the loss and the logits it is of; in evaluation also what is told of the text.
        """
        if word_start is None or word_end is None:
            raise ValueError("word_start and word_end say which pieces are a word")
        inputs = {
            "input_ids": input_ids,
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "past_key_values": past_key_values,
            "position_ids": position_ids,
        }
        states: Tensor = self.encoder(**{k: v for k, v in inputs.items() if v is not None}).last_hidden_state
        if text_mask is None:
            width = states.shape[1]
            text_mask = states.new_ones(len(states), width) if attention_mask is None else attention_mask[:, -width:]
        text = text_mask.bool()
        states = states[:, -text.shape[1] :]
        sentence = self._sentence(text, word_start)
        tasks: TaskStates = self.interaction(states, sentence)
        if self.options.context_from == "relation":
            states = tasks.relation
        spans, places = candidates(word_start, word_end, self.options.max_span_size, entity_words)
        cells = self._entity_logits(tasks, spans)
        logits = with_none(cells) if self.options.heads == "table" else cells
        out = ExtractionOutput(entity_logits=logits, span_words=spans.words, span_valid=spans.valid)
        annotated = None
        if entity_words is not None and entity_types is not None and relations is not None:
            annotated = Annotated(places, entity_types, relations, spans)
            if unknown_words is not None and unknown_pairs is not None and unknown_types is not None:
                kinds = unknown_types.split([len(self.config.types.entities), len(self.config.types.relations)], dim=1)
                annotated.unknown = Unknown(unknown_words, unknown_pairs, *kinds)
            if isinstance(self.entity_head, TableHead):
                self._learn_table(out, cells, annotated, tasks, word_start)
            else:
                self._learn(out, logits, annotated, states, tasks, spans)
        by_span = self.options.heads == "span" and self.options.train_pairs == "gold"
        out["logits"] = comparable(logits, spans.valid, out.pair_logits if by_span else None, annotated)
        if not self.training:
            self._tell(out, logits, states, tasks, spans)
        return out

    def _sentence(self, text: Tensor, word_start: Tensor) -> Sentence:
        first = text.int().argmax(dim=1)
        wanted = self.options.sentence_vector
        has_first = word_start[:, 0] > first if wanted == "auto" else torch.full_like(text[:, 0], wanted == "first")
        return Sentence(text if self.options.mask_padding else torch.ones_like(text), text, first, has_first)

    def _entity_logits(self, tasks: TaskStates, spans: Spans) -> Tensor:
        if isinstance(self.entity_head, TableHead):
            return entity_cells(self.entity_head, tasks.entity, tasks.entity_sentence, spans)
        pooled = self.span_pooling(tasks.entity, *_filled(spans))
        return self.entity_head(tasks.entity_sentence, pooled, self._widths(spans))

    def _pair_logits(self, states: Tensor, tasks: TaskStates, spans: Spans) -> Tensor:
        assert self.relation_head is not None
        if isinstance(self.relation_head, RelationTable):
            return self.relation_head.pairs(tasks.relation, tasks.relation_sentence, spans.start)
        pooled = self.span_pooling(tasks.relation, *_filled(spans))
        logits: Tensor = self.relation_head(states, tasks.relation_sentence, pooled, self._widths(spans), spans)
        return logits

    def _widths(self, spans: Spans) -> Tensor | None:
        return None if self.widths is None else self.widths(spans.width)

    def _learn(
        self,
        out: ExtractionOutput,
        entity_logits: Tensor,
        annotated: Annotated,
        states: Tensor,
        tasks: TaskStates,
        spans: Spans,
    ) -> None:
        """Put the losses of annotated sentences into the output."""
        options, rows = self.options, len(states)
        seeds = sentence_seeds(rows, states.device) if self.training else None
        loss = options.entity_weight * entity_losses(entity_logits, annotated, options.negative_spans, seeds)
        if self.relation_head is not None:
            chosen = annotated.places
            if self.training and options.train_pairs != "gold":
                chosen = self._likely(entity_logits.detach(), spans)[0][:, : options.max_entities]
                if options.train_pairs == "mixed":
                    known = marked(annotated.places, spans.valid.shape[1]).gather(1, chosen.clamp(min=0))
                    chosen = torch.cat([annotated.places, chosen.masked_fill(known, -1)], dim=1)
            entities = spans.at(chosen)
            logits = self._pair_logits(states, tasks, entities)
            out["pair_logits"] = logits
            losses = relation_losses(logits, chosen, entities.valid, annotated, options.negative_pairs, seeds)
            loss = loss + options.relation_weight * losses
        out["row_loss"] = loss
        out["loss"] = loss.mean()

    def _learn_table(
        self, out: ExtractionOutput, cells: Tensor, annotated: Annotated, tasks: TaskStates, word_start: Tensor
    ) -> None:
        """Put the losses of tables into the output, and relations' logits by the first words of head and tail."""
        words = (word_start >= 0).sum(dim=1)
        loss = self.options.entity_weight * entity_table_losses(cells, annotated, words)
        if isinstance(self.relation_head, RelationTable):
            table = self.relation_head.pairs(tasks.relation, tasks.relation_sentence, word_start)
            loss = loss + self.options.relation_weight * relation_table_losses(table, annotated, words)
            out["pair_logits"] = table
        out["row_loss"] = loss
        out["loss"] = loss.mean()

    def _tell(
        self, out: ExtractionOutput, entity_logits: Tensor, states: Tensor, tasks: TaskStates, spans: Spans
    ) -> None:
        """Put what is told of the text into the output."""
        index, scores, types = self._likely(entity_logits, spans)
        entities = spans.at(index)
        out["found_words"] = entities.words.masked_fill(~entities.valid[..., None], -1)
        out["found_types"], out["found_scores"] = types, scores
        if self.relation_head is not None:
            paired = spans.at(index[:, : self.options.max_entities])
            logits = self._pair_logits(states, tasks, paired)
            pairs = paired.valid[:, :, None] & paired.valid[:, None]
            pairs = pairs & ~torch.eye(pairs.shape[1], dtype=torch.bool, device=pairs.device)
            out["found_pairs"] = precise(logits).sigmoid() * pairs[..., None]
            out["threshold"] = precise(self.relation_head.threshold)

    def _likely(self, logits: Tensor, spans: Spans) -> tuple[Tensor, Tensor, Tensor]:
        """The spans that are likeliest an entity of some type, the surest ones first. Longer ones than the limit are
        candidates only where they are annotated, and are not told.

        Returns:
            (B, P) places, -1 for none; their probabilities; their types.
        """
        likely = precise(logits).sigmoid() if self.options.heads == "table" else precise(logits).softmax(dim=-1)
        scores, types = likely.max(dim=-1)
        there = spans.valid & (spans.width <= self.options.max_span_size) & (types > 0)
        scores = scores.masked_fill(~there, -1.0)
        most = int((scores >= 0).sum(1).max()) if scores.numel() else 0
        best, index = scores.topk(most, dim=1)
        found = best >= 0
        return index.masked_fill(~found, -1), best.clamp(min=0), types.gather(1, index).masked_fill(~found, 0)


def _filled(spans: Spans) -> tuple[Tensor, Tensor]:
    """Starts and ends, those of spans that there are not empty."""
    return spans.start, torch.where(spans.valid, spans.end, spans.start)


AutoModel.register(SinetConfig, SinetForJointExtraction, exist_ok=True)
