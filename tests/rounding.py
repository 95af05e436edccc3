"""How exactly two ways to compute the same numbers have to agree."""

from __future__ import annotations

import torch

# Without AVX-512 the kernels of torch add up in another order where a row has other companions, or lies elsewhere in
# memory.
EXACT = torch.backends.cpu.get_cpu_capability() == "AVX512"


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """To the bit where this processor's kernels allow it, else to a few last digits."""
    if EXACT:
        assert torch.equal(found, expected)
    else:
        digits = 1e-12 if expected.dtype == torch.float64 else 1e-5
        torch.testing.assert_close(found, expected, rtol=digits, atol=digits)
