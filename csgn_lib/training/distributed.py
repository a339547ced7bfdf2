"""One batch over several processes: each embeds its shard, and every loss sees the whole batch.

In most codebases each process has a separate batch, so the number of GPUs changes the batch size, the hardest negatives
and batch normalisation. Here the batch is the experiment's for any number of processes: identities are split over the
processes, embeddings are gathered, and batch statistics are those of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce  # with gradients
from torch.nn.parallel import DistributedDataParallel

from csgn_lib.records import InputError
from csgn_lib.vss import Embeddings


class BatchShard:
    """This process's part of every batch: ``rank`` of ``world_size``.

    Raises:
        InputError: the number of processes does not divide ``batch_persons``.
    """

    def __init__(self, accelerator: Accelerator, batch_persons: int) -> None:
        self.rank, self.world_size = accelerator.process_index, accelerator.num_processes
        self.device = accelerator.device
        if batch_persons % self.world_size:
            raise InputError(
                f"batch_persons={batch_persons} cannot be split over {self.world_size} processes in whole identities; "
                "launch a number of processes that divides it, or set another batch_persons"
            )

    def rows(self, size: int) -> slice:
        """This process's rows of a batch of ``size`` images: whole identities, in the batch's order."""
        part = size // self.world_size
        return slice(self.rank * part, (self.rank + 1) * part)

    def gather(self, embeddings: Embeddings) -> Embeddings:
        """The embeddings of all processes, in the batch's order; gradients reach this process's own rows."""
        if self.world_size == 1:
            return embeddings
        whole = {name: _Gather.apply(value, self.rank, self.world_size) for name, value in embeddings.parts().items()}
        return Embeddings(**{name: whole.get(name) for name in ("z11", "z12", "f", "c")})

    def wrap_ddp(self, module: nn.Module) -> Callable:
        """The module in DistributedDataParallel, its 2-D batch norms over all processes; itself for one process."""
        if self.world_size == 1:
            return module
        use_shared_batch_norm(module)
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices)


def sync_resume_point(accelerator: Accelerator, point: tuple[int, int]) -> tuple[int, int]:
    """The (epoch, step) from which all processes resume; a barrier before any of them writes.

    Raises:
        InputError: they found different checkpoints.
    """
    points = accelerator.gather(torch.tensor([point], device=accelerator.device)).tolist()
    if any(tuple(other) != point for other in points):
        raise InputError(f"processes found checkpoints of different steps ({points}); all must see the same folder")
    return point


class _Gather(torch.autograd.Function):
    """All processes' rows (b, width) to (B, width).

    Every process computes the whole loss, so the gradient of its own rows is complete without communication; it is
    multiplied by the number of processes, since DDP averages the gradients of weights.
    """

    @staticmethod
    def forward(ctx: object, own: Tensor, rank: int, count: int) -> Tensor:
        ctx.rank, ctx.count = rank, count
        parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(count)]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.chunk(ctx.count)[ctx.rank] * ctx.count, None, None


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the maps of all processes; unlike torch's SyncBatchNorm it also runs on a CPU."""

    def forward(self, maps: Tensor) -> Tensor:
        """maps (b, channels, h, w) to the same shape, normalised by mean and variance over all processes."""
        if not self.training:
            return super().forward(maps)
        wide = maps.float()
        count = wide.numel() // wide.shape[1] * dist.get_world_size()
        shape = (1, -1, 1, 1)
        mean = all_reduce(wide.sum((0, 2, 3))) / count
        centred = wide - mean.view(shape)
        variance = all_reduce(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(maps.dtype)


def use_shared_batch_norm(module: nn.Module) -> None:
    """Replace every BatchNorm2d of a module by a SyncBatchNorm2d with the same weights.

    Raises:
        InputError: a subclass of BatchNorm2d, or one without momentum or weights.
    """
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if not isinstance(child, nn.BatchNorm2d) or isinstance(child, SyncBatchNorm2d):
                continue
            if type(child) is not nn.BatchNorm2d or child.momentum is None or not child.affine:
                raise InputError(
                    f"{type(child).__name__} in this ResNet cannot be synchronised between processes; use one process"
                )
            shared = SyncBatchNorm2d(child.num_features, child.eps, child.momentum)
            shared.load_state_dict(child.state_dict())
            setattr(parent, name, shared.to(child.weight.device).train(child.training))
