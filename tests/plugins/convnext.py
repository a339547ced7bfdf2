"""A tower: timm's ConvNeXt instead of the ResNet (resnet_model=convnext_branch)."""

from typing import Annotated, Literal

import timm
import torch
from pydantic import Field
from torch import nn

from csgn_lib import registry
from csgn_lib.backbones import ResNetFeatures


class ConvNeXt(nn.Module):
    """Images (B, 3, H, W), RGB in [0, 1], to pooled (B, R) and feature_map (B, R, h, w)."""

    def __init__(self, name, checkpoint=None):
        super().__init__()
        self.model = timm.create_model(name, pretrained=checkpoint == "timm", num_classes=0)
        self.width, self.checkpoint = self.model.num_features, None  # a file here would be recorded by its SHA-256
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

    def forward(self, images):
        feature_map = self.model.forward_features((images - self.mean) / self.std)
        return ResNetFeatures(feature_map.mean(dim=(2, 3)), feature_map)


@registry.register("tower", "convnext_branch")
def build(
    checkpoint,
    size,
    *,
    convnext_size: Annotated[Literal["atto", "femto", "tiny"], Field(description="which ConvNeXt")] = "atto",
):
    """A ConvNeXt beside the ViT."""
    return ConvNeXt(f"convnext_{convnext_size}", checkpoint)
