"""Error curves of verification and of open-set search."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from csgn_lib.figures.saving import TEXT_WIDTH, styled
from csgn_lib.figures.tables import protocol_name

_PANELS = {
    "pairs": ("Verification of pairs", "false accept rate (FAR)", "false reject rate (1 - TAR)"),
    "searches": ("Search for people who may be absent", "false positive rate (FPIR)", "false negative rate (FNIR)"),
}


def error_rates(curves: pd.DataFrame) -> Figure:
    """Misses against false alarms, one line a protocol: pairs on the left, open-set searches on the right.

    Args:
        curves: ``protocol, curve, false_alarms, misses``, as ``retrieval.error_curves`` returns them.
    """
    with styled():
        figure, panels = plt.subplots(1, 2, figsize=(TEXT_WIDTH, 2.6), layout="constrained")
        for axes, (curve, (title, alarms, misses)) in zip(panels, _PANELS.items(), strict=True):
            for protocol, part in curves[curves["curve"] == curve].groupby("protocol", sort=False):
                part = part[part["false_alarms"] > 0]  # a logarithmic axis has no 0
                axes.plot(part["false_alarms"], part["misses"], drawstyle="steps-post", label=protocol_name(protocol))
            axes.set(title=title, xlabel=alarms, ylabel=misses, xscale="log", xlim=(None, 1), ylim=(0, 1))
        panels[0].legend()
    return figure
