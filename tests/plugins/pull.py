"""A loss: the distance of each joint embedding to the mean of its identity in the batch."""

from typing import Annotated

import torch
from pydantic import Field

from csgn_lib import registry


@registry.register("stage2_term", "pull")
def pull(
    step,
    *,
    pull_weight: Annotated[float, Field(ge=0, description="weight of the pull")] = 0.01,
):
    """Mean squared distance of each joint embedding f (B, D) to the mean of its identity."""
    f, person = step.embeddings.f, step.batch.person
    same = (person[:, None] == person[None, :]).to(f)  # (B, B)
    means = same @ f / same.sum(dim=1, keepdim=True)
    return pull_weight * torch.mean((f - means).square().sum(dim=1))
