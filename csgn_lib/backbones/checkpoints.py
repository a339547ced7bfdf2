"""Checkpoint files: read without executing code, and identified by their hash."""

from __future__ import annotations

import argparse
import pickle
import re
from pathlib import Path
from typing import Any

import huggingface_hub  # a dependency of timm, which downloads through it
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from csgn_lib.records import InputError

TOWERS = Path(__file__).parent / "weights"
EMBEDDED = ("embedded", "embedded-1")  # the second pair: same recipe, another seed
BESIDE_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # scalars in OpenAI's state dicts
HOLDERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
)  # keys under which training code stores weights
PREFIXES = ("module.", "model.", "net.")  # prefixes that wrappers add to every name
PLAIN = [  # harmless types that are stored beside weights
    argparse.Namespace, np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType,
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
]  # fmt: skip


class NoWeights(ValueError):
    """A file without usable weights. ``args``: what it is, and the remedy."""


class Misfit(ValueError):
    """Tensors of another model, or of another size of the same model."""


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name: safetensors, or a pickle that ``weights_only`` accepts.

    Tensors are also found under a key such as ``state_dict`` or ``model`` (beside counters, optimizers, an
    argparse.Namespace). Prefixes of wrappers are removed (``module.``, ``_orig_mod.``, ``model.``, ``backbone.``).

    Raises:
        NoWeights: the file is something else, such as a web page, or holds NaN.
        Exception: any exception of safetensors and torch for a file that cannot be read; ``diagnosis`` summarises it in
            one line.
    """
    weights = _unwrapped(_load(Path(file)))
    for name, value in weights.items():
        if value.is_floating_point() and value.isnan().any():
            raise NoWeights(f"{_short(name, 60)} holds NaN: the training that wrote it diverged", "give an earlier one")
    return weights


def is_openai(weights: dict[str, Tensor]) -> bool:
    """Whether a state dict has the three scalars that OpenAI's checkpoints contain."""
    return set(BESIDE_WEIGHTS) <= set(weights)


def _load(file: Path) -> Any:
    with file.open("rb") as opened:
        head = opened.read(512)
    text = head.lstrip().lower()
    if not head:
        raise NoWeights("it is empty", "copy it again")
    if text.startswith(b"version https://git-lfs"):
        raise NoWeights("it is a Git LFS pointer, not the file itself", "fetch that: git lfs pull")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise NoWeights("it is a web page", "download the file itself, not the page about it")
    pickled = head.startswith((b"PK", b"\x80"))
    if head[8:9] == b"{" or (file.suffix == ".safetensors" and not pickled):  # a length of 8 bytes, then JSON
        return load_file(file)
    # an open file: from a path, torch would infer the format by the suffix
    with torch.serialization.safe_globals(PLAIN), file.open("rb") as opened:
        return torch.load(opened, map_location="cpu", weights_only=True)


def _unwrapped(held: Any) -> dict[str, Tensor]:
    """The state dict in a saved object, without the prefixes of wrappers."""
    while isinstance(held, dict) and not _is_state(held):
        inner = {key: value for key, value in held.items() if isinstance(value, dict) and value}
        key = next((key for key in HOLDERS if key in inner), None)
        if key is None:
            states = [name for name, value in inner.items() if _is_state(value)]
            if len(states) > 1:
                raise NoWeights(f"it holds several: {_some(sorted(map(str, states)), 5)}", "save one of them alone")
            key = states[0] if states else None
        held = inner.get(key)
    if not isinstance(held, dict):
        raise NoWeights("it holds no tensors by name (a state_dict)", "copy it again")
    weights = {name.replace("_orig_mod.", ""): value for name, value in held.items()}
    while prefix := next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in weights)), None):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    if any(name.startswith("backbone.") for name in weights):  # other entries do not belong to this network
        inside = {name: value for name, value in weights.items() if name.startswith("backbone.")}
        return {name.removeprefix("backbone."): value for name, value in inside.items()}
    return weights


