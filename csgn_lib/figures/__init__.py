"""Figures: frames in, ink out. Style, `save`, strips, curves, forests, tables and a paper's numbers, the demo's page.

Nothing here computes a score or imports torch: what is drawn was read from a run's folder.
"""

from csgn_lib.figures.forest import dots, forest, tradeoff
from csgn_lib.figures.latex import ALPHA, latex_float, latex_table, macro_name, number_macros
from csgn_lib.figures.page import write_page
from csgn_lib.figures.plots import curves, loss_frame, metrics_frame
from csgn_lib.figures.saving import COLUMN_WIDTH, STYLE, TEXT_WIDTH, save, styled, use_style
from csgn_lib.figures.strips import rank_strip, rank_strips, strip_frame
from csgn_lib.figures.tables import Table, results_table

__all__ = [
    "ALPHA",
    "COLUMN_WIDTH",
    "STYLE",
    "TEXT_WIDTH",
    "Table",
    "curves",
    "dots",
    "forest",
    "latex_float",
    "latex_table",
    "macro_name",
    "number_macros",
    "loss_frame",
    "metrics_frame",
    "rank_strip",
    "rank_strips",
    "results_table",
    "save",
    "strip_frame",
    "styled",
    "tradeoff",
    "use_style",
    "write_page",
]
