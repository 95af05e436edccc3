"""What a language model predicts from: the hidden vectors of the positions that count, in front of the vocabulary.

A model's own forward pass makes logits of every position, of shape (batch, length, vocabulary). Here the vectors of the
positions that count are picked out between the model's body and its head, the head's layers run on these alone, and
the last projection is left to who computes the loss.

Shapes: B texts, L tokens, N positions that count, H hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from luthier.data.schemas import IGNORED
from luthier.errors import ModelError
from luthier.language_modeling.chunked_loss import chunked_cross_entropy, projected
from luthier.language_modeling.in_place import lookup_in_place
from luthier.language_modeling.sampled_loss import sampled_cross_entropy
from luthier.models.inspect import base_of

_ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-6}


@dataclass(frozen=True)
class PredictionRows:
    """The predicted positions of a batch, in the order of texts and positions.

    Attributes:
        hidden: (N, H), what the output embeddings are multiplied with.
        weight: (V, H), the output embeddings.
        bias: (V,), or None.
        targets: (N,) token ids.
        in_place: whether gradients of the embeddings are added to theirs directly.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    targets: Tensor
    in_place: bool = False

    def losses(self, dtype: torch.dtype | None = None) -> Tensor:
        """(N,) negative log-likelihoods in nats; see `chunked_cross_entropy`."""
        return chunked_cross_entropy(
            self.hidden, self.weight, self.targets, self.bias, dtype=dtype, in_place=self.in_place
        )

    def sampled_losses(self, samples: int, dtype: torch.dtype | None = None) -> Tensor:
        """(N,) estimates of these from drawn tokens; see `sampled_cross_entropy`."""
        return sampled_cross_entropy(
            self.hidden, self.weight, self.targets, self.bias, samples=samples, dtype=dtype, in_place=self.in_place
        )

    def detached(self) -> PredictionRows:
        """The same numbers, as constants."""
        bias = None if self.bias is None else self.bias.detach()
        return PredictionRows(self.hidden.detach(), self.weight.detach(), bias, self.targets)

    def logits(self) -> Tensor:
        """(N, V) in float32, all at once."""
        return projected(self.hidden, self.weight, self.bias, self.hidden.dtype)


def predicted_positions(labels: Tensor, *, shifted: bool) -> Tensor:
    """Which positions of a batch make a prediction that counts, (B, L).

    Args:
        labels: (B, L), -100 where nothing is learned.
        shifted: whether position t predicts token t + 1, as in a causal language model.
    """
    counted = labels.ne(IGNORED)
    if not shifted:
        return counted
    return torch.cat([counted[:, 1:], torch.zeros_like(counted[:, :1])], dim=1)


def prediction_rows(
    model: nn.Module,
    labels: Tensor,
    *,
    shifted: bool,
    run: Callable[[], Any] | None = None,
    inputs: Mapping[str, Tensor] | None = None,
    in_place: bool = False,
) -> PredictionRows:
    """Run a model and keep the hidden vectors of the positions that count.

    Args:
        model: with a language-model head; an adapter on it may be around it.
        labels: (B, L), -100 where nothing is learned.
        shifted: whether position t predicts token t + 1.
        run: runs the model and returns its logits, where something is around it, such as a wrapper of distributed
            runs; default runs it on `inputs`.
        inputs: of the model's forward.
        in_place: whether gradients of input and output embeddings are added to theirs directly; see
            `luthier.language_modeling.in_place`.

    Raises:
        ModelError: the model's head is of another form; see `check_head`.
    """
    counted = predicted_positions(labels, shifted=shifted)
    targets = labels[:, 1:][counted[:, :-1]] if shifted else labels[counted]
    decoder = output_embeddings(model)
    lookup = lookup_in_place(base_of(model).get_input_embeddings()) if in_place else nullcontext()
    with _in_place_of_logits(model, counted), lookup:
        rows = run() if run is not None else model(**(inputs or {})).logits
    return PredictionRows(rows.reshape(-1, rows.shape[-1]), decoder.weight, decoder.bias, targets, in_place)


