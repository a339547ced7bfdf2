"""Data classes of the explorer: changes to a query, filters of queries, rankings."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import adjust_hue

from csgn_lib.batches import to_gray
from csgn_lib.datasets.protocols import UNKNOWN
from csgn_lib.records import InputError
from csgn_lib.retrieval import CLOTHING_REMOVED, PERSON_ONLY, PLAIN

AS_IT_IS, GRAY, MIRRORED = "as it is", "gray", "mirrored"
PICTURES = (AS_IT_IS, GRAY, MIRRORED)
UNUSED, ALONE, ADDED, TAKEN_OUT = "not used", "alone", "added", "subtracted"
TEXT_USES = (UNUSED, ALONE, ADDED, TAKEN_OUT)
ALL, RIGHT, WRONG = "all", "right", "wrong"
TYPICAL, HARDEST, EASIEST, BY_NAME = "typical first", "hardest first", "easiest first", "by name"
ORDERS = (TYPICAL, HARDEST, EASIEST, BY_NAME)
FEATURES = {PLAIN: "all", CLOTHING_REMOVED: "clothing removed", PERSON_ONLY: "person only"}
DIRECTIONS = {CLOTHING_REMOVED: "{} clothing directions removed", PERSON_ONLY: "{} person directions only"}


@dataclass(frozen=True)
class Look:
    """A change to a query.

    Attributes:
        vocabulary: plain, "clothing removed" or "person only", with ``rank`` directions (0: as the run was reported);
            or the name of a plugin's descriptor.
        picture: as it is, gray, or mirrored (a control: neither person nor colours change).
        hue: rotation in degrees, -180 to 180.
        text: used alone (gallery ranked by its cosine to the text), or its direction added to or subtracted from f of
            length 1, ``weight`` times [O].

    Raises InputError for an unknown picture or use of the text, or a hue out of range.
    """

    vocabulary: str = PLAIN
    rank: int = 0
    picture: str = AS_IT_IS
    hue: float = 0.0
    text: str = ""
    use: str = UNUSED
    weight: float = 0.5

    def __post_init__(self) -> None:
        if self.picture not in PICTURES or self.use not in TEXT_USES or not -180 <= self.hue <= 180:
            raise InputError(
                f"unknown look {self.picture!r}, {self.use!r}, hue {self.hue}; pictures: {', '.join(PICTURES)}; "
                f"text: {', '.join(TEXT_USES)}; hue: -180 to 180 degrees"
            )

    @property
    def says(self) -> bool:
        """Whether a text is used."""
        return self.use != UNUSED and bool(self.text.strip())

    @property
    def text_alone(self) -> bool:
        """Whether the text replaces the query image."""
        return self.says and self.use == ALONE

    @property
    def repaints(self) -> bool:
        """Whether the query's pixels are changed."""
        return self.picture != AS_IT_IS or self.hue != 0

    def __str__(self) -> str:
        words = []
        if self.vocabulary != PLAIN:
            named = FEATURES.get(self.vocabulary, self.vocabulary)
            ranked = self.rank and self.vocabulary in DIRECTIONS
            words = [DIRECTIONS[self.vocabulary].format(self.rank) if ranked else named]
        words += [self.picture] if self.picture != AS_IT_IS else []
        words += [f"hue {self.hue:+.0f}°"] if self.hue else []
        words += [f"text {self.use}: {self.text.strip()!r}"] if self.says else []
        return "; ".join(words) or AS_IT_IS


