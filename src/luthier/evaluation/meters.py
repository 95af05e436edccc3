"""What a piece of work costs: seconds and peak memory."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class CostMeter:
    """Measures a block of work: `with CostMeter() as meter: ...`, then `seconds` and `peak_memory_bytes`.

    Memory is the accelerator's peak allocation where there is one, else the highest resident size of this
    process during the block. On Linux the kernel's high-water mark is reset first; elsewhere the resident size
    at the end stands in for it.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.peak_memory_bytes = 0

    def __enter__(self) -> CostMeter:
        import torch

        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        else:
            _reset_high_water_mark()
        self._start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._start
        self.peak_memory_bytes = peak_memory()


def peak_memory() -> int:
    """Bytes: the accelerator's peak allocation, or the highest resident size since the last reset."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        import psutil

        return int(psutil.Process().memory_info().rss)


def _reset_high_water_mark() -> None:
    try:
        _CLEAR.write_text("5")
    except OSError:
        return
