"""Label statistics of a benchmark (people, outfits, cameras), and contact sheets of its images.

Statistics use labels only; if a benchmark lacks a label, the tables that need it are empty. Pairs are always
of one person, a query image and a gallery image (for CCVID a tracklet each): the candidates for a match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from csgn_lib.datasets.benchmark import Benchmark
from csgn_lib.datasets.image_files import open_image
from csgn_lib.datasets.protocols import UNKNOWN, Protocol, same_person
from csgn_lib.records import InputError

_INK = np.array([[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233]], np.uint8)
_BAR, _GAP = 4, 2  # pixels: the bar that marks the outfit, and the white between images
_FACE, _BLOCK = 0.25, 1 / 8  # upper share of an image that is hidden, and the side of a block in widths


def units(frame: pd.DataFrame) -> pd.DataFrame:
    """The ranked units: the frame itself, or one row per tracklet if tracklets are ranked (CCVID)."""
    if frame.attrs.get("unit") != "tracklet":
        return frame
    return frame.drop_duplicates("tracklet").reset_index(drop=True)


def spread(frame: pd.DataFrame) -> pd.DataFrame:
    """Per person: ``person_label images outfits cameras cameras_per_outfit images_per_outfit``.

    Unknown outfits and cameras (-1) are not counted; the last two columns are means over the person's
    outfits, NaN without any.
    """
    known = frame[frame["person"] != UNKNOWN]
    by_person = known.groupby("person_label")
    table = pd.DataFrame({"images": by_person.size()})
    for column, name in (("clothes", "outfits"), ("camera", "cameras")):
        labelled = known[known[column] != UNKNOWN]
        table[name] = labelled.groupby("person_label")[column].nunique().reindex(table.index, fill_value=0)
    dressed = known[known["clothes"] != UNKNOWN].groupby(["person_label", "clothes"])
    outfits = pd.DataFrame({"images": dressed.size(), "cameras": dressed["camera"].nunique()})
    means = outfits.groupby("person_label").mean()
    table["cameras_per_outfit"] = means["cameras"].reindex(table.index)
    table["images_per_outfit"] = means["images"].reindex(table.index)
    return table.reset_index()


def pairs(query: pd.DataFrame, gallery: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of all pairs of one person: (n,) in ``query`` and (n,) in ``gallery``."""
    return same_person(query["person"].to_numpy(), gallery["person"].to_numpy())


def shares(query: pd.DataFrame, gallery: pd.DataFrame) -> pd.DataFrame:
    """Pairs of one person by same or different camera and clothes: ``camera clothes pairs share``.

    ``camera`` and ``clothes`` are "same", "different" or "unknown" (a label of -1 on either side).
    """
    query_rows, gallery_rows = pairs(query, gallery)
    columns = {}
    for column in ("camera", "clothes"):
        a, b = query[column].to_numpy()[query_rows], gallery[column].to_numpy()[gallery_rows]
        text = np.where(a == b, "same", "different").astype(object)
        text[(a == UNKNOWN) | (b == UNKNOWN)] = "unknown"
        columns[column] = text
    table = pd.DataFrame(columns).value_counts(sort=False).rename("pairs").reset_index()
    table["share"] = table["pairs"] / max(len(query_rows), 1)
    return table.sort_values(["camera", "clothes"], ignore_index=True)


