"""Stored embeddings of a scored run, checked against the benchmark's data."""

from __future__ import annotations

import json

from safetensors import SafetensorError, safe_open
from torch import Tensor

from csgn_lib.datasets import Benchmark
from csgn_lib.records import InputError, Run, read_json


def load_embeddings(run: Run, benchmark: Benchmark) -> dict[str, Tensor]:
    """The tensors of a run's embeddings.safetensors, rows in the order of ``benchmark``'s frames.

    Returns:
        ``query`` (Q, D) and ``gallery`` (G, D): the plain descriptor; ``query.f``, ``gallery.z12`` and so on: its
        parts, float32.

    Raises:
        InputError: the run is not scored; the file is damaged; it was made from other images than the benchmark has
            now, or the labels of the data have changed since.
    """
    path = run.path("embeddings.safetensors")
    if not path.exists():
        raise InputError(f"{path} does not exist: the run is unfinished or not scored; run 12_train again")
    try:
        with safe_open(path, framework="pt") as opened:
            header, stored = opened.metadata() or {}, {name: opened.get_tensor(name) for name in opened.keys()}
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}); score the run again") from error
    for split in ("query", "gallery"):
        rows = next((len(value) for name, value in stored.items() if name.split(".")[0] == split), 0)
        frame = getattr(benchmark, split)
        if rows != len(frame):
            raise InputError(f"{path} holds {rows} {split} images, {benchmark.name} has {len(frame)}; score it again")
        if f"{split}_paths" in header and json.loads(header[f"{split}_paths"]) != list(frame["path"]):
            raise InputError(_other_data(run, benchmark))
    record = run.path("benchmark.json")
    if record.exists() and read_json(record).get("manifest") != benchmark.manifest():
        raise InputError(_other_data(run, benchmark))
    return stored


def _other_data(run: Run, benchmark: Benchmark) -> str:
    return (
        f"{run.dir} was embedded from other data than {benchmark.root} holds (names, sizes or labels changed); "
        "restore these data, or score the run again"
    )
