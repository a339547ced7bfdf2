"""All kinds of map that an encoder allows, by name."""

from __future__ import annotations

from contextlib import suppress

from torch import Tensor

from csgn_lib.analysis.attribution.attention import rollout
from csgn_lib.analysis.attribution.images import Read, checked, whole
from csgn_lib.analysis.attribution.occluding import check_patch, occlusion
from csgn_lib.analysis.attribution.pairs import TOWERS, grad_cam
from csgn_lib.records import InputError
from csgn_lib.vss import VisualEncoder

CAM = {"vit": "Grad-CAM (ViT)", "resnet": "Grad-CAM (ResNet)"}
ROLLOUT, OCCLUSION = "rollout", "occlusion"


def all_maps(
    encoder: VisualEncoder,
    images: Tensor,
    others: Tensor,
    read: Read = whole,
    *,
    occlude: bool = True,
    patch: int = 16,
    stride: int = 8,
) -> dict[str, Tensor]:
    """Rollout, Grad-CAM of each tower, occlusion: name -> maps (B, H, W) of ``images``.

    A method that the encoder does not allow (rollout of a ResNet, Grad-CAM of a tower that ``read`` does not depend
    on) is omitted. ``patch`` and ``stride`` as for ``occlusion``, which ``occlude=False`` omits.

    Raises:
        InputError: images that do not fit, a patch that does not fit.
    """
    checked(encoder, images, others), checked(encoder, others)
    check_patch(images, patch, stride)
    found: dict[str, Tensor] = {}
    with suppress(InputError):
        found[ROLLOUT] = rollout(encoder, images)
    for tower in TOWERS:
        with suppress(InputError):
            found[CAM[tower]] = grad_cam(encoder, images, others, read, tower)
    if occlude:
        found[OCCLUSION] = occlusion(encoder, images, others, read, patch, stride)
    return found