def camera_rule(table: pd.DataFrame) -> dict[str, float]:
    """Accuracy of the rule "same camera, same outfit; another camera, another outfit".

    Args:
        table: as from ``shares``; pairs with an unknown label are ignored.

    Returns:
        ``pairs``: their number. ``accuracy``: share of correct predictions. ``always``: accuracy of always predicting
        the more frequent class, which the rule must exceed. ``same_if_same`` and
        ``same_if_different``: the share of pairs in the same outfit, among pairs of one camera and of
        two. NaN where there is no such pair.
    """
    cells = table.set_index(["camera", "clothes"])["pairs"]
    n = {(c, o): int(cells.get((c, o), 0)) for c in ("same", "different") for o in ("same", "different")}
    total, same = sum(n.values()), n["same", "same"] + n["different", "same"]
    right = n["same", "same"] + n["different", "different"]

    def over(part: int, whole: int) -> float:
        return part / whole if whole else float("nan")

    return {
        "pairs": total,
        "accuracy": over(right, total),
        "always": over(max(same, total - same), total),
        "same_if_same": over(n["same", "same"], n["same", "same"] + n["same", "different"]),
        "same_if_different": over(n["different", "same"], n["different", "same"] + n["different", "different"]),
    }


def camera_pairs(query: pd.DataFrame, gallery: pd.DataFrame) -> pd.DataFrame:
    """Pairs of one person by their two cameras: ``query_camera gallery_camera people pairs same_clothes``.

    ``same_clothes`` is the share of the pairs in one outfit. Pairs with an unknown label are ignored.
    """
    query_rows, gallery_rows = pairs(query, gallery)
    table = pd.DataFrame(
        {
            "person": query["person"].to_numpy()[query_rows],
            "query_camera": query["camera"].to_numpy()[query_rows],
            "gallery_camera": gallery["camera"].to_numpy()[gallery_rows],
            "query_clothes": query["clothes"].to_numpy()[query_rows],
            "gallery_clothes": gallery["clothes"].to_numpy()[gallery_rows],
        }
    )
    table = table[(table.drop(columns="person") != UNKNOWN).all(axis=1)]
    table = table.assign(same=table["query_clothes"] == table["gallery_clothes"])
    cells = table.groupby(["query_camera", "gallery_camera"])
    return cells.agg(people=("person", "nunique"), pairs=("same", "size"), same_clothes=("same", "mean")).reset_index()


def camera_tells_outfit(frame: pd.DataFrame, shuffles: int = 10, seed: int = 0) -> dict[str, float]:
    """Accuracy of predicting a person's outfit from the camera, for people with at least two outfits.

    Returns:
        ``people``: their number. ``guess``: accuracy of predicting each person's most frequent outfit.
        ``guess_from_camera``: of predicting the most frequent one in that camera. Both are measured on the images that
        they were fitted to, so the second is never below the first; 1.0 means that the camera determines the outfit.
        ``guess_shuffled``: the same after the cameras are permuted among each person's images (mean of
        ``shuffles``), the level of overfitting with few images per camera. NaN without people.
    """
    known = frame[(frame["clothes"] != UNKNOWN) & (frame["camera"] != UNKNOWN)]
    known = known[known.groupby("person")["clothes"].transform("nunique") > 1].sort_values("person", kind="stable")
    n, random = len(known), np.random.default_rng(seed)
    if not n:
        return {"people": 0} | dict.fromkeys(("guess", "guess_from_camera", "guess_shuffled"), float("nan"))
    mixed = []
    for _ in range(shuffles):
        order = np.lexsort((random.random(n), known["person"]))  # within each person, since rows are sorted by it
        mixed.append(_commonest(known.assign(camera=known["camera"].to_numpy()[order])))
    return {
        "people": int(known["person"].nunique()),
        "guess": _commonest(known.assign(camera=0)) / n,
        "guess_from_camera": _commonest(known) / n,
        "guess_shuffled": float(np.mean(mixed)) / n,
    }


def _commonest(frame: pd.DataFrame) -> int:
    """Images in the most frequent outfit of their person and camera."""
    return int(frame.groupby(["person", "camera", "clothes"]).size().groupby(["person", "camera"]).max().sum())


