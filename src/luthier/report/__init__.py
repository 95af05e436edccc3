"""Results to tables, plots and one self-contained HTML page."""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "read_run": "luthier.report.results",
    "read_runs": "luthier.report.results",
    "summarise": "luthier.report.statistics",
    "paired_differences": "luthier.report.statistics",
    "comparison_table": "luthier.report.tables",
    "print_table": "luthier.report.terminal",
    "to_markdown": "luthier.report.tables",
    "to_csv": "luthier.report.tables",
    "to_json": "luthier.report.tables",
    "plot_lines": "luthier.report.plots",
    "plot_bands": "luthier.report.plots",
    "plot_bars": "luthier.report.plots",
    "plot_scatter": "luthier.report.plots",
    "plot_radar": "luthier.report.plots",
    "plot_reliability": "luthier.report.plots",
    "plot_heatmap": "luthier.report.plots",
    "Section": "luthier.report.sections",
    "SectionTable": "luthier.report.sections",
    "Bars": "luthier.report.sections",
    "Lines": "luthier.report.sections",
    "Bands": "luthier.report.sections",
    "Radar": "luthier.report.sections",
    "Reliability": "luthier.report.sections",
    "Heatmap": "luthier.report.sections",
    "Annotated": "luthier.report.sections",
    "write_report": "luthier.report.html",
    "recommend": "luthier.report.choice",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
