"""Load a model's folder: its encoder, its digest, and descriptors of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from csgn_lib.batches import iterate
from csgn_lib.config import Experiment
from csgn_lib.progress import track
from csgn_lib.records import InputError, Run
from csgn_lib.retrieval.recording import CONFIG, model_digest
from csgn_lib.training import load_encoder
from csgn_lib.vss import DESCRIPTOR, VisualEncoder


@dataclass(frozen=True)
class Model:
    """An encoder in eval mode, and its folder.

    Attributes:
        run: the folder of a finished run or of an export.
        experiment: the parameters that it was trained with.
        encoder: the encoder, on the device of its use.
        digest: 64 hexadecimal digits of the weights and of everything else that affects an embedding.
    """

    run: Run
    experiment: Experiment
    encoder: VisualEncoder
    digest: str

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels that images are resized to."""
        return self.experiment.image_height, self.experiment.image_width

    @property
    def device(self) -> torch.device:
        """Where the encoder's weights lie."""
        return next(self.encoder.parameters()).device

    @property
    def descriptor(self) -> str:
        """The descriptor's name: those parts of [z12; f; c] that this model has."""
        return f"[{'; '.join(self.parts)}]"

    @property
    def parts(self) -> dict[str, int]:
        """The descriptor's parts and their widths, in order."""
        return {name: self.encoder.widths[name] for name in DESCRIPTOR if name in self.encoder.widths}

    @property
    def width(self) -> int:
        """D, the width of a descriptor."""
        return sum(self.parts.values())


def open_model(folder: str | Path, device: torch.device | str | None = None) -> Model:
    """Load the folder of a finished run or of an export.

    Args:
        device: where images will be embedded; by default the GPU if there is one.

    Raises:
        InputError: no such folder, no finished model in it, or files that do not fit each other.
    """
    run = Run(Path(folder))
    if not run.dir.is_dir():
        raise InputError(f"{folder} is not a folder; give a finished run's, or one that csgn export made")
    if not run.path(CONFIG).exists():
        raise InputError(f"{folder} holds no {CONFIG}: it is no model; give a finished run's folder under reports/runs")
    experiment = _experiment(run)
    encoder = load_encoder(run)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Model(run, experiment, encoder.to(device).requires_grad_(False), model_digest(run))


@torch.inference_mode()
def describe(
    model: Model,
    root: str | Path,
    paths: Sequence[str],
    *,
    batch_size: int = 128,
) -> NDArray[np.float32]:
    """Descriptors (N, D) of image files, in their order: each part of unit length, as in recorded embeddings.

    Reports progress on standard error if there are many images.

    Args:
        paths: relative to ``root``.

    Raises:
        InputError: no image, or one that cannot be read, which is named.
    """
    if not paths:
        raise InputError(f"no images to embed below {root}")
    unknown = dict.fromkeys(("person", "camera", "clothes"), -1)
    features = np.empty((len(paths), model.width), dtype=np.float32)
    batches = iterate(pd.DataFrame({"path": list(paths)} | unknown), root, model.size, batch_size)
    for batch in track(batches, len(paths), "embedding images", size=lambda batch: len(batch.index)):
        features[batch.index.numpy()] = model.encoder(batch.images.to(model.device)).descriptor().cpu().numpy()
    return features


def _experiment(run: Run) -> Experiment:
    config = run.config
    try:
        return Experiment.from_parameters(**config)
    except InputError as error:
        raise InputError(f"{run.path(CONFIG)} was written by another library or version: {error}") from None
