"""timm's ResNets, CLIP's among them, whose last stage keeps its resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from timm.models.byobnet import ByobNet, checkpoint_filter_fn
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from csgn_lib.backbones import checkpoints
from csgn_lib.records import InputError

RESNET_FILES = {"csgn_tiny_resnet": "csgn-tiny-resnet"}
HEADS = ("fc.", "head.")  # ImageNet's classifier, CLIP's attention pool: not used here


@dataclass(frozen=True)
class ResNetFeatures:
    """pooled (B, C): average over the map. feature_map (B, C, h, w): after the last stage."""

    pooled: Tensor
    feature_map: Tensor


class ResNetTower(nn.Module):
    """A timm ResNet whose last stage keeps its resolution (last stride 1, as in BoT and CLIP-ReID [C])."""

    def __init__(
        self, model: ResNet | ByobNet, mean: Sequence[float], std: Sequence[float], checkpoint: Path | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.checkpoint = checkpoint  # the file that the weights came from; None for random weights
        self.width = int(model.num_features)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> ResNetFeatures:
        """Images (B, 3, H, W), RGB in [0, 1], to pooled (B, C) and feature_map (B, C, h, w)."""
        feature_map = self.model.forward_features((images - self.mean) / self.std)
        return ResNetFeatures(feature_map.mean(dim=(2, 3)), feature_map)

    def layers(self) -> list[list[nn.Parameter]]:
        """Its parameters by layer, from pixels to feature map: the stem, then the four stages."""
        net = self.model
        stages = list(net.stages) if isinstance(net, ByobNet) else [net.layer1, net.layer2, net.layer3, net.layer4]
        parts = [list(stage.parameters()) for stage in stages]
        inside = {id(value) for part in parts for value in part}
        return [[value for value in net.parameters() if id(value) not in inside], *parts]


@timm.models.register_model
def csgn_tiny_resnet(pretrained: bool = False, **kwargs: object) -> ResNet:
    """The embedded ResNet: four stages of one basic block, 32 to 256 channels, 1.2 M parameters."""
    if pretrained:
        raise InputError("csgn_tiny_resnet has no hub weights; use resnet_checkpoint=embedded")
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(name, None)
    return ResNet(BasicBlock, layers=(1, 1, 1, 1), channels=(32, 64, 128, 256), **kwargs)


def load_resnet(model: str, checkpoint: str | None) -> ResNetTower:
    """Build a ResNet and load its weights.

    Args:
        model: a timm ResNet name, such as resnet50; resnet50_clip or another of CLIP's, without its attention pool; or
            csgn_tiny_resnet.
        checkpoint: embedded; timm (timm's default weights, downloaded by timm); a file (safetensors, or a pickle
            that ``weights_only`` accepts; of a whole CLIP in OpenAI's key layout too, if the model is CLIP's); or
            None for random weights.

    Raises:
        InputError: not a ResNet of timm's, a missing or refused file, weights of another shape.
    """
    if not timm.is_model(model):
        raise InputError(f"resnet_model {model!r} is not a timm model; see timm.list_models('resnet*')")
    source = checkpoints.embedded(model, checkpoint, RESNET_FILES, "resnet")
    with torch.device("meta"):  # its type and size are known before anything is downloaded
        blank = timm.create_model(model)
    is_clips = isinstance(blank, ByobNet) and "_clip" in model
    if not isinstance(blank, ResNet) and not is_clips:
        raise InputError(f"resnet_model {model!r} is a {type(blank).__name__}, not a ResNet with four stages")
    cfg = getattr(blank, "pretrained_cfg", None) or {}
    try:
        net = timm.create_model(model, pretrained=source == "timm", num_classes=0)
    except (OSError, RuntimeError) as error:
        why, _ = checkpoints.diagnosis(error, "resnet_model")
        raise InputError(f"resnet_checkpoint=timm of {model} could not be downloaded ({why}); give a file") from error
    if is_clips:
        net.head = nn.Identity()
    file = checkpoints.timm_file(cfg) if source == "timm" else Path(source) if source else None
    if source and source != "timm":
        _load_resnet_weights(net, model, file)
    _keep_resolution(net.stages[-1][0] if is_clips else net.layer4[0])
    mean, std = cfg.get("mean") or (0.485, 0.456, 0.406), cfg.get("std") or (0.229, 0.224, 0.225)
    return ResNetTower(net, mean, std, file)


def _load_resnet_weights(net: ResNet | ByobNet, model: str, file: Path) -> None:
    if not file.is_file():
        raise InputError(f"resnet_checkpoint {file} does not exist; give another file, or timm for timm's own")
    try:
        weights = checkpoints.read_weights(file)
        if isinstance(net, ByobNet):
            weights = checkpoint_filter_fn(weights, net)  # OpenAI's names to timm's, and no text tower
        weights = {name: value.float() for name, value in weights.items() if not name.startswith(HEADS)}
        checkpoints.fill(net, weights)
    except Exception as error:  # torch and safetensors raise many exceptions for a file that is not a checkpoint
        why, cure = checkpoints.diagnosis(error, "resnet_model")
        raise InputError(f"resnet_checkpoint {file} cannot be loaded into {model}: {why}; {cure}") from error


def _keep_resolution(block: nn.Module) -> None:
    """Remove the downsampling of a block: stride-1 convolutions and no average pool, as in timm with stride 1."""
    for name, module in list(block.named_modules()):
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
        elif isinstance(module, nn.AvgPool2d):
            block.set_submodule(name, nn.Identity())
        elif module is not block and getattr(module, "stride", 1) not in (1, (1, 1)):
            raise InputError("this ResNet uses blur pooling for downsampling; its last stride cannot be set to 1")
