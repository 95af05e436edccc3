"""Perturbing a model's embeddings through one forward hook.

Shapes: B examples, L tokens, H width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from luthier.errors import TrainingError
from luthier.models.inspect import base_of, input_embeddings

if TYPE_CHECKING:
    from luthier.objectives.step import Step

Norm = Literal["linf_token", "l2_token", "sign", "l2_example"]
NoiseKind = Literal["one_sided", "symmetric", "normal"]
Change = Callable[[Tensor], Tensor]
TINY = 1e-8


def embedding_sites(model: nn.Module, perturb_after: str = "auto") -> list[nn.Module]:
    """The modules whose output is perturbed; the first that a forward pass reaches counts.

    Args:
        model: a transformers or PEFT model.
        perturb_after: `embedding_block` is the module that ends with the embeddings' normalisation and dropout
            (with ELECTRA's projection behind it), `word_embedding` the word vectors, `auto` the first where the
            model has one. Of an encoder-decoder, the encoder's.

    Raises:
        TrainingError: the model has no embedding block, or no input embeddings at all.
    """
    base = base_of(model)
    if getattr(getattr(base, "config", None), "is_encoder_decoder", False):
        base = base.get_encoder()
    words = input_embeddings(base)
    if words is None:
        raise TrainingError(
            f"{type(base).__name__} has no input embeddings to perturb", fix="choose an objective without perturbation"
        )
    block = _embedding_block(base, words) if perturb_after != "word_embedding" else None
    if block is not None:
        return [block]
    if perturb_after == "embedding_block":
        raise TrainingError(
            f"{type(base).__name__} has no embedding block that ends with a normalisation",
            fix="use perturb_after: word_embedding, or auto",
        )
    # Prompt methods look the words up themselves, in a module that may only share the weights.
    return [
        m
        for m in model.modules()
        if m is words or (getattr(m, "weight", None) is words.weight and isinstance(m, nn.Embedding))
    ]


def _embedding_block(base: nn.Module, words: nn.Module) -> nn.Module | None:
    """The parent of the word vectors if it normalises them and holds no transformer blocks."""
    for grandparent in base.modules():
        for parent in grandparent.children():
            if not any(child is words for child in parent.children()):
                continue
            small = not any(isinstance(m, nn.ModuleList) for m in parent.modules())
            if small and any("Norm" in type(m).__name__ for m in parent.children()):
                projection = getattr(grandparent, "embeddings_project", None)
                return projection if isinstance(projection, nn.Module) else parent
    return None


@contextmanager
def intervene(sites: list[nn.Module], change: Change) -> Iterator[None]:
    """Replace the first output of any of the `sites` in the block by `change(output)`. A pass without gradients,
    such as one that makes prompts from the bare text, is another one, and stays as it is.

    Raises:
        TrainingError: none of them was reached.
    """
    reached = False

    def hook(module: nn.Module, args: object, output: Tensor) -> Tensor | None:
        nonlocal reached
        if reached or not torch.is_grad_enabled():
            return None
        reached = True
        return change(output)

    handles = [site.register_forward_hook(hook) for site in sites]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if not reached:
        raise TrainingError(
            f"the {type(sites[0]).__name__} that is to be perturbed took no part in the forward pass",
            fix="use perturb_after: word_embedding, or an objective without perturbation",
        )


def direction(gradient: Tensor, norm: Norm) -> Tensor:
    """A gradient scaled to size 1, computed in at least float32.

    Args:
        gradient: (B, L, H). Tokens with entries that are not finite get no direction.
        norm: `linf_token` divides by each token's largest entry, `l2_token` by its length (both plus 1e-8), `sign`
            takes signs, `l2_example` divides by the length of the whole example.
    """
    g = gradient if gradient.dtype == torch.float64 else gradient.float()
    g = torch.where(g.isfinite().all(dim=-1, keepdim=True), g, 0.0)
    if norm == "sign":
        return g.sign()
    if norm == "linf_token":
        return g / (g.abs().amax(dim=-1, keepdim=True) + TINY)
    if norm == "l2_token":
        return g / (g.norm(dim=-1, keepdim=True) + TINY)
    return g / (g.flatten(1).norm(dim=1)[:, None, None] + TINY)


@dataclass(frozen=True)
class Perturbation:
    """How the embeddings are moved.

    Attributes:
        eps: size of all steps together, in `norm`.
        norm: see `direction`.
        n_steps: gradient steps; 0 leaves it at the random start.
        noise: size of the random start.
        noise_kind: uniform on [0, noise) or [-noise, noise), or normal with that deviation.
        trains_embeddings: whether the perturbed pass also gives gradients to the embeddings; if not, it is run on the
            very embeddings that were probed.
        ascends: what a step increases: the task loss, or the divergence from the clean pass.
        reuses_clean: whether the one gradient is taken from the clean pass itself, at its own embeddings and without
            the random start, which saves a forward pass.
    """

    eps: float = 0.1
    norm: Norm = "linf_token"
    n_steps: int = 1
    noise: float = 1e-5
    noise_kind: NoiseKind = "one_sided"
    trains_embeddings: bool = False
    ascends: Literal["loss", "divergence"] = "loss"
    reuses_clean: bool = False

    def start(self, like: Tensor) -> Tensor:
        """The random start, shaped (B, L, H) as `like`."""
        if self.noise_kind == "normal":
            return torch.randn_like(like) * self.noise
        drawn = torch.rand_like(like)
        return (drawn if self.noise_kind == "one_sided" else 2 * drawn - 1) * self.noise

    def change(self, step: Step, sites: list[nn.Module]) -> Change:
        """Find the perturbation for a batch (section 2) and return what applies it.

        With E0 the detached embeddings and n the random start, one step gives E0 + n + eps * direction(d loss / d n).
        Gradients are taken with respect to n only; no parameter gets one.
        """
        if self.n_steps == 0:
            return lambda e: (e if self.trains_embeddings else e.detach()) + step.undisturbed(self.start, e)
        if self.reuses_clean:
            base, gradient = step.probe_clean(sites)
            moved = (step.undisturbed(self.start, base) + self.eps * direction(gradient, self.norm)).to(base.dtype)
            return (lambda e: e + moved) if self.trains_embeddings else (lambda e: base + moved)
        probe = Probe(lambda e: step.undisturbed(self.start, e))
        target = step.clean.rows.detach() if self.ascends == "divergence" else None
        for _ in range(self.n_steps):
            gradient = step.probe(sites, probe, target)
            probe.move(self.eps / self.n_steps * direction(gradient, self.norm))
        return (lambda e: e + probe.moved) if self.trains_embeddings else (lambda e: probe.base + probe.moved)


class Probe:
    """Adds a perturbation to the embeddings of the first pass it sees, in every pass.

    Args:
        start: embeddings -> random start.

    Attributes:
        base: those embeddings, detached; (B, L, H).
        moved: what is added; (B, L, H).
    """

    base: Tensor
    moved: Tensor

    def __init__(self, start: Change) -> None:
        self._start = start
        self._seen = False

    def __call__(self, e: Tensor) -> Tensor:
        if not self._seen:
            self.base, self.moved, self._seen = e.detach(), self._start(e), True
        self.moved.requires_grad_()
        return self.base + self.moved

    def move(self, by: Tensor) -> None:
        """Add to the perturbation."""
        self.moved = (self.moved.detach() + by).to(self.base.dtype)