def _is_state(held: Any) -> bool:
    return (
        isinstance(held, dict)
        and bool(held)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in held.items())
    )


def fill(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load every tensor of a module; a tensor of one element may have shape () or (1,).

    Raises:
        Misfit: some are missing, unexpected or of another shape: how many of each, and up to three of them by name.
    """
    own = module.state_dict()
    single = {name for name in state if name in own and state[name].numel() == own[name].numel() == 1}
    state = {name: value.reshape(own[name].shape) if name in single else value for name, value in state.items()}
    other = {
        name: f"{_short(name, 60)} is {tuple(value.shape)}, not {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and value.shape != own[name].shape
    }
    fitting = {name: value for name, value in state.items() if name not in other}
    absent, foreign = module.load_state_dict(fitting, strict=False)
    kinds = {
        "missing": [_short(name, 60) for name in absent if name not in other],
        "unexpected": [_short(name, 60) for name in foreign],
        "of another shape": [*other.values()],
    }
    kinds = {kind: names for kind, names in kinds.items() if names}
    if kinds:
        shown = 3 // len(kinds)
        counts = (f"{len(names)} {kind} ({_some(names, shown)})" for kind, names in kinds.items())
        raise Misfit(f"its tensors differ: {', '.join(counts)}")


def diagnosis(error: Exception, parameter: str) -> tuple[str, str]:
    """Why a checkpoint could not be fetched or read, and the remedy: one short line each.

    Args:
        parameter: the parameter that names the checkpoint's model.
    """
    if "TorchScript" in str(error):
        return (
            "it is a TorchScript archive, a program rather than tensors",
            "if you trust it, open it once by torch.jit.load and save its state_dict() as safetensors",
        )
    if isinstance(error, NoWeights):
        why, cure = error.args
        return why, f"{cure}, or give another file"
    if isinstance(error, pickle.UnpicklingError):
        named = re.search(r"(?:GLOBAL|type) ([\w.]+)", str(error))
        what = f"a pickle with a {named[1]}, which" if named and "." in named[1] else "no checkpoint, or a pickle that"
        return f"it is {what} would run code", "save the tensors as safetensors"
    if isinstance(error, Misfit):
        return str(error), f"set {parameter} to the model it is of, or give another file"
    cure = "see that it can be reached" if isinstance(error, OSError) else "copy it again"
    return _short(str(error), 200) or f"{type(error).__name__} while it was read", f"{cure}, or give another file"


def _some(names: list[str], shown: int) -> str:
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")


def _short(text: str, length: int) -> str:
    """One line of at most ``length`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 3] + "..."


def timm_file(cfg: dict[str, Any]) -> Path | None:
    """Path of the cached weights of a timm pretrained_cfg; None if they are not downloaded."""
    repository, _, _ = (cfg.get("hf_hub_id") or "").partition("@")
    if not repository:
        file = Path(torch.hub.get_dir(), "checkpoints", (cfg.get("url") or "").rpartition("/")[2])
        return file if file.is_file() else None
    names = (cfg.get("hf_hub_filename") or "model.safetensors", "pytorch_model.bin")
    cached = (huggingface_hub.try_to_load_from_cache(repository, name) for name in names)
    return next((Path(file) for file in cached if isinstance(file, str)), None)


def embedded(model: str, checkpoint: str | None, files: dict[str, str], kind: str) -> str | None:
    """A checkpoint as given, or the file of a name in EMBEDDED. Raises InputError if the model has no such file."""
    if checkpoint not in EMBEDDED:
        return checkpoint
    if model not in files:
        raise InputError(f"{kind}_checkpoint={checkpoint} is for {', '.join(files)}; {model} needs a file or a tag")
    file = TOWERS / f"{files[model]}{checkpoint.removeprefix('embedded')}.safetensors"
    if not file.exists():
        raise InputError(f"{kind}_checkpoint={checkpoint}: {file.name} is not there; make tiny-clip writes it")
    return str(file)
