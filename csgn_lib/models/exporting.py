"""Export of a trained run: configuration, weights, model card, and the encoder in formats that need no csgn_lib."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePath

from csgn_lib import plugins
from csgn_lib.config import BY_CONTENT, WEIGHTS, Experiment
from csgn_lib.models.cards import BENCHMARK, write_card
from csgn_lib.models.opening import Model, open_model
from csgn_lib.models.programs import export_onnx, export_program, missing_packages
from csgn_lib.records import VOCABULARY, InputError, Run, write_json
from csgn_lib.retrieval.recording import CONFIG, model_digest
from csgn_lib.retrieval.score_files import RESULTS, VERIFICATION, refuse_occupied

PROGRAM, ONNX, CARD = "model.pt2", "model.onnx", "README.md"


@dataclass(frozen=True)
class Exported:
    """folder: the exported folder. differences: largest difference between the encoder and each exported file, by name.
    missing: packages that are needed for ONNX and not installed."""

    folder: Path
    differences: dict[str, float]
    missing: list[str]


def export(model_dir: str | Path, out: str | Path | None = None) -> Exported:
    """Write a folder that ``training.load_encoder(Run(folder))`` can load and huggingface_hub can upload.

    It contains config.json (without paths of the training machine), model.safetensors, README.md (the model card),
    model.pt2, model.onnx if ONNX is installed, and results.json, verification.json, benchmark.json and vocabulary.yaml
    if ``model_dir`` has them. Nothing is uploaded; to publish it:
    ``huggingface_hub.upload_folder(repo_id="you/name", folder_path=folder)``.

    Args:
        out: default: ``export`` in ``model_dir``. An export of the same model is replaced, file by file.

    Raises:
        InputError: as ``open_model``; an ``out`` with other content; an exported encoder whose output differs.
    """
    model = open_model(model_dir, device="cpu")
    out = Path(model_dir, "export") if out is None else Path(out)
    refuse_occupied(out, lambda: _is_of(out, model), model.run.dir)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-")
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error}); name another folder with --out") from error
    with staging as name:
        differences, missing = _fill(model, Path(name))
        out.mkdir(exist_ok=True)
        for path in sorted(Path(name).iterdir()):
            if path.is_dir():  # plugins
                shutil.rmtree(out / path.name, ignore_errors=True)
            os.replace(path, out / path.name)
    return Exported(out, differences, missing)


def _fill(model: Model, folder: Path) -> tuple[dict[str, float], list[str]]:
    for name in (WEIGHTS, RESULTS, VERIFICATION, BENCHMARK, VOCABULARY):
        if model.run.path(name).exists():
            shutil.copyfile(model.run.path(name), folder / name)
    plugins.keep_copies(model.experiment.loaded, folder)
    write_json(folder / CONFIG, _without_paths(model.experiment).model_dump(mode="json"))
    differences, missing = {PROGRAM: export_program(model, folder / PROGRAM)}, missing_packages()
    if not missing:
        differences[ONNX] = export_onnx(model, folder / ONNX)
    write_card(open_model(folder, device="cpu"), folder / CARD, differences)
    return differences, missing


def _without_paths(experiment: Experiment) -> Experiment:
    """The same experiment without its data's folder, and with the bare names of checkpoints and other files."""
    files = {name: getattr(experiment, name) for name in ("clip_checkpoint", "resnet_checkpoint", *BY_CONTENT)}
    bare = {name: PurePath(value.replace("\\", "/")).name for name, value in files.items() if value}
    named = tuple(plugin.name for plugin in experiment.loaded)
    return experiment.model_copy(update={"root": None, "plugin": named} | bare)


def _is_of(out: Path, model: Model) -> bool:
    held = Run(out)
    return all(held.path(name).exists() for name in (CONFIG, WEIGHTS)) and model_digest(held) == model.digest
