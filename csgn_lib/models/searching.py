"""Search an index by image, by text, or by both, optionally with a distance threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.backend_bases import FigureCanvasBase
from numpy.typing import NDArray

from csgn_lib.figures import rank_strips
from csgn_lib.models.galleries import Gallery, list_images, refuse_other_model
from csgn_lib.models.opening import Model, describe
from csgn_lib.models.words import joint_features
from csgn_lib.records import InputError, atomic_path, read_json, writing
from csgn_lib.retrieval import suggested_threshold
from csgn_lib.retrieval.neighbours import cosine_distances, nearest
from csgn_lib.retrieval.score_files import VERIFICATION

NOBODY = "nobody"


@dataclass(frozen=True)
class Threshold:
    """A distance threshold and its origin; ``str`` describes it."""

    value: float
    source: str

    def __str__(self) -> str:
        return f"threshold {self.value:.4f}: {self.source}"


def search(
    model: Model,
    images: str | Path | Sequence[str | Path],
    gallery: Gallery,
    k: int = 10,
    *,
    threshold: float | None = None,
) -> pd.DataFrame:
    """The k gallery images nearest to each query image, or all if there are fewer.

    Exact, unless the gallery has an approximate index.

    Args:
        images: an image file, several, or a folder of them.
        threshold: omit images at this distance or more; a query may then have no row.

    Returns:
        query (path), rank (from 1), distance (1 - cosine, in [0, 2]), path (with its folder); nearest first.

    Raises:
        InputError: a gallery that another model made, an image that cannot be read, k below 1.
    """
    refuse_other_model(model, gallery)
    queries = query_paths(images)
    nearest = gallery.nearest(describe(model, ".", queries), k)
    return _answers(queries, nearest.rows, np.maximum(nearest.distances, 0), gallery, threshold)


def search_words(
    model: Model,
    gallery: Gallery,
    words: NDArray[np.float32],
    k: int = 10,
    *,
    image: str | Path | None = None,
) -> pd.DataFrame:
    """The k gallery images nearest to a sentence, or to an image and a sentence; exact.

    The sentence is compared with the joint embedding f alone, by 1 - cosine. With an image, each image's two distances
    are standardised over the gallery (mean 0, standard deviation 1) and averaged.

    Args:
        words: (P,) unit length, from ``words.text_feature``.
        image: a query image, or None for the text alone.

    Returns:
        As ``search``; ``query`` is empty for a text alone. With an image, ``distance`` is the average, which has no
        unit and may be negative.

    Raises:
        InputError: as ``search``; a model without a joint embedding; words of another width.
    """
    refuse_other_model(model, gallery)
    distance = 1 - joint_features(model, gallery) @ words
    if image is not None:
        query = describe(model, ".", query_paths(image))
        of_image = cosine_distances(query, gallery.features)[0]
        distance = (_standardised(distance) + _standardised(of_image)) / 2
    rows, values = nearest(distance[None], min(k, len(distance)))
    return _answers([str(image or "")], rows, values, gallery, None)


def query_paths(images: str | Path | Sequence[str | Path]) -> list[str]:
    """Query image files: one, several, or all of a folder. Raises InputError for a missing file."""
    if isinstance(images, str | Path):
        if Path(images).is_dir():
            return [str(Path(images, name)) for name in list_images(images)]
        images = [images]
    for image in images:
        if not Path(image).is_file():
            raise InputError(f"{image} does not exist; give a query image, or a folder of query images")
    return [str(image) for image in images]


def recorded_threshold(model: Model, fpir: float = 0.1, file: str | Path | None = None) -> Threshold:
    """The threshold at which at most a share ``fpir`` of searches for absent people return a result.

    Args:
        file: a verification.json; by default the one in the model's folder.

    Raises:
        InputError: no such record; a record of another model or other data; a rate for which too few searches were
            recorded.
    """
    path = Path(file) if file is not None else model.run.path(VERIFICATION)
    cure = f"measure it: csgn evaluate {model.run.dir} BENCHMARK ROOT, then --threshold FOLDER/{VERIFICATION}"
    if not path.is_file():
        raise InputError(f"{path} does not exist, so no threshold is known for this model; {cure}")
    thresholds = read_json(path, cure)
    if not isinstance(thresholds, dict) or not isinstance(thresholds.get("protocols"), dict):
        raise InputError(f"{path} is no record of thresholds; {cure}")
    if thresholds.get("model") != model.digest:
        raise InputError(f"{path} is of another model, whose distances mean something else; {cure}")
    data = path.with_name("benchmark.json")
    if data.exists() and read_json(data).get("manifest") != thresholds.get("manifest"):
        raise InputError(f"{path} was measured on other data than {data} describes; {cure}")
    if not thresholds["protocols"]:
        raise InputError(f"{path} holds no threshold ({thresholds.get('why', 'no protocol')}); {cure}")
    protocol, record = next(iter(thresholds["protocols"].items()))
    source = (
        f"at most {fpir:.3g} of searches for absent people are answered, measured on {thresholds['benchmark']}, "
        f"{protocol}, {record['counts']['non_mated']} searches in {record['counts']['gallery']} images; "
        "other photographs, and larger galleries, need their own"
    )
    return Threshold(suggested_threshold(record, fpir), source)


def parse_threshold(model: Model, given: str | None, fpir: float) -> Threshold | None:
    """Parse a threshold option: auto, a number, the path of a verification.json, or None.

    Raises InputError as ``recorded_threshold``, and for any other text.
    """
    if given is None:
        return None
    if given == "auto":
        return recorded_threshold(model, fpir)
    try:
        return Threshold(float(given), "as given")
    except ValueError:
        return recorded_threshold(model, fpir, given)


def refuse_search(image: Path | None, text: str | None, threshold: str | None, save: Path | None) -> None:
    """Raise InputError for an invalid combination of search options."""
    if image is None and text is None:
        raise InputError("give a query image, --text, or both")
    if text is not None and threshold is not None:
        raise InputError("a threshold applies to distances between images; omit --threshold or --text")
    if text is not None and image is not None and image.is_dir():
        raise InputError(f"{image} is a folder; --text can be combined with one image only")
    if save is not None:
        _refuse_picture(save)


def answers_text(answers: pd.DataFrame, queries: Sequence[str]) -> str:
    """Results as text, one table per query; "nobody" for a query without a result below the threshold."""
    lines = []
    for query in queries:
        part = answers if len(queries) == 1 else answers[answers["query"] == query]
        lines += [query] if len(queries) > 1 else []
        lines.append("rank  distance  path" if len(part) else f"{NOBODY}: no image is nearer than the threshold")
        lines += [f"{row.rank:>4}  {row.distance:>8.4f}  {row.path}" for row in part.itertuples()]
    return "\n".join(lines)


def save_strip(answers: pd.DataFrame, queries: Sequence[str], path: str | Path, top: int = 10) -> None:
    """Write an image of each query and its results, one row per query; the suffix determines the format.

    Raises:
        InputError: a suffix that Matplotlib cannot write; an image that cannot be read.
    """
    _refuse_picture(Path(path))
    rows = []
    for query in queries:
        part = (answers if len(queries) == 1 else answers[answers["query"] == query]).assign(person=0, clothes=-1)
        if Path(query).is_file():
            rows.append(({"path": query, "person": 0, "clothes": -1}, part))
        else:  # a text has no image: the row begins with the best result
            rows.append((part.iloc[0], part.iloc[1:]))
    figure = rank_strips(rows, ".", top, [Path(query).name for query in queries], answers=False)
    with writing(path), atomic_path(path) as temporary:
        figure.savefig(temporary)
    plt.close(figure)


def _refuse_picture(path: Path) -> None:
    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in kinds:
        raise InputError(f"{path}: the file name must end in .png, .jpg, .pdf or .svg")


def _answers(
    queries: list[str],
    rows: NDArray[np.int64],
    distances: NDArray[np.floating],
    gallery: Gallery,
    threshold: float | None,
) -> pd.DataFrame:
    k = rows.shape[1]
    table = pd.DataFrame(
        {
            "query": np.repeat(np.array(queries, dtype=object), k),
            "rank": np.tile(np.arange(1, k + 1), len(queries)),
            "distance": distances.ravel(),
            "path": [gallery.paths[row] if row >= 0 else "" for row in rows.ravel()],
        }
    )
    table = table[rows.ravel() >= 0]
    return (table if threshold is None else table[table["distance"] < threshold]).reset_index(drop=True)


def _standardised(values: NDArray[np.float32]) -> NDArray[np.float64]:
    spread = values.std()
    return (values - values.mean()) / (spread if spread > 0 else 1.0)
