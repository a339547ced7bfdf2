"""The sensitivity of a trained run to clothes and their colours, recorded with its scores."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from csgn_lib.analysis.probes.pictures import (
    OTHER_PERSON,
    RECLOTHED,
    RECOLOURED,
    clothes_sensitivity,
    colour_sensitivity,
    counterfactuals,
    embed_pictures,
    evenly,
    movements,
)
from csgn_lib.config import Experiment
from csgn_lib.records import Run, cache, locked, write_json
from csgn_lib.retrieval import PLAIN, Vocabularies, chosen_descriptors, features_of
from csgn_lib.statistics.intervals import Interval
from csgn_lib.synthetic import Entry, World, entries, world_of
from csgn_lib.synthetic.export import versions
from csgn_lib.training import load_encoder, load_towers
from csgn_lib.training.steps import save_tensors

CHANGED = (RECOLOURED, RECLOTHED, OTHER_PERSON)
SENSITIVITIES = {"colour_sensitivity": colour_sensitivity, "clothes_sensitivity": clothes_sensitivity}


def record_sensitivity(run: Run, per_person: int = 1, seed: int = 0, **options: Any) -> dict[str, dict[str, Interval]]:
    """Measure and record how far colours and clothes move a scored run's descriptors, on test people of a world.

    See ``colour_sensitivity`` and ``clothes_sensitivity``. Each is written under its name (value, low, high) into its
    descriptor's entry of results.json. Images of other benchmarks cannot be rendered again, so nothing is measured or
    written for them.

    Args:
        per_person: images of each test person; each is rendered again recoloured, reclothed, and with another person.
        seed: of the new colours and clothes, and of the other person.
        options: as for ``over_people``.

    Returns:
        {descriptor: {name: interval over people}}; empty if the run's images are not of a rendered world.

    Raises:
        InputError: a run that is not scored.
    """
    chosen = chosen_descriptors(run)
    experiment = Experiment.from_parameters(**run.config)
    if (world := world_of(experiment)) is None:
        return {}
    pictures = evenly(entries(world, "test"), per_person)
    people = np.array([entry.person for entry in pictures])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder, (clip, _) = load_encoder(run).to(device).eval(), load_towers(experiment)
    worded = any(d.vocabulary != PLAIN for d in chosen.values())
    words = Vocabularies(clip, experiment.vocabulary_file) if worded else None
    size = (experiment.image_height, experiment.image_width)
    seen = {
        change: embed_pictures(lambda images: encoder(images.to(device)), images, size)
        for change, images in _rendered(world, pictures, seed).items()
    }
    sensitivity = {}
    for name, descriptor in chosen.items():
        read = features_of(descriptor, words)
        moved = movements({change: read(embedded).cpu() for change, embedded in seen.items()})
        sensitivity[name] = {what: of(moved, people, seed=seed, **options) for what, of in SENSITIVITIES.items()}
    results = run.results
    for name, intervals in sensitivity.items():
        results[name] |= {what: interval.record() for what, interval in intervals.items()}
    write_json(run.path("results.json"), results)
    return sensitivity


def _rendered(world: World, pictures: list[Entry], seed: int) -> dict[str, Tensor]:
    """The counterfactuals of a world's pictures; they are kept in the cache, because all runs on a world need them."""
    key = json.dumps([world.description(), versions(), [entry.path for entry in pictures], seed])
    file = cache() / f"counterfactuals-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
    if (kept := _read(file)) is None:
        with locked(file.with_suffix(".lock")):  # one process renders, the others wait for its file
            if (kept := _read(file)) is None:
                kept = counterfactuals(pictures, world.size, seed, CHANGED)
                save_tensors(kept, file)
    return kept


def _read(file: Path) -> dict[str, Tensor] | None:
    try:
        return load_file(file)
    except (FileNotFoundError, SafetensorError):  # none yet, or a damaged file
        return None