def output_embeddings(model: nn.Module) -> nn.Linear:
    """The last projection, of weight (V, H).

    Raises:
        ModelError: the model has no such layer.
    """
    decoder = base_of(model).get_output_embeddings()
    decoder = getattr(decoder, "original_module", decoder)
    if not isinstance(decoder, nn.Linear) or type(decoder).forward is not nn.Linear.forward:
        raise ModelError(
            f"{type(base_of(model)).__name__} has no projection onto a vocabulary that could be found",
            fix="take a model with a masked or causal language-model head",
        )
    return decoder


@contextmanager
def _in_place_of_logits(model: nn.Module, counted: Tensor) -> Iterator[None]:
    """Inside the block the model gives as its `logits` the (1, N, H) hidden vectors of the counted positions."""
    base = base_of(model)
    decoder = output_embeddings(model)

    def pick(_module: nn.Module, _arguments: Any, outputs: Any) -> Any:
        hidden = outputs.last_hidden_state
        outputs["last_hidden_state"] = hidden[counted.to(hidden.device)][None]
        return outputs

    handle = base.base_model.register_forward_hook(pick)
    decoder.forward = partial(_unprojected, decoder)  # type: ignore[method-assign]
    try:
        yield
    finally:
        handle.remove()
        del decoder.forward


def _unprojected(decoder: nn.Linear, hidden: Tensor) -> Tensor:
    unprojected: Tensor = _Unprojected.apply(hidden, decoder.weight, decoder.bias)
    return unprojected


class _Unprojected(torch.autograd.Function):
    """The hidden vectors, in a graph that the projection's parameters are part of: a wrapper of distributed runs takes
    those that are in no output's graph as unused, and the loss uses them behind it."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient, None, None


def check_head(model: nn.Module) -> None:
    """See on two short texts that hidden vectors and output embeddings give the logits of the model's own forward.

    Raises:
        ModelError: they do not, since the head changes its logits after the projection, mixes positions, or has
            positions of a prompt in front.
    """
    was_training = model.training
    parameter = next(model.parameters())
    ids = torch.arange(1, 9, device=parameter.device).remainder(len(output_embeddings(model).weight)).reshape(2, 4)
    labels = torch.full_like(ids, IGNORED)
    labels[0, 1] = labels[1, 0] = labels[1, 3] = 1
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    model.eval()
    try:
        with torch.no_grad():
            logits = model(**inputs).logits
            if logits.shape[1] != ids.shape[1]:
                raise ModelError(
                    f"the model gives {logits.shape[1]} outputs for {ids.shape[1]} tokens: its tuning method puts "
                    "vectors before the text, which losses of text can't tell from it",
                    fix="take `full`, `lora` or another method that does not",
                )
            expected = logits[labels.ne(IGNORED)].float()
            found = prediction_rows(model, labels, shifted=False, inputs=inputs).logits()
    except (AttributeError, KeyError, TypeError, RuntimeError) as error:
        raise _odd_head(model, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    finally:
        model.train(was_training)
    if not logits_agree(found, expected, parameter.dtype):
        raise _odd_head(model, "its logits are no linear function of single hidden vectors")


def logits_agree(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether logits that ought to be the same are so, to the rounding of the weights' type; those of a new model are
    small, so that they are held against their own size."""
    tolerance = _ROUNDING.get(dtype, 0.05) * float(expected.abs().max())
    return found.shape == expected.shape and float((found - expected).abs().max()) <= tolerance


def _odd_head(model: nn.Module, reason: str) -> ModelError:
    return ModelError(
        f"the loss of {type(base_of(model)).__name__} can't be computed over a part of the vocabulary: {reason}",
        fix="take another architecture, such as bert, roberta, gpt2 or llama",
    )
