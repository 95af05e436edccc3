"""What a training job over a graph of models is made of, as parts of an objective.

Shapes: B examples, L positions, N rows that are compared, V classes or tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from luthier.distillation.divergences import divergence
from luthier.distillation.edge import Edge
from luthier.distillation.schedules import Schedule, share_done
from luthier.errors import ModelError
from luthier.objectives.part import Part
from luthier.objectives.step import MAIN, Step, logits_of, predicts_next_token
from luthier.storage.jsonlines import JsonLog
from luthier.storage.ranks import gathered, is_main


class Term(Part):
    """A weighted term of the loss, whose mean over steps is told to the log.

    Args:
        learner: what the job calls the model that it is for.
    """

    def __init__(self, learner: str) -> None:
        self.learner = learner
        self.weight = 1.0
        self._sum: Tensor | float = 0.0
        self._from = 0

    def value(self, step: Step) -> Tensor:
        """The term before it is weighted: this process's share of the optimiser step's."""
        raise TypeError(f"{type(self).__name__} does not define value()")

    def acts(self, step: Step) -> bool:
        """Whether it counts in this pass: it has a weight, and its learner is not held still for another one's turn."""
        return self.weight != 0 and any(p.requires_grad for p in step.models[self.learner].parameters())

    def loss(self, step: Step) -> Tensor | None:
        if not self.acts(step):
            return None
        value = self.value(step)
        self.count(step.weight * value.detach())
        return self.weight * value

    def count(self, value: Tensor) -> None:
        """Take a batch's share into the mean that is told."""
        self._sum = self._sum + value

    def mean(self, step: int) -> float:
        """The mean since it was last asked for, at an optimiser step; all processes ask together."""
        shares = gathered(float(self._sum))
        found = sum(shares) / len(shares) / max(1, step - self._from)
        self._sum, self._from = 0.0, step
        return found

    def told(self) -> dict[str, float]:
        """Numbers of now that go to the log beside the mean."""
        return {}

    def state_dict(self, trainer: Any) -> dict[str, Any]:
        return {"sum": float(self._sum), "from": self._from}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sum, self._from = state["sum"], state["from"]


class HardLoss(Term):
    """A model's own task loss, by a weight that may change (equation 3: alpha_h H).

    Args:
        node: its name.
        place: what the job calls it.
        weight: None is 1, less the inherited weights among `edges`.
        edges: those that the model learns by.
    """

    def __init__(self, node: str, place: str, weight: Schedule | None, edges: Iterable[Edge] = ()) -> None:
        super().__init__(place)
        self.name, self.place, self.schedule = f"loss of {node}", place, weight
        self.inherited = [edge for edge in edges if edge.weight.kind == "inherit"]
        self.gives_main_loss = place == MAIN

    def step_begin(self, trainer: Any) -> None:
        done = share_done(trainer)
        own = 1.0 if self.schedule is None else self.schedule.at(done)
        self.weight = own - sum(edge.weight_at(trainer.state.global_step, done) for edge in self.inherited)

    def value(self, step: Step) -> Tensor:
        return step.of(self.place).loss

    def told(self) -> dict[str, float]:
        constant = not self.inherited and (self.schedule is None or not self.schedule.changes)
        return {} if constant else {f"weight of {self.name}": self.weight}


