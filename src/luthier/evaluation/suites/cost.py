"""What the model costs to store and to run."""

from __future__ import annotations

import logging
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.evaluation.subject import Subject, Suite, SuiteResult
from luthier.registry import SUITES

logger = logging.getLogger(__name__)


@SUITES.register
class CostSuite(Suite):
    """Parameters, bytes on disk, time, memory and throughput of inference.

    Throughput is that of the one pass over the judged rows from which every suite takes its scores. The single rows
    whose latency is measured come before it, so that what is done only once (threads, kernels, the first touch of the
    weights) is paid by then; the first row of all is not timed.
    """

    name: Literal["cost"] = "cost"
    summary: ClassVar[str] = "parameters, bytes on disk, peak memory, rows a second and latency of one row"

    runs_first: ClassVar[bool] = True
    language_heads: ClassVar[tuple[str, ...] | None] = None

    single_rows: int = Field(16, gt=0, description="Rows that the latency of a single row is measured on.")

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_recipes(cls, value: Any) -> Any:
        """Recipes that were saved when the suite fed rows of its own still say how many."""
        if isinstance(value, dict) and "rows" in value:
            logger.warning("`rows` of the cost suite means nothing any more: it times the pass over all judged rows")
            return {key: one for key, one in value.items() if key != "rows"}
        return value

    def run(self, subject: Subject) -> SuiteResult:
        import statistics
        import time

        from luthier.models.inspect import bytes_on_disk, parameter_counts

        rows, latencies = subject.rows, []
        subject.forward(rows.select([0]))
        for index in range(min(self.single_rows, len(rows))):
            started = time.perf_counter()
            subject.forward(rows.select([index]))
            latencies.append(time.perf_counter() - started)
        predictions, meter = subject.predictions, subject.meter
        _, total = parameter_counts(subject.model)
        return SuiteResult(
            cost={
                "total_parameters": total,
                "bytes_on_disk": bytes_on_disk(subject.folder),
                "seconds": meter.seconds,
                "peak_memory_bytes": meter.peak_memory_bytes,
                "tokens_per_second": predictions.tokens / meter.seconds,
                "rows_per_second": len(rows) / meter.seconds,
                "latency_seconds": statistics.median(latencies),
            },
        )