@dataclass(frozen=True)
class Filter:
    """Filter and order of the listed queries.

    Attributes:
        camera, clothes: as the data set names them, or "" for all.
        first: "all", or whether the rank-1 answer is "right" or "wrong".
        ap: lowest and highest average precision. contains: text in the image's path, in any case.
        order: one of ORDERS. "typical first" begins with queries that have a match in the first ten, by the distance of
            their average precision from the median of those.
    """

    camera: str = ""
    clothes: str = ""
    first: str = ALL
    ap: tuple[float, float] = (0.0, 1.0)
    contains: str = ""
    order: str = HARDEST

    def ordered(self, queries: pd.DataFrame) -> pd.DataFrame:
        """Rows of ``Scores.per_query`` in this filter's order."""
        if self.order == BY_NAME:
            return queries.sort_values(["path", "draw"])
        if self.order == TYPICAL:
            easy = queries["first_hit"] <= 10
            key = (queries["ap"] - queries["ap"][easy].median()).abs() + 2.0 * ~easy
        else:
            key = queries["ap"] * (1 if self.order == HARDEST else -1)
        return queries.loc[key.sort_values(kind="stable").index]


@dataclass(frozen=True)
class Answer:
    """A ranking of the gallery, nearest first, junk left out.

    Attributes:
        query: the query's row of its frame; the user's image and a text have person, camera and clothes -1.
        rows: (N,) gallery rows in order; similarity: (N,) cosines, in that order.
        ap, first_hit: as ``Scores.per_query``: NaN and 0 without a match.
    """

    query: pd.Series
    rows: NDArray[np.int64]
    similarity: NDArray[np.float32]
    ap: float
    first_hit: int
    gallery: pd.DataFrame = field(repr=False)

    def score(self, before: Answer | None = None) -> str:
        """Such as ": AP 0.42 (unchanged query 0.38), first match at rank 3 (5)"; empty without a query's labels."""
        if not self.first_hit:
            return ""
        ap, rank = (f"{self.ap:.2f}", str(self.first_hit))
        if before is not None and (self.ap, self.first_hit) != (before.ap, before.first_hit):
            ap, rank = f"{ap} (unchanged query: {before.ap:.2f})", f"{rank} (unchanged query: {before.first_hit})"
        return f": AP {ap}, first match at rank {rank}"

    def top(self, count: int = 10, before: Answer | None = None) -> pd.DataFrame:
        """The first answers: ``rank, row, path, person, camera, clothes, person_label, similarity, right``, ``changed``
        (clothes), and ``was``, each one's rank in another answer (0: none)."""
        rows = self.rows[:count]
        columns = ["path", "person", "camera", "clothes", "person_label"]
        table = self.gallery.iloc[rows][columns].reset_index(drop=True)
        right = (table["person"] == self.query["person"]) & (self.query["person"] != UNKNOWN)
        known = right & (table["clothes"] != UNKNOWN) & (self.query["clothes"] != UNKNOWN)
        changed = np.where(known, np.where(table["clothes"] == self.query["clothes"], "same", "changed"), "")
        places = np.zeros(len(self.gallery), dtype=np.int64)
        if before is not None:
            places[before.rows] = np.arange(1, len(before.rows) + 1)
        return table.assign(
            rank=np.arange(1, len(rows) + 1), row=rows, similarity=self.similarity[:count], right=right,
            changed=changed, was=places[rows],
        )  # fmt: skip


def pixels_of(picture: Image.Image, size: tuple[int, int]) -> Tensor:
    """(3, H, W) uint8, resized as the benchmark's images are."""
    height, width = size
    picture = picture.convert("RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).contiguous()


def changed(pixels: Tensor, look: Look) -> Tensor:
    """Hue first, then gray or mirrored: (3, H, W)."""
    pixels = adjust_hue(pixels, look.hue / 360) if look.hue else pixels
    if look.picture == GRAY:
        return to_gray(pixels.float() / 255)
    return pixels.flip(-1) if look.picture == MIRRORED else pixels


def painted(picture: Image.Image, look: Look) -> Image.Image:
    """An image with the changes of a look, at its own size."""
    pixels = changed(pixels_of(picture, picture.size[::-1]), look)
    pixels = (pixels * 255).round().byte() if pixels.is_floating_point() else pixels
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
