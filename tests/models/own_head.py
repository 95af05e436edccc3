"""A head of somebody else's package: two classifiers on one body, as a room would bring it."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import BertConfig, BertModel, BertPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.auto.auto_factory import _BaseAutoModelClass

from luthier.models.head_kinds import register_head


class BertForTwoAnswers(BertPreTrainedModel):
    """Logits (B, 2) and (B, 3) from the first token, side by side."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.first, self.second = nn.Linear(config.hidden_size, 2), nn.Linear(config.hidden_size, 3)
        self.post_init()

    def forward(self, **batch: Any) -> SequenceClassifierOutput:
        state = self.bert(**batch).last_hidden_state[:, 0]
        return SequenceClassifierOutput(logits=nn.functional.pad(self.first(state), (0, 3)) + self._padded(state))

    def _padded(self, state: Any) -> Any:
        return nn.functional.pad(self.second(state), (2, 0))


class AutoModelForTwoAnswers(_BaseAutoModelClass):
    _model_mapping = {BertConfig: BertForTwoAnswers}


register_head("two_answers", f"{__name__}:AutoModelForTwoAnswers", peft_task_type="SEQ_CLS")