class SoftLoss(Term):
    """What a model learns by an edge (equations 2 and 3: alpha_s S).

    Args:
        edge: from teacher to student.
        places: node -> what the job calls it.
    """

    def __init__(self, edge: Edge, places: Mapping[str, str]) -> None:
        super().__init__(places[edge.student])
        self.edge, self.name = edge, edge.name
        self.teacher, self.student = places[edge.teacher], places[edge.student]
        self.temperature = 1.0

    def step_begin(self, trainer: Any) -> None:
        done = share_done(trainer)
        self.weight = self.edge.weight_at(trainer.state.global_step, done)
        self.temperature = self.edge.temperature.at(done)

    def value(self, step: Step) -> Tensor:
        learner, teacher = self._rows(step, self.student), self._rows(step, self.teacher)
        if learner.shape != teacher.shape:
            raise ModelError(
                f"the two models of the edge {self.edge.name} tell {tuple(learner.shape)} and {tuple(teacher.shape)} "
                "(rows, classes) of one batch, which can't be compared",
                fix="let both have the same settings of the head, as `max_span_size` and `heads` of joint extraction",
            )
        total = divergence(
            learner,
            teacher,
            temperature=self.temperature,
            direction=self.edge.kl_direction,
            stop_gradient=self.edge.stop_gradient,
        )
        return self.scaled(step, total, len(step.of(self.student).rows))

    def scaled(self, step: Step, total: Tensor, items: int) -> Tensor:
        """This process's share of the term, of a sum over rows.

        The items are those of the hard loss, whichever rows are compared, so that weights mean the same.
        """
        return step.over_examples(self.factor() * total, max(1, items), "mean")

    def factor(self) -> float:
        """What a sum of divergences is multiplied with, beside the weight."""
        return self.temperature**2 if self.edge.scale_by_t2 else 1.0

    def told(self) -> dict[str, float]:
        found = {f"weight of {self.name}": self.weight} if self._weight_changes else {}
        return found | ({f"temperature of {self.name}": self.temperature} if self.edge.temperature.changes else {})

    @property
    def _weight_changes(self) -> bool:
        return self.edge.weight.changes or bool(self.edge.start_step or self.edge.teacher_stop_step)

    def _rows(self, step: Step, place: str) -> Tensor:
        passed = step.of(place)
        if self.edge.positions == "masked":
            return passed.rows
        shifted = predicts_next_token(step.trainer)
        return rows_of_tokens(logits_of(passed.outputs), step.batch["attention_mask"], shifted=shifted)


def rows_of_tokens(logits: Tensor, mask: Tensor, *, shifted: bool) -> Tensor:
    """The logits at every token, (N, V), in at least float32.

    Args:
        logits: (B, P + L, V) with P prompt positions in front.
        mask: (B, L), 1 at tokens.
        shifted: whether position t predicts token t + 1; then the last token of a text predicts none.
    """
    mask = mask.bool().to(logits.device)
    logits = logits[:, logits.shape[1] - mask.shape[1] :]
    if shifted:
        logits, mask = logits[:, :-1], mask[:, :-1] & mask[:, 1:]
    rows = logits[mask]
    return rows if rows.dtype == torch.float64 else rows.float()


class NodeClipping(Part):
    """Every model's gradient is scaled down to a norm of its own, not to one over all of them.

    Args:
        norms: what the job calls the model -> largest norm; 0 never clips.

    Attributes:
        found: the norm of each model's last gradient, before it was clipped.
    """

    def __init__(self, norms: Mapping[str, float]) -> None:
        self.norms = dict(norms)
        self.found: dict[str, Tensor] = {}

    def after_backward(self, trainer: Any) -> None:
        scaler = trainer.accelerator.scaler
        scale = scaler.get_scale() if scaler is not None else 1.0
        for place, most in self.norms.items():
            moved = [p for p in trainer.models[place].parameters() if p.grad is not None]
            if moved:
                self.found[place] = nn.utils.get_total_norm([p.grad for p in moved if p.grad is not None]) / scale
            if most and moved:
                nn.utils.clip_grads_with_norm_(moved, most * scale, self.found[place] * scale)


class TermLog(TrainerCallback):
    """Writes the terms' means to a run's log, whenever the trainer writes its loss.

    Args:
        parts: of the job.
        places: node -> what the job calls it.
        log: where to; only the main process writes.
    """

    def __init__(self, parts: Sequence[Part], places: Mapping[str, str], log: JsonLog) -> None:
        self.terms = [term for part in parts for term in getattr(part, "terms", [part]) if isinstance(term, Term)]
        self.clipping = [part for part in parts if isinstance(part, NodeClipping)]
        self.places, self.log = dict(places), log

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        found: dict[str, float] = {}
        for term in self.terms:
            found |= {term.name: term.mean(state.global_step), **term.told()}
        for clipping in self.clipping:
            norms = {name: clipping.found.get(place) for name, place in self.places.items()}
            found |= {f"gradient norm of {name}": float(norm) for name, norm in norms.items() if norm is not None}
        if is_main():
            self.log.write("terms", step=state.global_step, epoch=state.epoch, **found)
