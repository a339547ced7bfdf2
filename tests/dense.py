"""A protocol's rules as two matrices: the slow, obvious counterpart of what the library applies pair by pair."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from csgn_lib.datasets import Protocol
from csgn_lib.datasets.protocols import UNKNOWN


def masks(
    protocol: Protocol, query: pd.DataFrame, gallery: pd.DataFrame, draw: int = 0
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Good and junk masks, (Q, G) bool each, over the frames' own rows.

    Gallery rows outside this protocol are junk in every row; a query outside it has no good row,
    so it is not counted. Everything that is neither good nor junk is a wrong person, and is ranked.
    """
    protocol.check(query, gallery)
    is_query = np.isin(np.arange(len(query)), protocol.query_rows(query))[:, None]
    is_ranked = np.isin(np.arange(len(gallery)), protocol.gallery_rows(gallery)[draw])[None, :]
    people, others = query["person"].to_numpy()[:, None], gallery["person"].to_numpy()[None, :]
    match = (people == others) & (people != UNKNOWN)
    dropped = protocol.is_junk(query, gallery, np.arange(len(query))[:, None], np.arange(len(gallery))[None, :])
    return match & ~dropped & is_query & is_ranked, (match & dropped) | ~np.broadcast_to(is_ranked, match.shape)
