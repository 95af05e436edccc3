"""The generator: a bottleneck network that turns a sentence vector into prompt vectors.

Shapes: B examples, n PHM order, r rank, m bottleneck, t prompt vectors, d model width, g sentence vector width,
K layers that get a prompt. Source: Wu et al., NAACL 2022, section 3 and equations 3 to 6.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from luthier.tuning.instance_prompt.settings import ConfigurationOptions, check_order

PHM_STD, DNN_STD, BIAS_RANGE = 0.05, 0.02, 0.5


class PHMLinear(nn.Module):
    """x W with W = sum over i of A_i (x) B_i, a sum of n Kronecker products.

    W is only formed where that takes fewer multiplications than two contractions with the factors.

    Attributes:
        a: A, (n, n, n), or None where the caller passes it.
        b: B, (n, in / n, out / n), or None where it is the product of `s` and `t`.
        s, t: (n, in / n, r) and (n, r, out / n) of the low-rank form, B_i = S_i T_i.
    """

    def __init__(self, inputs: int, outputs: int, order: int, *, rank: int | None = None, own_a: bool = True) -> None:
        """Raises ValueError where `order` does not divide both widths."""
        super().__init__()
        check_order("order", order, {"the input width": inputs, "the output width": outputs})
        self.inputs, self.outputs, self.order, self.rank = inputs, outputs, order, rank
        rows, columns = inputs // order, outputs // order
        self.a = _drawn(PHM_STD, order, order, order) if own_a else None
        self.b = _drawn(PHM_STD, order, rows, columns) if rank is None else None
        # Drawn so that their product has the deviation of B.
        self.s: Any = _drawn(math.sqrt(PHM_STD / math.sqrt(rank)), order, rows, rank) if rank else None
        self.t: Any = _drawn(math.sqrt(PHM_STD / math.sqrt(rank)), order, rank, columns) if rank else None

    def right_factors(self) -> Tensor:
        """B: (n, in / n, out / n)."""
        return torch.bmm(self.s, self.t) if self.b is None else self.b

    def matrix(self, a: Tensor | None = None) -> Tensor:
        """W: (in, out)."""
        a = self.a if a is None else a
        return torch.einsum("iac,ipq->apcq", a, self.right_factors()).reshape(self.inputs, self.outputs)

    def forward(self, x: Tensor, a: Tensor | None = None) -> Tensor:
        """(B, in) -> (B, out); `a` (n, n, n) stands in for a missing own A."""
        a = self.a if a is None else a
        if self._forming_is_cheaper(x.shape[0]):
            return x @ self.matrix(a)
        blocks = x.reshape(-1, self.order, self.inputs // self.order)
        if self.inputs <= self.outputs and self.b is not None:
            mixed = torch.einsum("zap,iac->zcip", blocks, a).flatten(2)
            return (mixed @ self.b.flatten(0, 1)).flatten(1)
        return torch.einsum("zaiq,iac->zcq", self._right(blocks), a).flatten(1)

    def _right(self, blocks: Tensor) -> Tensor:
        """(B, n, in / n) -> (B, n, n, out / n), every block times every B_i."""
        if self.b is not None:
            return (blocks @ self.b.transpose(0, 1).flatten(1)).unflatten(-1, (self.order, -1))
        narrow = (blocks @ self.s.transpose(0, 1).flatten(1)).unflatten(-1, (self.order, -1))
        return torch.einsum("zair,irq->zaiq", narrow, self.t)

    def _forming_is_cheaper(self, rows: int) -> bool:
        formed = (self.order + rows) * self.inputs * self.outputs
        if self.rank is not None:
            low = self.rank * (self.inputs + self.outputs * self.order)
            return formed < rows * self.order * (low + self.order * self.outputs)
        return formed < rows * (self.inputs * self.outputs + self.order**2 * min(self.inputs, self.outputs))


def _drawn(std: float, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).normal_(std=std))


class Bottleneck(nn.Module):
    """W2 gelu(drop(W1 drop(s) + b1)): (B, g) -> (B, out), without the output's bias.

    With `dropout_after_activation` it is W2 drop(gelu(W1 drop(s) + b1)).
    """

    def __init__(self, config: ConfigurationOptions, inputs: int, outputs: int) -> None:
        super().__init__()
        m, self.dropout, self.drops_after = config.bottleneck, config.dropout, config.dropout_after_activation
        self.a: nn.Parameter | None = None
        self.down_bias = nn.Parameter(torch.zeros(m))
        if config.generator == "dnn":
            self.down: nn.Module = nn.Linear(inputs, m, bias=False)
            self.up: nn.Module = nn.Linear(m, outputs, bias=False)
            for matrix in (self.down, self.up):
                nn.init.normal_(matrix.weight, std=DNN_STD)
            return
        order, rank = config.phm_order, config.phm_rank if config.generator == "low_rank_phm" else None
        if config.share_a:
            self.a = _drawn(PHM_STD, order, order, order)
        self.down = PHMLinear(inputs, m, order, rank=rank, own_a=not config.share_a)
        self.up = PHMLinear(m, outputs, order, rank=rank, own_a=not config.share_a)
        nn.init.normal_(self.down_bias, std=PHM_STD)

    def forward(self, vectors: Tensor, drop_vectors: bool) -> Tensor:
        shared = () if self.a is None else (self.a,)
        hidden = self.down(self._dropped(vectors) if drop_vectors else vectors, *shared) + self.down_bias
        if self.drops_after:
            return self.up(self._dropped(functional.gelu(hidden)), *shared)
        return self.up(functional.gelu(self._dropped(hidden)), *shared)

    def _dropped(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)


class PromptGenerator(nn.Module):
    """G_b for all K layers.

    Attributes:
        networks: one bottleneck, or K of them where nothing is shared.
        bias: the layers' own prompts, (K, t d), or (1, t d) where all is shared.
        norms: LayerNorms over the generated vectors, as many as networks; None without.
    """

    def __init__(self, config: ConfigurationOptions, vector_width: int, model_width: int, layers: int) -> None:
        """Raises ValueError where the order does not divide the widths, or a residual does not fit."""
        super().__init__()
        if config.residual and vector_width != model_width:
            raise ValueError(
                f"residual adds sentence vectors of width {vector_width} to prompts of width {model_width}: "
                "leave it out"
            )
        outputs = config.vectors_per_layer * model_width
        if config.generator != "dnn":
            widths = {"the sentence vector's width": vector_width, "the bottleneck": config.bottleneck}
            check_order("phm_order", config.phm_order, {**widths, "the output width": outputs})
        networks = layers if config.sharing == "none" else 1
        self.config, self.vector_width, self.model_width = config, vector_width, model_width
        self.networks = nn.ModuleList(Bottleneck(config, vector_width, outputs) for _ in range(networks))
        self.bias = nn.Parameter(torch.empty(1 if config.sharing == "shared" else layers, outputs))
        bound = BIAS_RANGE if config.bias_init == "uniform" else 0.0
        nn.init.uniform_(self.bias, -bound, bound)
        self.norms = nn.ModuleList(nn.LayerNorm(model_width) for _ in range(networks)) if config.layer_norm else None

    def forward(self, vectors: Tensor, layer: int) -> Tensor:
        """Sentence vectors (B, g) -> the prompt of the layer-th of the K layers, (B, t, d).

        Raises:
            ValueError: the vectors have another width.
        """
        if vectors.shape[-1] != self.vector_width:
            raise ValueError(
                f"sentence vectors are {vectors.shape[-1]} wide, but the generator takes {self.vector_width}"
            )
        vectors = vectors.to(self.bias.dtype)
        network, row = (layer if len(parts) > 1 else 0 for parts in (self.networks, self.bias))
        drop = layer == 0 or self.config.vector_dropout == "every_layer"
        vectors_of_layer = self.networks[network](vectors, drop) + self.bias[row]
        prompt = vectors_of_layer.unflatten(-1, (-1, self.model_width))
        if self.norms is not None:
            prompt = self.norms[network](prompt)
        return prompt + vectors[:, None] if self.config.residual else prompt
