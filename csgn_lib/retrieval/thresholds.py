"""Reading verification.json: the threshold for a given error rate."""

from __future__ import annotations

from typing import Any

import pandas as pd

from csgn_lib.records import InputError

CURVES = {"pairs": ("far", "tar"), "searches": ("fpir", "fnir")}


def suggested_threshold(record: dict[str, Any], fpir: float = 0.1) -> float:
    """The threshold at which at most a share ``fpir`` of the recorded non-mated searches returns a result.

    Args:
        record: of one protocol, as ``Verification.record`` gives it.

    Raises:
        InputError: a rate outside (0, 1), or one for which too few searches were recorded.
    """
    searches = record["counts"]["non_mated"]
    if not 0 < fpir < 1:
        raise InputError(f"error rate {fpir}: a share of searches between 0 and 1, such as 0.1")
    if fpir * searches < 1:
        raise InputError(
            f"error rate {fpir}: only {searches} searches were measured, so nothing is known below {1 / searches:.2g}; "
            "ask for a larger rate, or measure on a larger benchmark with csgn evaluate"
        )
    below = [point["threshold"] for point in record["searches"] if point["fpir"] <= fpir]
    return max(below, default=0.0)


def error_curves(protocols: dict[str, Any]) -> pd.DataFrame:
    """Both error curves of each protocol, ready to plot.

    Args:
        protocols: ``protocols`` of a verification.json.

    Returns:
        ``protocol``; ``curve`` (pairs, searches); ``threshold``; ``false_alarms``, FAR or FPIR; ``misses``, 1 - TAR or
        FNIR. Shares in [0, 1].
    """
    frames = []
    for protocol, record in protocols.items():
        for curve, (alarms, rate) in CURVES.items():
            points = pd.DataFrame(record[curve])
            misses = 1 - points[rate] if rate == "tar" else points[rate]
            columns = {"threshold": points["threshold"], "false_alarms": points[alarms], "misses": misses}
            frames.append(pd.DataFrame({"protocol": protocol, "curve": curve} | columns))
    if not frames:
        raise InputError("no protocol was measured; verification.json says why")
    return pd.concat(frames, ignore_index=True)