def protocol_table(benchmark: Benchmark) -> pd.DataFrame:
    """Matches that remain under each protocol: one row per protocol, complete galleries only (no draws).

    Columns: ``protocol asked counted`` (all queries, and those with a match) ``matches`` (pairs)
    ``per_query`` (median matches of a counted query) ``same_clothes same_camera`` (share of the matches)
    ``clothes_alone`` (share of counted queries with a match in the query's own outfit: the rank-1 of a perfect
    clothes matcher if no two people have the same outfit). NaN where the label is unknown.
    """
    query, gallery = units(benchmark.query), units(benchmark.gallery)
    named = [benchmark.protocol(name) for name in benchmark.protocols]
    rows = [_protocol_row(protocol, query, gallery) for protocol in named if not protocol.draws]
    return pd.DataFrame(rows)


def _protocol_row(protocol: Protocol, query: pd.DataFrame, gallery: pd.DataFrame) -> dict[str, object]:
    rows, ranked = protocol.query_rows(query), protocol.gallery_rows(gallery)[0]
    query_rows, gallery_rows = pairs(query.iloc[rows], gallery.iloc[ranked])
    query_rows, gallery_rows = rows[query_rows], ranked[gallery_rows]
    good = ~protocol.is_junk(query, gallery, query_rows, gallery_rows)
    query_rows, gallery_rows = query_rows[good], gallery_rows[good]
    matches, pairs_left = np.bincount(query_rows, minlength=len(query)), len(query_rows)
    counted = int((matches > 0).sum())
    row: dict[str, object] = {"protocol": protocol.name, "asked": len(rows), "counted": counted, "matches": pairs_left}
    row["per_query"] = float(np.median(matches[matches > 0])) if counted else float("nan")
    same = {}
    for column in ("clothes", "camera"):
        a, b = query[column].to_numpy()[query_rows], gallery[column].to_numpy()[gallery_rows]
        known = (a != UNKNOWN) & (b != UNKNOWN)
        same[column] = (a == b) & known
        row[f"same_{column}"] = float(same[column][known].mean()) if known.any() else float("nan")
    alone = len(np.unique(query_rows[same["clothes"]]))
    row["clothes_alone"] = alone / counted if counted and row["same_clothes"] == row["same_clothes"] else float("nan")
    return row


@dataclass(frozen=True, eq=False)
class Sheet:
    """A contact sheet.

    Attributes:
        image: (H, W, 3) uint8 RGB; one person per row, a bar above each image marks the outfit.
        table: one row per image: ``row column path person_label clothes_label camera_label``.
        row_height: pixels from one person to the next.
    """

    image: NDArray[np.uint8]
    table: pd.DataFrame
    row_height: int


def contact_sheet(
    benchmark: Benchmark, split: str = "train", people: int = 6, columns: int = 10, cell: tuple[int, int] = (128, 64)
) -> Sheet:
    """Some people of a split, evenly spaced over the sorted labels, with images from all their outfits.

    Args:
        split: as in ``benchmark.frames()``: train, query, gallery, validation_query ...
        columns: largest number of images per person; outfits alternate, then cameras.
        cell: height and width of an image in pixels.

    Faces are pixelated (the upper quarter of the image) if ``benchmark.hide_faces`` is set.

    Raises:
        InputError: no such split, or an image that cannot be read.
    """
    splits = dict(benchmark.frames())
    if split not in splits:
        raise InputError(f"split {split!r} of {benchmark.name} is empty or unknown; one of {', '.join(splits)}")
    chosen = _choose(splits[split], benchmark.distractor if split != "train" else None, people, columns)
    bars = [_INK[outfit % len(_INK)] if outfit >= 0 else 200 for outfit in chosen["outfit"]]
    shown = ["row", "column", "path", "person_label", "clothes_label", "camera_label"]
    table = chosen[shown].reset_index(drop=True)
    return _sheet(benchmark.root, table, bars, cell, benchmark.hide_faces)


