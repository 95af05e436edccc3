"""One training step as the parts of an objective see it: passes through the model, and how their terms add up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from luthier.objectives.divergence import comparable_rows, counted_labels, symmetric_divergence
from luthier.objectives.perturbation import Change, Probe, intervene
from luthier.objectives.scope import base_and_trunk
from luthier.tasks.running.next_token import own_loss_shifts

if TYPE_CHECKING:
    from luthier.objectives.part_list import PartList

_Sum = TypeVar("_Sum", Tensor, float)
# The model that an objective acts on, among all models of a run.
MAIN = "model"
# What runs one of the models on a batch: (model as the trainer passes it, batch, name) -> task loss, outputs.
TaskPass = Callable[[nn.Module, dict[str, Any], str], tuple[Tensor, Any]]


@dataclass(frozen=True)
class Pass:
    """One forward pass.

    Attributes:
        loss: the task loss, scaled as the trainer wants it.
        outputs: what the model returned.
        rows: (N, C) logits that count.
    """

    loss: Tensor
    outputs: Any
    rows: Tensor


class Step:
    """The batch at hand.

    Args:
        trainer: whose step it is.
        model: as the trainer passes it, wrapped for distributed runs.
        inputs: the batch; kept as `batch`, while `inputs` is what the main model is shown of it.
        items: labelled items of the whole optimiser step, or None.
        task_pass: runs a model and computes the trainer's own loss.
        parts: of the run, which say how passes of the main model are run.
        weight: of the whole batch; 0 where it only fills a pass in which this process has no row.
    """

    def __init__(
        self,
        trainer: Any,
        model: nn.Module,
        inputs: dict[str, Any],
        items: Tensor | float | None,
        task_pass: TaskPass,
        parts: PartList,
        weight: float = 1.0,
    ) -> None:
        self.trainer, self.model, self.items, self.weight = trainer, model, items, weight
        self.inputs = attending_to_padding(inputs) if parts.attends_to_padding else inputs
        self.batch, self._task_pass = inputs, task_pass
        self._dropout = RandomState() if parts.shares_dropout else None
        self._others: dict[str, Pass] = {}
        self.latest: Pass | None = None

    @property
    def models(self) -> dict[str, nn.Module]:
        """All models of the run by name; `model` is the main one."""
        models: dict[str, nn.Module] = self.trainer.models
        return models

    @cached_property
    def clean(self) -> Pass:
        """The unperturbed pass of the main model, run once however many parts ask for it."""
        return self.run()

    def of(self, name: str) -> Pass:
        """The unperturbed pass of the model with that name, run once however many parts ask for it.

        A model without trainable parameters is run without gradients, and was put in evaluation mode by the trainer.
        """
        if name == MAIN:
            return self.clean
        if name not in self._others:
            trained = any(p.requires_grad for p in self.models[name].parameters())
            with nullcontext() if trained else torch.no_grad():
                loss, outputs = self._task_pass(self.model, dict(self.batch), name)
                self._others[name] = Pass(loss, outputs, self.rows_of(outputs))
        return self._others[name]

    def run(
        self, sites: list[nn.Module] | None = None, change: Change | None = None, *, companion: bool = False
    ) -> Pass:
        """A forward pass of the main model with its task loss; `change` acts on the output of the `sites`.

        A `companion` shares its backward pass with a pass before it, and goes around the wrapper of distributed runs:
        that one takes parameters without a part in the pass it saw last (embeddings that are held still) as finished.
        """
        model = self.model
        if companion and isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        if self._dropout is not None:
            self._dropout.restore()
        with intervene(sites, change) if sites and change is not None else nullcontext():
            loss, outputs = self._task_pass(model, dict(self.inputs), MAIN)
        self.latest = Pass(loss, outputs, self.rows_of(outputs))
        return self.latest

    def rows_of(self, outputs: Any) -> Tensor:
        """The logits that count, (N, C)."""
        labels, mask = self.batch.get("labels"), self.batch.get("attention_mask")
        return comparable_rows(logits_of(outputs), labels, shifted=self._shifted, mask=mask)

    def counted_labels(self) -> Tensor:
        """The labels of those rows, (N,)."""
        logits = logits_of(self.clean.outputs)
        positions = logits.shape[1] if isinstance(logits, Tensor) and logits.ndim == 3 else None
        return counted_labels(self.inputs["labels"], positions, shifted=self._shifted)

    def probe(self, sites: list[nn.Module], probe: Probe, target: Tensor | None) -> Tensor:
        """The gradient of the task loss, or of the divergence from `target`, with respect to what `probe` adds.

        Parameters are frozen meanwhile, so the pass keeps no activations for their gradients.
        """
        with self._frozen_parameters(), self.trainer.accelerator.no_sync(self.model):
            passed = self.run(sites, probe)
            value = passed.loss if target is None else symmetric_divergence(passed.rows, target)
            return self.gradients(value, [probe.moved])[0]

    def probe_clean(self, sites: list[nn.Module]) -> tuple[Tensor, Tensor]:
        """The clean pass's embeddings, detached, and the gradient of its task loss with respect to them."""
        kept: list[Tensor] = []

        def keep(e: Tensor) -> Tensor:
            kept.append(e if e.requires_grad else e.detach().requires_grad_())
            return kept[0]

        self.__dict__["clean"] = self.run(sites, keep)
        with self.trainer.accelerator.no_sync(self.model):
            return kept[0].detach(), self.gradients(self.clean.loss, kept, again=True)[0]

    def gradients(self, value: Tensor, leaves: Sequence[Tensor], *, again: bool = False) -> list[Tensor]:
        """d value / d leaves, through the loss scaler under float16; zeros where a leaf has no part in it.

        `again` keeps the graph for a later backward pass.
        """
        scaler = self.trainer.accelerator.scaler
        scale = scaler.get_scale() if scaler is not None else 1.0
        found = torch.autograd.grad(value * scale, list(leaves), allow_unused=True, retain_graph=again)
        return [torch.zeros_like(x) if g is None else g / scale for g, x in zip(found, leaves, strict=True)]

    def undisturbed(self, draw: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
        """`draw(like)`, without moving the generator on when passes have to drop the same units."""
        if self._dropout is None:
            return draw(like)
        here = RandomState()
        drawn = draw(like)
        here.restore()
        return drawn

    def over_examples(self, total: _Sum, rows: int, reduction: Literal["sum", "mean"]) -> _Sum:
        """Scale a sum over this batch's rows so that the optimiser step sees the sum or mean over all its rows.

        The trainer either wants losses that are shares of the whole step, or per-batch means that it divides by the
        batches of a step itself. Gradients are averaged over processes.
        """
        world = self.trainer.args.world_size
        if self._is_share and self.items is not None:
            return total * world if reduction == "sum" else total * world / (self.items * self._rows_per_item)
        return total * self._batches * world if reduction == "sum" else total / rows

    def once(self, value: Tensor) -> Tensor:
        """Scale a term that does not depend on the batch so that an optimiser step sees it once."""
        return value / self._batches if self._is_share else value

    def backward(self, loss: Tensor) -> None:
        """Add a part of the loss's gradient now, before the trainer's own backward pass."""
        with self.trainer.accelerator.no_sync(self.model):
            self.trainer.accelerator.backward(self.weight * (loss if self._is_share else loss / self._batches))

    @cached_property
    def _shifted(self) -> bool:
        return predicts_next_token(self.trainer)

    @property
    def _rows_per_item(self) -> int:
        """Decisions for each labelled item: two where an answer has a start and an end."""
        passed = self.latest or next(iter(self._others.values()), None)
        return 2 if passed is not None and isinstance(logits_of(passed.outputs), tuple) else 1

    @property
    def _is_share(self) -> bool:
        return bool(self.trainer.loss_is_scaled_for_ga) or self.trainer.compute_loss_func is not None

    @property
    def _batches(self) -> int:
        return int(getattr(self.trainer, "current_gradient_accumulation_steps", 1))

    @contextmanager
    def _frozen_parameters(self) -> Iterator[None]:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        for p in trained:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in trained:
                p.requires_grad_(True)


def predicts_next_token(trainer: Any) -> bool:
    """Whether the trainer's loss scores position t against the label at t + 1.

    A trainer with an attribute `shifted` says so itself. For any other, the loss is the model's own.
    """
    if (shifted := getattr(trainer, "shifted", None)) is not None:
        return bool(shifted)
    return own_loss_shifts(base_and_trunk(trainer.main_model)[0])


def logits_of(outputs: Any) -> Any:
    """Logits of a model's output, of whatever kind; a pair of them for extractive answers."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, dict):
        return outputs["logits"] if "logits" in outputs else (outputs["start_logits"], outputs["end_logits"])
    return outputs


def attending_to_padding(inputs: dict[str, Any]) -> dict[str, Any]:
    """The batch with every position attended to, as in RoAST's released code (section 8, item 2)."""
    mask = inputs.get("attention_mask")
    return inputs if mask is None else {**inputs, "attention_mask": torch.ones_like(mask)}


class RandomState:
    """The state of torch's generators, to come back to."""

    def __init__(self) -> None:
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)

    def moved(self) -> bool:
        """Whether anything has been drawn since."""
        now = RandomState()
        pairs = zip([self.cpu, *self.cuda], [now.cpu, *now.cuda], strict=True)
        return not all(torch.equal(before, after) for before, after in pairs)
