"""One variant of each part of the method, and a descriptor."""

from typing import Annotated

import torch
from pydantic import Field
from torch.nn import functional as F

from csgn_lib import hsf, mdg, registry


@registry.register("mdg", "gray_only")
def gray_only(batch, *, gray_share: Annotated[float, Field(ge=0, le=1, description="weight of the gray terms")] = 0.9):
    """``separate`` with the gray terms weighted against the RGB ones."""
    weights = {"rgb": 1 - gray_share, "gray": gray_share}
    return {name: weights[name.split("_")[1]] * value for name, value in mdg.separate(batch).items()}


@registry.register("vss", "mean")
class Mean(torch.nn.Module):
    """f = (zp + A c) / 2."""

    def __init__(self, widths, generator, *, mean_bias: Annotated[bool, Field(description="a bias in A")] = False):
        super().__init__()
        self.project = torch.nn.Linear(widths["c"], widths["f"], bias=mean_bias)
        torch.nn.init.normal_(self.project.weight, std=0.01, generator=generator)

    def forward(self, branches):
        return (branches.zp + self.project(branches.c)) / 2


@registry.register("hsf", "strict")
def strict(batch, *, label_smoothing):
    """The worse of the two descriptions; label_smoothing is the experiment's own."""
    values = [hsf.cross_entropy(log_p, batch.targets, label_smoothing) for log_p in (batch.log_p_rgb, batch.log_p_gray)]
    return {"text": torch.stack(values).amax()}


@registry.register("descriptor", "f alone")
def f_alone(embeddings):
    """The joint embedding, L2-normalised."""
    return F.normalize(embeddings.f, dim=1)
