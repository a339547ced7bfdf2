"""Embeddings of the images of a frame, in the frame's order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from csgn_lib.batches import iterate
from csgn_lib.datasets import Benchmark
from csgn_lib.progress import track
from csgn_lib.retrieval.evaluation import evaluate_all
from csgn_lib.retrieval.scores import Scores
from csgn_lib.vss import Embeddings, concatenate


@dataclass(frozen=True)
class Embedded:
    """Embeddings of a benchmark's queries and gallery, with their frames."""

    benchmark: Benchmark
    query: Embeddings
    gallery: Embeddings

    def scores(self, features: Callable[[Embeddings], Tensor], protocols: Sequence[str]) -> dict[str, Scores]:
        """Score ``features(embeddings)`` (B, D) under each protocol."""
        frames = self.benchmark.query, self.benchmark.gallery
        return evaluate_all(features(self.query), features(self.gallery), *frames, list(protocols))


@torch.inference_mode()
def embed(
    encoder: Callable[[Tensor], Embeddings],
    frame: pd.DataFrame,
    root: str | Path,
    size: tuple[int, int],
    *,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    flip: bool = False,
    cache_dir: str | Path | None = None,
    what: str = "embedding images",
) -> Embeddings:
    """Embed every image of a frame, in its order; Embeddings of (N, D) tensors on the CPU.

    Args:
        encoder: images (B, 3, H, W) uint8 to Embeddings, such as a VisualEncoder in eval mode.
        size: (H, W) that the encoder was built for.
        flip: average each embedding with that of the mirrored image; off by default.
        what: name of the work in progress reports on standard error.

    Raises:
        InputError: an unreadable image, an empty frame.
    """
    parts_of_batches = []
    batches = iterate(frame, root, size, batch_size, cache_dir)
    for batch in track(batches, len(frame), what, size=lambda batch: len(batch.index)):
        images = batch.images.to(device)
        parts = encoder(images).parts()
        if flip:
            mirrored = encoder(images.flip(-1)).parts()
            parts = {name: (value + mirrored[name]) / 2 for name, value in parts.items()}
        parts_of_batches.append(
            Embeddings(**{name: None for name in ("z11", "z12", "f", "c")} | {n: v.cpu() for n, v in parts.items()})
        )
    return concatenate(parts_of_batches)


def embed_benchmark(encoder: nn.Module, benchmark: Benchmark, size: tuple[int, int], **options: Any) -> Embedded:
    """Embed a benchmark's queries and gallery with an encoder, set to eval mode. Options as for ``embed``."""
    encoder.eval()
    sides = [
        embed(encoder, frame, benchmark.root, size, what=f"embedding {split}", **options)
        for split, frame in (("query", benchmark.query), ("gallery", benchmark.gallery))
    ]
    return Embedded(benchmark, *sides)