def pair_sheet(
    root: Path, paths: Sequence[str], hide_faces: bool, across: int = 5, cell: tuple[int, int] = (128, 64)
) -> Sheet:
    """Pairs of images side by side, such as the duplicates in ``Problem.paths``.

    Args:
        paths: two and two, relative to ``root``.
        hide_faces: pixelate faces, as in ``contact_sheet``; pass ``benchmark.hide_faces``.
        across: pairs in a row.
        cell: height and width of an image in pixels.

    The sheet's table is ``row column path``; each pair has one colour of bar. Raises InputError for an image that
    cannot be read, or an odd number of paths.
    """
    if len(paths) % 2 or not len(paths):
        raise InputError(f"pair_sheet: {len(paths)} paths; give two for each pair")
    position = np.arange(len(paths))
    table = pd.DataFrame({"row": position // (2 * across), "column": position % (2 * across), "path": list(paths)})
    bars = [_INK[pair % len(_INK)] for pair in position // 2]
    return _sheet(root, table, bars, cell, hide_faces)


def _sheet(root: Path, table: pd.DataFrame, bars: Sequence[Any], cell: tuple[int, int], hide_faces: bool) -> Sheet:
    """The images of a table with ``row``, ``column`` and ``path`` on white, each below a bar of its colour."""
    height, width = cell[0] + _BAR + _GAP, cell[1] + _GAP
    image = np.full((height * (table["row"].max() + 1), width * (table["column"].max() + 1), 3), 255, np.uint8)
    for row, column, path, bar in zip(table["row"], table["column"], table["path"], bars, strict=True):
        top, left = row * height, column * width
        image[top : top + _BAR, left : left + cell[1]] = bar
        image[top + _BAR : top + _BAR + cell[0], left : left + cell[1]] = _cell(root / path, cell, hide_faces)
    return Sheet(image, table, height)


def _choose(frame: pd.DataFrame, distractor: int | None, people: int, columns: int) -> pd.DataFrame:
    """The images of a sheet with their ``row``, ``column`` and ``outfit`` (numbered within the person)."""
    frame = frame[~frame["person"].isin([UNKNOWN, distractor])]
    numbers = np.unique(frame["person"])
    picked = numbers[np.linspace(0, len(numbers) - 1, min(people, len(numbers))).round().astype(int)]
    rows = frame[frame["person"].isin(picked)].copy()
    rows["row"] = np.searchsorted(picked, rows["person"])
    rows["outfit"] = rows.groupby("person")["clothes"].rank("dense").astype(int) - 1
    rows.loc[rows["clothes"] == UNKNOWN, "outfit"] = UNKNOWN
    rows["turn"] = rows.groupby(["person", "clothes", "camera"]).cumcount()
    rows = rows.sort_values(["row", "turn", "camera", "clothes", "path"])
    rows["turn"] = rows.groupby(["person", "clothes"]).cumcount()  # outfits alternate, and within an outfit cameras
    rows = rows.sort_values(["row", "turn", "clothes"]).groupby("row").head(columns)
    rows = rows.sort_values(["row", "clothes", "camera", "path"])
    return rows.assign(column=rows.groupby("row").cumcount())


def picture(file: Path, blocked: bool = False) -> Image.Image:
    """An image of a benchmark, RGB, at its own size; ``blocked``: with a pixelated face.

    Raises InputError naming an image that is missing or cannot be read.
    """
    image = open_image(file)
    if blocked:
        hide_face(image)
    return image


def hide_face(image: Image.Image) -> None:
    """Pixelate the face in place: the upper quarter of a person's image."""
    face = image.crop((0, 0, image.width, round(image.height * _FACE)))
    block = max(4, round(image.width * _BLOCK))
    blocks = face.resize((max(face.width // block, 1), max(face.height // block, 1)), Image.Resampling.BOX)
    image.paste(blocks.resize(face.size, Image.Resampling.NEAREST), (0, 0))


def _cell(file: Path, cell: tuple[int, int], blocked: bool) -> NDArray[np.uint8]:
    image = picture(file).resize((cell[1], cell[0]), Image.Resampling.BICUBIC)
    if blocked:
        hide_face(image)
    return np.asarray(image)
