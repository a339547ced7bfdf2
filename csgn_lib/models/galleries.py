"""A folder of images as a searchable file: descriptors, and in the header what they are of and by whom."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from csgn_lib.datasets.files import walk
from csgn_lib.models.opening import Model, describe
from csgn_lib.records import InputError, atomic_path, writing
from csgn_lib.retrieval import neighbours

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
FEATURES = "features"


@dataclass(frozen=True)
class Gallery:
    """A folder, embedded.

    Attributes:
        features: (N, D) float32, each part of the descriptor of unit length.
        folder: as it was given to ``embed_folder``.
        paths: N image files, relative to ``folder``.
        model: digest of the model that made the features.
        descriptor: what they are, such as [z12; f; c].
    """

    features: NDArray[np.float32]
    folder: str
    paths: list[str]
    model: str
    descriptor: str


def list_images(folder: str | Path) -> list[str]:
    """Every image file below ``folder``, at any depth, relative to it; sorted. Links to folders are followed.

    Hidden files and system folders are passed over; a warning counts other files by their suffix.

    Raises:
        InputError: no such folder, no image in it, a sub-folder that cannot be listed, a name that is not UTF-8.
    """
    if not Path(folder).is_dir():
        raise InputError(f"{folder} is not a folder; give the one that holds the images")
    files = sorted(walk(folder))
    found = [file for file in files if file.lower().endswith(SUFFIXES)]
    if not found:
        raise InputError(f"{folder} holds no image at any depth; a name must end in {', '.join(SUFFIXES)}")
    if len(found) < len(files):
        kinds = Counter(Path(file).suffix.lower() or "no suffix" for file in set(files) - set(found))
        names = ", ".join(f"{kind} ({count})" for kind, count in sorted(kinds.items()))
        warnings.warn(f"{folder}: skipped files that are not {', '.join(SUFFIXES)}: {names}", stacklevel=2)
    return found


def embed_folder(
    model: Model,
    folder: str | Path,
    out: str | Path,
    *,
    batch_size: int = 128,
    report: Callable[[int], None] | None = None,
) -> Gallery:
    """Embed every image below ``folder`` and write ``out``, whole or not at all.

    The file is safetensors: ``features`` (N, D) float32, and in its header, as text: ``paths`` (a JSON list of
    N), ``folder``, ``model`` (its digest) and ``descriptor``.

    Raises:
        InputError: as ``list_images``; an image that cannot be read; an ``out`` that is a folder or cannot be
            written.
    """
    if Path(out).is_dir():
        raise InputError(f"{out} is a folder; name a file in it, such as {Path(out, 'gallery.safetensors')}")
    paths = list_images(folder)
    with writing(out):  # tried before hours are spent
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=Path(out).parent).close()
    features = describe(model, folder, paths, batch_size=batch_size, report=report)
    gallery = Gallery(features, str(folder), paths, model.digest, model.descriptor)
    header = {"folder": gallery.folder, "model": gallery.model, "descriptor": gallery.descriptor}
    with writing(out), atomic_path(out) as temporary:
        save_file({FEATURES: features}, temporary, metadata=header | {"paths": json.dumps(paths)})
    return gallery


def read_gallery(file: str | Path) -> Gallery:
    """Read what ``embed_folder`` wrote.

    Raises:
        InputError: no such file, or one that ``embed_folder`` did not write.
    """
    if not Path(file).is_file():
        raise InputError(f"{file} does not exist; make it: csgn embed MODEL_DIR FOLDER --out {file}")
    try:
        with safe_open(file, framework="numpy") as opened:
            header = opened.metadata() or {}
            features = opened.get_tensor(FEATURES)
        paths = json.loads(header["paths"])
        gallery = Gallery(features, header["folder"], paths, header["model"], header["descriptor"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            f"{file} was not written by csgn embed, or is damaged ({error}); embed the folder again"
        ) from None
    if features.ndim != 2 or len(paths) != len(features):
        raise InputError(f"{file} has {len(paths)} paths for features {features.shape}; embed the folder again")
    return gallery


def search(model: Model, image: str | Path, gallery: Gallery, k: int = 10) -> pd.DataFrame:
    """The k gallery images nearest to one image, exactly; all of them where there are fewer.

    Returns:
        rank (from 1), distance (1 - cosine, in [0, 2]), path (with the gallery's folder); nearest first.

    Raises:
        InputError: a gallery that another model made, an image that cannot be read, k below 1.
    """
    if gallery.model != model.digest:
        raise InputError(
            f"the gallery was embedded by another model ({gallery.model[:12]}, not {model.digest[:12]}): their "
            f"distances mean nothing; embed it again: csgn embed {model.run.dir} {gallery.folder} --out FILE"
        )
    image = Path(image)
    if not image.is_file():
        raise InputError(f"{image} does not exist; give an image file to look for")
    query = describe(model, image.parent, [image.name])
    found = neighbours.search(query, gallery.features, min(k, len(gallery.paths)))
    return pd.DataFrame(
        {
            "rank": np.arange(1, found.rows.shape[1] + 1),
            "distance": np.maximum(found.distances[0], 0),
            "path": [str(Path(gallery.folder, gallery.paths[row])) for row in found.rows[0]],
        }
    )
