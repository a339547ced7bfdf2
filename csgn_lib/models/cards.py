"""Model card: README.md for the Hugging Face Hub, with numbers from the run's records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from csgn_lib.backbones import EMBEDDED
from csgn_lib.config import Experiment
from csgn_lib.models.opening import Model
from csgn_lib.records import InputError, Run, read_json, write_text
from csgn_lib.retrieval.score_files import RESULTS
from csgn_lib.statistics.intervals import METRICS, percent
from csgn_lib.vss import uses_resnet

BENCHMARK = "benchmark.json"
REPORTED = "plain"  # the descriptor that needs no text encoder
TAGS = ("person-re-identification", "clothes-changing", "image-retrieval", "clip", "csgn")
_TEMPLATE = Path(__file__).with_name("card.md")


def write_card(model: Model, path: str | Path, differences: Mapping[str, float] | None = None) -> None:
    """Write the model card of a folder.

    Scores are those of the plain descriptor in results.json, the data are described by benchmark.json. If a file is
    missing, the card states that.

    Args:
        differences: largest difference between the encoder and each exported file, by file name.

    Raises:
        InputError: a file that is not the record of a scored run.
    """
    run, experiment = model.run, model.experiment
    protocols = _protocols(run)
    text = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        front=_front_matter(experiment, protocols),
        title=_title(experiment),
        method=_method(experiment),
        descriptor=model.descriptor,
        width=model.width,
        height=model.size[0],
        across=model.size[1],
        digest=model.digest,
        programs=_programs(differences or {}),
        data=_data(experiment, run),
        scores=_scores(protocols),
        limits=_limits(experiment),
        license=_license(experiment),
    )
    write_text(path, text)


def _protocols(run: Run) -> dict[str, dict[str, Any]]:
    """Recorded scores by protocol, the default protocol first; empty if the run was not scored."""
    path = run.path(RESULTS)
    if not path.exists():
        return {}
    try:
        protocols = read_json(path)[REPORTED]["protocols"]
        for scores in protocols.values():
            scores["counted"], scores["dropped"], *(scores[f"{metric}_interval"] for metric in METRICS)
        return protocols
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not the record of a scored run ({error!r}); remove it, or score again") from None


def _front_matter(experiment: Experiment, protocols: dict[str, dict[str, Any]]) -> str:
    """YAML header. Values are written as JSON, a subset of YAML, so that no name needs escaping."""
    fields: dict[str, Any] = {"license": "apache-2.0"}
    if not _is_free(experiment):
        fields = {"license": "other", "license_name": f"{experiment.benchmark}-terms"}
    fields |= {"library_name": "csgn-workbench", "pipeline_tag": "image-feature-extraction", "tags": list(TAGS)}
    if protocols:
        fields["model-index"] = [{"name": _title(experiment), "results": [_result(experiment, protocols)]}]
    return "\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items())


def _result(experiment: Experiment, protocols: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The default protocol's metrics in the Hub's format, in percent."""
    protocol, scores = next(iter(protocols.items()))
    metrics = [
        {"type": metric, "name": f"{name} (%), {protocol}", "value": round(100 * scores[metric], 1)}
        for metric, name in METRICS.items()
    ]
    task = {"type": "image-feature-extraction", "name": "clothes-changing person re-identification"}
    return {"task": task, "dataset": {"type": experiment.benchmark, "name": experiment.benchmark}, "metrics": metrics}


def _title(experiment: Experiment) -> str:
    return f"CSGN Workbench: {experiment.benchmark}, vss {experiment.vss}, hsf {experiment.hsf}, seed {experiment.seed}"


def _method(experiment: Experiment) -> str:
    towers = []
    if experiment.vss != "resnet":
        towers.append(f"the ViT of `{experiment.clip_model}` (started from `{experiment.clip_checkpoint}`)")
    if experiment.vss == "two_vits":
        towers.append("a second ViT that started from the same weights")
    if uses_resnet(experiment):
        towers.append(f"`{experiment.resnet_model}` (started from `{experiment.resnet_checkpoint}`)")
    changes = ", ".join(f"`{name}={value}`" for name, value in experiment.difference().items() if name != "seed")
    over = f"with {changes}" if changes else "as it is"
    return (
        f"It is {' and '.join(towers)}, trained from the preset `{experiment.preset}` {over}, seed {experiment.seed}."
    )


def _programs(differences: Mapping[str, float]) -> str:
    return "".join(
        f"\n- `{name}`: the same as a program that needs no csgn_lib; images (B, 3, H, W) uint8, RGB, B free, to "
        f"descriptors. Greatest difference from the encoder on random images: {gap:.1e}."
        for name, gap in differences.items()
    )


def _data(experiment: Experiment, run: Run) -> str:
    path = run.path(BENCHMARK)
    if not path.exists():
        return f"Benchmark `{experiment.benchmark}`. Its files are not recorded: {BENCHMARK} was not there."
    record = read_json(path)
    try:
        images = ", ".join(f"{count} {split}" for split, count in record["images"].items())
        left_out = f"{len(record['left_out'])} left out"
        return (
            f"Benchmark `{record['benchmark']}`: {images} images; {left_out}.\n"
            f"Manifest (SHA-256 over names, sizes and labels): `{record['manifest']}`."
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not what a training run writes ({error!r}); take it out") from None


def _scores(protocols: dict[str, dict[str, Any]]) -> str:
    if not protocols:
        return f"Not scored: {RESULTS} was not there."
    head = "| protocol | " + " | ".join(f"{name} (%)" for name in METRICS.values()) + " | queries counted | dropped |"
    lines = [head, "|---" * (len(METRICS) + 3) + "|"]
    for protocol, scores in protocols.items():
        cells = [percent(scores[metric], *scores[f"{metric}_interval"]) for metric in METRICS]
        lines.append(f"| `{protocol}` | {' | '.join(cells)} | {scores['counted']} | {scores['dropped']} |")
    return "\n".join(lines)


def _limits(experiment: Experiment) -> str:
    if experiment.benchmark == "synthetic":
        return (
            "It was trained and scored on rendered people. It knows nothing of photographs, and its scores say nothing "
            "about them."
        )
    return (
        "It was trained on one benchmark: other cameras, seasons, clothes and groups of people than it holds are "
        "likely to be recognised worse, and some groups worse than others. That was not measured."
    )


def _is_free(experiment: Experiment) -> bool:
    """Whether the weights were trained on rendered images only."""
    starts = [experiment.clip_checkpoint if experiment.vss != "resnet" else None]
    starts += [experiment.resnet_checkpoint if uses_resnet(experiment) else None]
    return experiment.benchmark == "synthetic" and set(starts) <= {None, *EMBEDDED}


def _license(experiment: Experiment) -> str:
    if _is_free(experiment):
        return "Apache-2.0: trained on rendered pictures alone."
    return (
        f"The code is Apache-2.0. These weights are also under the terms of the data (`{experiment.benchmark}`) and "
        "of the weights that training started from: read both before you share or use them."
    )
