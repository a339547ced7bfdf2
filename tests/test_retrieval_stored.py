"""Stored embeddings are loaded only for the data from which they were made."""

import json

import pytest
import torch
import trees
from safetensors.torch import save_file

from csgn_lib import datasets, retrieval
from csgn_lib.records import InputError, Run, write_json


@pytest.fixture
def scored(tmp_path) -> tuple[Run, datasets.Benchmark]:
    """A run's folder with random embeddings of a small benchmark, as ``score_run`` writes them."""
    benchmark = datasets.load("csv", trees.own(tmp_path / "data"))
    run = Run(tmp_path / "run")
    tensors = {split: torch.rand(len(getattr(benchmark, split)), 4) for split in ("query", "gallery")}
    header = {f"{split}_paths": json.dumps(list(getattr(benchmark, split)["path"])) for split in tensors}
    run.dir.mkdir()
    save_file(tensors, run.path("embeddings.safetensors"), metadata=header)
    write_json(run.path("benchmark.json"), benchmark.record())
    return run, benchmark


def test_embeddings_are_loaded_for_same_data(scored):
    run, benchmark = scored
    stored = retrieval.load_embeddings(run, benchmark)
    assert stored["query"].shape == (1, 4) and stored["gallery"].shape == (4, 4)


def _rename(root):
    (root / "b/2.jpg").rename(root / "b/9.jpg")
    file = root / "people.csv"
    file.write_text(file.read_text().replace("b/2.jpg", "b/9.jpg"))


def _relabel(root):
    file = root / "people.csv"
    file.write_text(file.read_text().replace("green", "brown"))


def _resize(root):
    (root / "b/2.jpg").write_bytes((root / "b/2.jpg").read_bytes() + b"\0")


@pytest.mark.parametrize("change", [_rename, _relabel, _resize])
@pytest.mark.parametrize("record", [True, False])
def test_embeddings_of_other_data_are_refused(scored, change, record):
    run, benchmark = scored
    change(benchmark.root)
    changed = datasets.load("csv", benchmark.root)
    if not record:  # a run of an older version: only the paths in the embeddings' own header tell
        run.path("benchmark.json").unlink()
        if change is not _rename:
            return
    with pytest.raises(InputError, match="embedded from other data than .*data holds .*; restore these data, or score"):
        retrieval.load_embeddings(run, changed)


def test_embeddings_of_other_size_are_refused(scored):
    run, benchmark = scored
    with pytest.raises(InputError, match="holds 4 gallery images, csv has 3; score it again"):
        retrieval.load_embeddings(run, benchmark.without(["b/4.jpg"], "blurred"))


def test_missing_and_damaged_embeddings_are_named(scored):
    run, benchmark = scored
    run.path("embeddings.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match="embeddings.safetensors is damaged .*; score the run again"):
        retrieval.load_embeddings(run, benchmark)
    run.path("embeddings.safetensors").unlink()
    with pytest.raises(InputError, match="embeddings.safetensors does not exist: the run is unfinished or not scored"):
        retrieval.load_embeddings(run, benchmark)
