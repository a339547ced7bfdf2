"""Changes to a training step that may make it faster on a GPU, each measured alone against the step as it is.

None is an option of training: what wins on the card becomes part of the step. Every one keeps results within rounding,
which ``drift`` measures and a test bounds on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from csgn_lib.backbones import ClipTower, ResNetFeatures
from csgn_lib.mdg import PromptBank
from csgn_lib.training import Learner
from csgn_lib.training.cuda_graphs import Step, adam

TOKENS = 8  # a padded number of tokens is a multiple of it


@dataclass(frozen=True)
class Candidate:
    """A change to a step of stage 2.

    Attributes:
        change: of the learner, once, on the device.
        optimizer: builds the optimizer from parameter groups, device and learner; by default Adam.
        during: a context around the computation of every step that is not replayed.
        parameters: of the experiment.
        rehearsed: whether a CPU is quick enough to try it.
    """

    change: Callable[[Learner], None] = lambda learner: None
    optimizer: Callable[..., Any] = lambda groups, device, learner: adam(groups, device)
    during: Callable[[], AbstractContextManager[Any]] = nullcontext
    parameters: dict[str, Any] = field(default_factory=dict)
    rehearsed: bool = True


def second_stream(learner: Learner) -> None:
    """The ResNet runs beside the ViT, on a stream of its own, until they join; on a CPU nothing changes."""
    encoder = learner.encoder
    if not torch.cuda.is_available():
        return
    side, inside = torch.cuda.Stream(), encoder.resnet.forward

    def beside(images: Tensor) -> ResNetFeatures:
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            seen = inside(images)
            return ResNetFeatures(seen.pooled.float(), seen.feature_map)

    def join(module: nn.Module, given: tuple[Any, ...]) -> None:
        torch.cuda.current_stream().wait_stream(side)
        for value in (given[0].c, given[0].feature_map):
            value.record_stream(torch.cuda.current_stream())

    encoder.resnet.forward = beside
    encoder.join.register_forward_pre_hook(join)


def channels_last(learner: Learner) -> None:
    """The ResNet's images too are stored channels last, as its weights are."""
    learner.encoder.resnet.register_forward_pre_hook(
        lambda _, given: (given[0].contiguous(memory_format=torch.channels_last),)
    )


def padded_tokens(learner: Learner) -> None:
    """The ViT's tokens are padded to a multiple of TOKENS, and no token attends to the padding."""
    visual = learner.encoder.vit
    embeds = visual._embeds
    count = int(visual.positional_embedding.shape[0])
    more = -count % TOKENS
    mask = torch.zeros(count + more, count + more, device=visual.positional_embedding.device)
    mask[:, count:] = -torch.inf
    visual._embeds = lambda images: F.pad(embeds(images), (0, 0, 0, more))
    for block in visual.transformer.resblocks:
        block.attention = _masked(block.attention, mask)


def _masked(attention: Callable[..., Tensor], mask: Tensor) -> Callable[..., Tensor]:
    def attended(q_x: Tensor, k_x: Tensor | None = None, v_x: Tensor | None = None, attn_mask: None = None) -> Tensor:
        return attention(q_x, k_x, v_x, attn_mask=mask[: q_x.shape[1]])

    return attended


class MasterAdam:
    """Adam on float32 copies of weights that the modules hold in bfloat16: each is cast once a step, all together."""

    def __init__(self, groups: list[dict[str, Any]], device: torch.device, learner: Learner) -> None:
        cast = [part for part in learner.encoder.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
        cast += [part for part in learner.encoder.modules() if isinstance(part, nn.MultiheadAttention)]
        narrow = {id(value): value for part in cast for value in part.parameters()}
        wide = {name: nn.Parameter(value.detach().clone()) for name, value in narrow.items()}
        groups = [group | {"params": [wide.get(id(value), value) for value in group["params"]]} for group in groups]
        for value in narrow.values():
            value.data = value.data.bfloat16()
        self.pairs = [(wide[name], narrow[name]) for name in narrow]
        self.adam = adam(groups, device)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients."""
        self.adam.zero_grad(set_to_none=set_to_none)
        for _, narrow in self.pairs:
            narrow.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One step of Adam on the copies, which are then rounded into the modules."""
        pairs = [(wide, narrow) for wide, narrow in self.pairs if narrow.grad is not None]
        for wide, _ in pairs:
            wide.grad = torch.empty_like(wide)
        torch._foreach_copy_([wide.grad for wide, _ in pairs], [narrow.grad for _, narrow in pairs])
        self.adam.step()
        torch._foreach_copy_([narrow for _, narrow in pairs], [wide for wide, _ in pairs])


@contextmanager
def tf32() -> Iterator[None]:
    """Products of float32 tensors with 10 bits of mantissa: bounds what float32 losses cost."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def tuned() -> AbstractContextManager[Any]:
    """cuDNN times its kernels for each shape once and keeps the fastest."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True)


def cudnn_attention() -> AbstractContextManager[Any]:
    """Fused attention of cuDNN in place of FlashAttention, where it takes the shapes."""
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return sdpa_kernel(order, set_priority=True)


STAGE2: dict[str, Candidate] = {
    "ResNet on a second stream": Candidate(second_stream),
    "ResNet's images channels-last, cuDNN's tuned kernels": Candidate(channels_last, during=tuned),
    "blocks compiled: LayerNorm and GELU fused": Candidate(parameters={"compile": True}, rehearsed=False),
    "bfloat16 weights, cast once for Adam": Candidate(optimizer=MasterAdam, rehearsed=False),
    "129 tokens padded to 136": Candidate(padded_tokens),
    "cuDNN's attention": Candidate(during=cudnn_attention),
    "float32 losses in TF32": Candidate(during=tf32),
}


def together(step: Step, count: int, inputs: int) -> Step:
    """``count`` steps one after another as one, of as many times ``inputs`` tensors; each loss term is summed."""
    if count == 1:
        return step

    def steps(*given: Tensor) -> dict[str, Tensor]:
        terms = [step(*given[first : first + inputs]) for first in range(0, count * inputs, inputs)]
        return {name: torch.stack([term[name].detach() for term in terms]).sum(0) for name in terms[0]}

    return steps


def whole_prompts(clip: ClipTower, bank: PromptBank) -> None:
    """Every prompt is read from its first token, as before its beginning was read once."""
    bank.states = None


def narrow_text(clip: ClipTower, bank: PromptBank) -> None:
    """The frozen text tower's matrices are rounded to bfloat16 once, not at every step: the same numbers."""
    for block in clip.text.transformer.resblocks:
        for part in (block.attn, block.mlp):
            part.to(torch.bfloat16)


STAGE1: dict[str, Callable[[ClipTower, PromptBank], None]] = {
    "whole prompts, as before": whole_prompts,
    "text tower in bfloat16 once": narrow_text,
}
