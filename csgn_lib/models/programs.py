"""Export of an encoder to one file that runs without this library: torch.export (.pt2) and ONNX.

Both map decoded images (B, 3, H, W), RGB uint8, of any batch size B, to descriptors (B, D) float32. Scaling and
normalisation are included.
"""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from csgn_lib.models.opening import Model
from csgn_lib.records import InputError, atomic_path
from csgn_lib.vss import VisualEncoder

TOLERANCE = 1e-4  # of a descriptor whose parts have unit length
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
BATCHES = (1, 2, 5)  # batch sizes with which an exported encoder is compared
TRACED = 2  # images in the example; torch.export may treat a batch size of 1 as constant


class DescriptorProgram(nn.Module):
    """Images (B, 3, H, W) uint8 to the plain descriptor (B, D)."""

    def __init__(self, encoder: VisualEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        """The descriptor (B, D) of images (B, 3, H, W)."""
        return self.encoder(images).descriptor()


@torch.no_grad()
def export_program(model: Model, path: str | Path) -> float:
    """Write the encoder as a torch.export program (.pt2), load it and compare the outputs.

    ``torch.export.load(path).module()`` returns the function. Its extra file ``about.json`` holds the model's
    digest, the descriptor with the widths of its parts, and the image size.

    Returns:
        The largest difference from the encoder, as ``difference``.

    Raises:
        InputError: a difference above TOLERANCE; nothing is then written.
    """
    module, example = _traceable(model)
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    with atomic_path(path) as temporary:
        torch.export.save(program, temporary, extra_files={"about.json": json.dumps(about(model))})
        deviation = difference(module, torch.export.load(temporary).module(), model.size)
        _accept(deviation, path)
    return deviation


def missing_packages() -> list[str]:
    """Those of ONNX_PACKAGES that are not installed."""
    return [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]


@torch.no_grad()
def export_onnx(model: Model, path: str | Path) -> float:
    """Write the encoder as ONNX, ``images`` to ``descriptor``, run it with onnxruntime and compare.

    Returns:
        The largest difference from the encoder, as ``difference``.

    Raises:
        InputError: packages are missing, or a difference above TOLERANCE; nothing is then written.
    """
    if missing := missing_packages():
        raise InputError(f'ONNX needs {", ".join(missing)}: pip install -e ".[export]"')
    module, example = _traceable(model)
    with atomic_path(path) as temporary:
        torch.onnx.export(
            module,
            (example,),
            str(temporary),
            input_names=["images"],
            output_names=["descriptor"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
        deviation = difference(module, _onnx_function(temporary), model.size)
        _accept(deviation, path)
    return deviation


@torch.no_grad()
def difference(
    expected: Callable[[Tensor], Tensor],
    program: Callable[[Tensor], Tensor],
    size: tuple[int, int],
    batches: Sequence[int] = BATCHES,
) -> float:
    """The largest absolute difference between two functions on random images, over several batch sizes.

    NaN on either side is an infinite difference.
    """
    generator, worst = torch.Generator().manual_seed(0), 0.0
    for count in batches:
        images = torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=generator)
        gap = (expected(images) - program(images)).abs().nan_to_num(nan=torch.inf)
        worst = max(worst, float(gap.max()))
    return worst


def about(model: Model) -> dict[str, Any]:
    """The description in an exported file."""
    return {
        "model": model.digest,
        "descriptor": model.descriptor,
        "parts": model.parts,
        "image_height": model.size[0],
        "image_width": model.size[1],
    }


def _traceable(model: Model) -> tuple[DescriptorProgram, Tensor]:
    """A copy of the encoder on the CPU, and example images for it."""
    module = DescriptorProgram(copy.deepcopy(model.encoder).cpu()).eval()
    return module, torch.zeros(TRACED, 3, *model.size, dtype=torch.uint8)


def _onnx_function(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _accept(deviation: float, path: str | Path) -> None:
    if not deviation <= TOLERANCE:
        raise InputError(
            f"{path} would differ from the encoder by {deviation:.1e}, more than {TOLERANCE:.0e}: it is not written; "
            f"use the library instead, or another version than torch {torch.__version__}"
        )
