"""The rankings behind a score, image by image, for strips of images and lists of failures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from csgn_lib.datasets import Protocol
from csgn_lib.datasets import protocol as resolve
from csgn_lib.datasets.protocols import UNKNOWN
from csgn_lib.records import InputError
from csgn_lib.retrieval.features import as_array, check_columns, ranked_units, unit_rows


class Rankings:
    """The rankings of one protocol's queries by cosine, one at a time; those that ``evaluate`` scores.

    Args:
        query_features, gallery_features: (Q, D) and (G, D), as for ``evaluate``.
        query, gallery: their frames.
        protocol: a name, as the benchmark of the frames means it, or a Protocol.

    Raises:
        InputError: as ``evaluate``.
    """

    def __init__(
        self,
        query_features: ArrayLike | Any,
        gallery_features: ArrayLike | Any,
        query: pd.DataFrame,
        gallery: pd.DataFrame,
        protocol: str | Protocol = "cloth_changing",
    ) -> None:
        self.protocol = resolve(protocol, query.attrs.get("benchmark"))
        self.protocol.check(query, gallery)
        self._query_unit, self._query, self._query_rows = self._side(query_features, query, "query")
        self._gallery_unit, self._gallery, self._gallery_rows = self._side(gallery_features, gallery, "gallery")
        check_columns(self._query_unit, self._gallery_unit)
        self._draws = self.protocol.gallery_rows(self._gallery)

    def _side(self, features: Any, frame: pd.DataFrame, split: str) -> tuple[Any, pd.DataFrame, NDArray[np.int64]]:
        features = as_array(features, f"{split}_features")
        units, frame, rows = ranked_units(features, frame, split, self.protocol.aggregate)
        return unit_rows(units, f"{split}_features"), frame, rows

    def of(self, row: int, draw: int = 0) -> NDArray[np.int64]:
        """Gallery rows in the order of their distance to a query, nearest first, without junk.

        Args:
            row: row of the query frame, as in ``Scores.per_query``; of a tracklet, its first row.
            draw: number of the gallery, if the protocol draws several.

        Raises:
            InputError: a row that is no query of this protocol.
        """
        place = int(np.searchsorted(self._query_rows, row))
        queries = self.protocol.query_rows(self._query)
        if place == len(self._query_rows) or self._query_rows[place] != row or place not in queries:
            raise InputError(f"row {row} is no query of {self.protocol.name}; per_query.row lists them")
        columns = self._draws[draw]
        order = columns[np.argsort(-(self._gallery_unit[columns] @ self._query_unit[place]), kind="stable")]
        person = self._query["person"].to_numpy()[place]
        same = (self._gallery["person"].to_numpy()[order] == person) & (person != UNKNOWN)
        junk = np.zeros(len(order), dtype=bool)
        junk[same] = self.protocol.is_junk(self._query, self._gallery, np.full(same.sum(), place), order[same])
        return self._gallery_rows[order[~junk]]
