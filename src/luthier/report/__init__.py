"""Results to tables, plots and one self-contained HTML page."""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "read_run": "luthier.report.results",
    "read_runs": "luthier.report.results",
    "comparison_table": "luthier.report.tables",
    "write_report": "luthier.report.html",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
