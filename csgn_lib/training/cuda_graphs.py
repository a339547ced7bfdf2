"""A training step captured once as a CUDA graph, then replayed; and Adam in a form that can be captured.

A step of ViT-B/16 and ResNet-50 launches some 2,500 kernels of 15 microseconds each. Launching them from Python takes
as long or longer, so that the GPU waits; a captured step is launched by a single call.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from csgn_lib.config import Experiment
from csgn_lib.training.distributed import BatchShard

WARM = 2  # steps that run eagerly before the capture: they select kernels and create the optimizer's state

Step = Callable[..., dict[str, Tensor]]


class CudaGraphStep:
    """``step``, replayed from a CUDA graph on a GPU: one graph per input shapes, all in one memory pool.

    Args:
        step: tensors on the device to named tensors on the device. It must not transfer values from or to
            the CPU; modules and optimizers that it changes must keep their addresses in memory.
        device: on a CPU the step is called without a graph.
        wanted: False if the step cannot be captured.
    """

    def __init__(self, step: Step, device: torch.device, wanted: bool = True) -> None:
        self.step, self.graphs = step, {}
        self.stream = torch.cuda.Stream(device) if wanted and device.type == "cuda" else None
        self.pool = torch.cuda.graph_pool_handle() if self.stream is not None else None

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Run one step. The next call overwrites the returned tensors."""
        if self.stream is None:
            return self.step(*inputs)
        shapes = tuple(value.shape for value in inputs)
        known = self.graphs.get(shapes, 0)  # a graph, or the number of eager steps so far
        if known == WARM:
            known = self.graphs[shapes] = self._capture(inputs)
        if isinstance(known, _CapturedGraph):
            return known.replay(inputs)
        self.graphs[shapes] = known + 1
        return self._on_side_stream(lambda: self.step(*inputs))

    def _on_side_stream(self, work: Callable[[], Any]) -> Any:
        """Run on the capture stream, where gradients must be created."""
        if self.stream is None:
            return work()
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = work()
        current.wait_stream(self.stream)
        return result

    def _capture(self, inputs: tuple[Tensor, ...]) -> _CapturedGraph | int:
        """Capture the step without computing it; the caller then replays it."""
        static, graph = tuple(value.clone() for value in inputs), torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                outputs = self.step(*static)
        except RuntimeError as error:
            warnings.warn(f"this step cannot be captured as a CUDA graph ({error}); it runs eagerly", stacklevel=3)
            self.stream = None
            self.graphs.clear()  # free their memory, in case memory was the problem
            return 0
        return _CapturedGraph(graph, static, {name: value.detach() for name, value in outputs.items()})


class _CapturedGraph:
    def __init__(self, graph: torch.cuda.CUDAGraph, static: tuple[Tensor, ...], outputs: dict[str, Tensor]) -> None:
        self.graph, self.static, self.outputs = graph, static, outputs

    def replay(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        for target, value in zip(self.static, inputs, strict=True):
            target.copy_(value)
        self.graph.replay()
        return self.outputs


def can_capture(experiment: Experiment, shard: BatchShard) -> bool:
    """Whether a step of stage 2 can be captured: no recomputation, one process, and no code of plugins.

    Recomputation (``batch_parts``, ``gradient_checkpointing``) is not captured until it is verified on a GPU that a
    captured step gives the same weights (``make bench-gpu`` measures that). Several processes communicate in batch norm
    and DDP: NCCL does not support two processes on one GPU, and gloo communicates through the CPU, which a graph cannot
    contain.
    """
    plain = experiment.batch_parts == 1 and not experiment.gradient_checkpointing
    return plain and shard.world_size == 1 and not experiment.loaded


def adam(groups: list[dict[str, Any]], device: torch.device) -> torch.optim.Adam:
    """Adam [C]. On a GPU fused and capturable, with learning rates and counts on the device; states can be moved
    between devices. On a CPU the fused kernel rounds differently and saves only one percent of the time, so it is not
    used.
    """
    on_gpu = device.type == "cuda"
    optimizer = torch.optim.Adam(groups, fused=on_gpu, capturable=on_gpu)

    def placed(group: dict[str, Any]) -> dict[str, Any]:
        rate = float(group["lr"])
        rate = torch.tensor(rate, device=device) if on_gpu else rate
        return group | {"lr": rate, "fused": on_gpu, "capturable": on_gpu}

    for group in optimizer.param_groups:
        group |= placed(group)
    optimizer.register_load_state_dict_pre_hook(
        lambda _, state: state | {"param_groups": [placed(group) for group in state["param_groups"]]}
    )
    return optimizer


def set_lr(group: dict[str, Any], rate: float) -> None:
    """Set the learning rate of one of ``adam``'s groups, in place."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
