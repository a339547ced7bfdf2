"""Figures: frames in, ink out. Style, `save`, query strips, curves, result tables, the demo's page.

Nothing here computes a score or imports torch: what is drawn was read from a run's folder.
"""

from csgn_lib.figures.latex import ALPHA, latex_table
from csgn_lib.figures.page import write_page
from csgn_lib.figures.plots import curves, loss_frame, metrics_frame
from csgn_lib.figures.saving import COLUMN_WIDTH, STYLE, TEXT_WIDTH, save, use_style
from csgn_lib.figures.strips import rank_strip, rank_strips, strip_frame
from csgn_lib.figures.tables import Table, results_table

__all__ = [
    "ALPHA",
    "COLUMN_WIDTH",
    "STYLE",
    "TEXT_WIDTH",
    "Table",
    "curves",
    "latex_table",
    "loss_frame",
    "metrics_frame",
    "rank_strip",
    "rank_strips",
    "results_table",
    "save",
    "strip_frame",
    "use_style",
    "write_page",
]
