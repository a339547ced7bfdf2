"""Records of a run's start: parameters, plugins, training data, initial weights and loss terms.

A resumed run must have the same ones, otherwise its record would be wrong. They are compared before training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from csgn_lib import plugins
from csgn_lib.batches import Batch
from csgn_lib.config import BY_CONTENT, Experiment, content_digests
from csgn_lib.datasets import Benchmark
from csgn_lib.mdg import TextFeatures
from csgn_lib.records import BACK, VOCABULARY, InputError, Run, locate, read_json, sha256, write_json, write_text
from csgn_lib.training.encoders import without_data
from csgn_lib.training.stage2 import stage2_terms
from csgn_lib.training.steps import Stage2Targets
from csgn_lib.vocabulary_files import keep_vocabulary
from csgn_lib.vss import Embeddings, Heads

# ignored parameters: a tracker has no influence, the others are compared by content
NOT_COMPARED = ("plugin", "tracker", *BY_CONTENT)
OTHER = "remove this folder, or choose another with --run-dir"


def refuse_another(run: Run, experiment: Experiment, benchmark: Benchmark) -> None:
    """Raise InputError if the folder holds a run of other parameters, plugins, loss terms or training data.

    Test data may differ: an image that was replaced or excluded after training does not change the model. Identities
    are stored by number, and other training data may assign a number to another person.
    """
    if not run.trained:
        return
    if not run.path("config.json").exists():  # it was written first
        raise InputError(f"{run.dir} has no config.json, which has the parameters of its checkpoints; {BACK}")
    _refuse_other_parameters(run, experiment)
    _refuse_other_plugins(run, experiment)
    _refuse_other_contents(run, experiment)
    _refuse_other_data(run, benchmark)
    before = _origin(run).get("terms")
    if before is not None and before != (now := loss_terms(experiment, _widths(experiment))):
        raise InputError(
            f"{run.dir} was begun with the loss terms {', '.join(before)}, and this is {', '.join(now)}; {OTHER}"
        )


def refuse_other_weights(run: Run, weights: dict[str, str | None]) -> None:
    """Raise InputError if the run was started from other checkpoints, given by their SHA-256."""
    before = _origin(run).get("checkpoints", {})
    for name, digest in weights.items():
        if before and before.get(name) != digest:
            raise InputError(
                f"{run.dir} was begun from another {name}_checkpoint: its SHA-256 was {before.get(name)}, and is "
                f"{digest}; name another folder, or bring the file back"
            )


def write_origin(
    run: Run, experiment: Experiment, benchmark: Benchmark, weights: dict[str, str | None], terms: list[str]
) -> None:
    """Write config.json, benchmark.json and towers.json, and copy the plugins and the vocabulary."""
    plugins.keep_copies(experiment.loaded, run.dir)
    names: dict[str, Any] = {"plugin": list(experiment.plugins)}  # of the copies: the originals may move
    contents = content_digests(experiment.model_dump())
    if experiment.vocabulary_file:
        names["vocabulary_file"] = VOCABULARY
        keep_vocabulary(locate(experiment.vocabulary_file), run.dir)
    write_json(run.path("config.json"), experiment.model_dump(mode="json") | names)
    write_data_record(run, benchmark)
    origin = {"checkpoints": weights, "plugins": experiment.plugins, "terms": terms, **contents}
    write_json(run.path("towers.json"), origin)


def write_data_record(run: Run, benchmark: Benchmark) -> None:
    """Write benchmark.json if it does not already describe these data."""
    record = benchmark.record() | {"training": training_digest(benchmark)}
    if not run.path("benchmark.json").exists() or read_json(run.path("benchmark.json"), BACK) != record:
        write_json(run.path("benchmark.json"), record)


def starting_weights(**towers: nn.Module | None) -> dict[str, str | None]:
    """SHA-256 of the checkpoint of each tower that is not None; null for random weights."""
    return {name: sha256(tower.checkpoint) for name, tower in towers.items() if tower is not None}


def training_digest(benchmark: Benchmark) -> str:
    """SHA-256 (hex) of the training data: paths, file sizes and labels, held-out people included."""
    lines = sorted(line for line in benchmark.manifest_lines() if line.startswith("train\t"))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@torch.no_grad()
def loss_terms(experiment: Experiment, widths: dict[str, int]) -> list[str]:
    """Names of stage 2's loss terms, from one evaluation on random embeddings of four images of two identities.

    Args:
        widths: of the encoder's embeddings, by name.

    Raises:
        InputError: a plugin's term or form that fails, returns no scalar, or uses a name that is taken.
    """
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    parts = {name: random(4, widths[name]) if name in widths else None for name in ("z11", "z12", "f", "c")}
    embeddings, person = Embeddings(**parts), torch.tensor([0, 0, 1, 1])
    basis = torch.eye(widths.get("f", 1))[:, :1]
    text = TextFeatures(random(2, widths["f"]), random(2, widths["f"])) if experiment.hsf != "none" else None
    batch = Batch(torch.zeros(4, 3, 2, 2), person, person, person, torch.arange(4))
    outputs = Heads(widths, 2, generator)(embeddings)
    return list(stage2_terms(experiment, embeddings, outputs, batch, Stage2Targets(text, basis, basis, basis)))


def _widths(experiment: Experiment) -> dict[str, int]:
    return without_data(experiment, 2)[1].encoder.widths


def _origin(run: Run) -> dict[str, Any]:
    return read_json(run.path("towers.json"), BACK) if run.path("towers.json").exists() else {}


def _refuse_other_parameters(run: Run, experiment: Experiment) -> None:
    values, before = experiment.model_dump(mode="json"), run.config
    for name, value in before.items():
        if name in NOT_COMPARED or name not in values or values[name] == value:
            continue
        if name == "root":
            raise InputError(
                f"{run.dir} was begun with root={value}, and now root={values[name]}; bring the data back there (a "
                f"symbolic link will do) and set root={value}, or name another folder"
            )
        raise InputError(f"{run.dir} holds a run with another {name}: {value!r}, and now {values[name]!r}; {OTHER}")


def _refuse_other_plugins(run: Run, experiment: Experiment) -> None:
    before, now = _origin(run).get("plugins", {}), experiment.plugins
    for name in before.keys() | now.keys():
        copy = f"bring it back (the run's copy is {run.path(plugins.COPIES, name)}), or name another folder"
        _refuse_other_digest(run, f"plugin {name}", before.get(name), now.get(name), copy)


def _refuse_other_contents(run: Run, experiment: Experiment) -> None:
    if not run.path("towers.json").exists():
        return
    before, now = _origin(run), content_digests(experiment.model_dump())
    for name in BY_CONTENT:
        given = f"{name}={getattr(experiment, name)}; {OTHER}"
        _refuse_other_digest(run, name, before.get(name), now.get(name), given)


def _refuse_other_digest(run: Run, what: str, before: str | None, now: str | None, cure: str) -> None:
    if before != now:
        states = [digest[:12] if digest else "none" for digest in (before, now)]
        raise InputError(f"{run.dir} was begun with another {what}: SHA-256 {states[0]}, and now {states[1]}; {cure}")


def _refuse_other_data(run: Run, benchmark: Benchmark) -> None:
    if not run.path("benchmark.json").exists():
        return
    before = read_json(run.path("benchmark.json"), BACK)
    now = benchmark.record() | {"training": training_digest(benchmark)}
    facts = {name: (before.get(name), now[name]) for name in ("benchmark", "training") if name in before}
    facts["number of training images"] = tuple(record.get("images", {}).get("train") for record in (before, now))
    if "training" not in before:  # from a version that recorded all data together
        facts["manifest"] = before.get("manifest"), now["manifest"]
    for name in sorted(facts, key=lambda name: name in ("training", "manifest")):
        if facts[name][0] != facts[name][1]:
            what = {"training": "SHA-256 of the training data"}.get(name, name)
            raise InputError(
                f"{run.dir} was begun on other data: its {what} was {facts[name][0]}, and is {facts[name][1]}; "
                "name another folder, or bring the data back"
            )


def publish(run: Run, record: dict[str, Any], report: Callable[[dict[str, Any]], None] | None) -> None:
    """Append a record to metrics.jsonl and log.txt; it replaces one of the same epoch, and later ones."""
    place = (record["stage"], record["epoch"])
    known = run.metrics()
    if any((old["stage"], old["epoch"]) >= place for old in known):
        kept = [old for old in known if (old["stage"], old["epoch"]) < place]
        write_text(run.path("metrics.jsonl"), "".join(json.dumps(old) + "\n" for old in kept))
    run.append_metrics(record)
    run.log(" ".join(f"{name} {value:.5g}" for name, value in record.items()))
    if report is not None:
        report(record)
