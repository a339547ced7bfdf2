"""A step of training recorded once, as a CUDA graph, and replayed.

A step of ViT-B/16 and ResNet-50 is some 2,500 kernels of 15 microseconds each; to start one from Python takes a
processor as long or longer, so that the GPU waits. A recorded step is started at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from csgn_lib.config import Experiment
from csgn_lib.training.distributed import BatchShard

WARM = 2  # steps that are run, not recorded: they choose kernels and make the optimiser's state

Step = Callable[..., dict[str, Tensor]]


class CudaGraphStep:
    """``step`` as it was, or its recording: one for each shape of its inputs, all in one pool of memory.

    Args:
        step: tensors on the device to named tensors there. What it does between must depend on shapes only: no value
            is looked at, and nothing comes from the CPU. Modules and optimisers that it changes keep their places.
        device: where it works; on another device than a GPU it is only called.
        wanted: False where the step does what cannot be recorded.
    """

    def __init__(self, step: Step, device: torch.device, wanted: bool = True) -> None:
        self.step, self.seen = step, {}
        self.stream = torch.cuda.Stream(device) if wanted and device.type == "cuda" else None
        self.pool = torch.cuda.graph_pool_handle() if self.stream is not None else None

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """One step. What it returns is read before the next one, which writes to the same places."""
        if self.stream is None:
            return self.step(*inputs)
        shapes = tuple(value.shape for value in inputs)
        known = self.seen.get(shapes, 0)
        if known == WARM:
            known = self.seen[shapes] = self._capture(inputs)
        if isinstance(known, _CapturedGraph):
            return known.replay(inputs)
        self.seen[shapes] = known + 1
        return self._aside(lambda: self.step(*inputs))

    def _aside(self, work: Callable[[], Any]) -> Any:
        """On the stream that records: gradients must not have been made on another one."""
        if self.stream is None:
            return work()
        here = torch.cuda.current_stream()
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            made = work()
        here.wait_stream(self.stream)
        return made

    def _capture(self, inputs: tuple[Tensor, ...]) -> _CapturedGraph | int:
        """Nothing is computed yet: a recording is made, then replayed for this step as for others."""
        places, graph = tuple(value.clone() for value in inputs), torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                outputs = self.step(*places)
        except RuntimeError as error:
            warnings.warn(f"this step cannot be recorded as a CUDA graph ({error}); it goes on as it is", stacklevel=3)
            self.stream = None
            self.seen.clear()  # their memory, if that was what there was too little of
            return 0
        return _CapturedGraph(graph, places, {name: value.detach() for name, value in outputs.items()})


class _CapturedGraph:
    def __init__(self, graph: torch.cuda.CUDAGraph, places: tuple[Tensor, ...], outputs: dict[str, Tensor]) -> None:
        self.graph, self.places, self.outputs = graph, places, outputs

    def replay(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        for place, value in zip(self.places, inputs, strict=True):
            place.copy_(value)
        self.graph.replay()
        return self.outputs


def can_capture(experiment: Experiment, shard: BatchShard) -> bool:
    """Whether a step of stage 2 may be recorded: not what is computed twice, nor what several processes share."""
    return shard.world_size == 1 and experiment.batch_parts == 1 and not experiment.gradient_checkpointing


def adam(groups: list[dict[str, Any]], device: torch.device) -> torch.optim.Adam:
    """Adam [C]; on a GPU all weights in one kernel, its rates and counts there, where a recorded step finds them.

    On a CPU the one kernel would round otherwise, and save a hundredth. A state goes on wherever it was kept.
    """
    there = device.type == "cuda"
    optimizer = torch.optim.Adam(groups, fused=there, capturable=there)

    def at_home(group: dict[str, Any]) -> dict[str, Any]:
        rate = float(group["lr"])
        return group | {
            "lr": torch.tensor(rate, device=device) if there else rate, "fused": there, "capturable": there
        }  # fmt: skip

    for group in optimizer.param_groups:
        group |= at_home(group)
    optimizer.register_load_state_dict_pre_hook(
        lambda _, state: state | {"param_groups": [at_home(group) for group in state["param_groups"]]}
    )
    return optimizer


def set_lr(group: dict[str, Any], rate: float) -> None:
    """Give one of ``adam``'s groups its rate, in place."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
