"""Figures and tables, drawn from frames: style, `save`, strips, curves, maps, forest plots, tables, the demo's page.

Nothing here computes a score or imports torch.
"""

from csgn_lib.figures.attention import (
    TILT,
    ExplainedPair,
    attention_deletion,
    attention_heads,
    attention_layers,
    attention_pair,
    attention_shares,
)
from csgn_lib.figures.errors import error_rates
from csgn_lib.figures.forest import dots, forest, tradeoff
from csgn_lib.figures.latex import ALPHA, latex_float, latex_table, macro_name, number_macros
from csgn_lib.figures.maps import LabelMap, evenly_spaced, label_maps, neighbour_kinds, picture_map
from csgn_lib.figures.page import write_page
from csgn_lib.figures.parameters import ParameterTable, parameter_table
from csgn_lib.figures.plots import curves, loss_frame, metrics_frame
from csgn_lib.figures.saving import COLUMN_WIDTH, STYLE, TEXT_WIDTH, save, styled, subplots, use_style
from csgn_lib.figures.strips import rank_strips, strip_frame
from csgn_lib.figures.tables import Table, protocol_name, results_table
