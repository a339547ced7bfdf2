"""VSS, Visual Semantic Steering: CLIP's ViT and a ResNet in parallel, and the heads that train them.

Parallel branches [A+P]: the ViT gives z11, z12 and zp, the ResNet gives c. How they are joined is not public, so each
reading is a form [O]:

    steer             f = zp + gamma A c,  gamma = 0 at the start, so that training begins exactly at CLIP-ReID
    concat            f = zp; the branches meet only in the descriptor
    cross_attention   f = zp + gamma A mean(attention(ViT tokens -> ResNet map)),  gamma = 0 at the start
    two_vits          f = zp + gamma A c, where c is zp of a second ViT: the control for the ResNet
    none              f = zp, the ViT alone: CLIP-ReID's encoder [C]
    resnet            the ResNet alone: c, no f

    descriptor = [z12 / |z12|; f / |f|; c / |c|]                                                   [C; norms O]
    heads      = BNNeck and classifier on z12, f, c; triplet on z11, z12, f, c                     [C, extended]

Symbols: see ``csgn_lib``. Origin marks: [A] the paper's abstract, [P] its opening pages, [C] convention of CLIP-ReID
(Li, Sun, Li, AAAI 2023), [O] our choice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csgn_lib.backbones import ClipTower, ResNetTower, vit_features
from csgn_lib.config import Experiment
from csgn_lib.images import to_float
from csgn_lib.records import InputError

VARIANTS = ("steer", "concat", "cross_attention", "two_vits", "none", "resnet")
WITH_RESNET = ("steer", "concat", "cross_attention", "resnet")
DESCRIPTOR = ("z12", "f", "c")
CLASSIFIED = ("z12", "f", "c")
FeatureMap = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Embeddings:
    """What B images become, float32; None where the variant has no such branch.

    z11 (B, V), z12 (B, V): class token after the last but one and the last block. f (B, D): the joint
    embedding, which is compared with text. c (B, R): the ResNet's pooled map, or a second ViT's zp (B, D).
    """

    z11: Tensor | None
    z12: Tensor | None
    f: Tensor | None
    c: Tensor | None

    def parts(self) -> dict[str, Tensor]:
        """The embeddings that there are, by name, in the order z11, z12, f, c."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def descriptor(self, parts: Sequence[str] | None = None, f_map: FeatureMap | None = None) -> Tensor:
        """The test descriptor [z12; f; c] (B, D): each part L2-normalised, then concatenated [C; norm O].

        Args:
            parts: which of z11, z12, f, c; None takes those of z12, f, c that there are.
            f_map: applied to f (B, D) before it is normalised, such as clothing phrases taken out.

        Raises:
            InputError: a part that the variant lacks; ``f_map`` for a descriptor without f.
        """
        there = self.parts()
        names = tuple(name for name in DESCRIPTOR if name in there) if parts is None else tuple(parts)
        for name in names:
            if name not in there:
                raise InputError(f"descriptor part {name!r} is not in this model; it has {', '.join(there)}")
        if not names or (f_map is not None and "f" not in names):
            raise InputError(f"the descriptor's parts are {names}; name one at least, and f if words are to change it")
        mapped = {"f": f_map(there["f"])} if f_map is not None else {}
        return torch.cat([F.normalize((there | mapped)[name], dim=1) for name in names], dim=1)


def concatenate(batches: Sequence[Embeddings]) -> Embeddings:
    """Embeddings of several batches, one after another."""
    names = batches[0].parts()
    joined = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in names}
    return Embeddings(**{field.name: joined.get(field.name) for field in fields(Embeddings)})


class Steering(nn.Module):
    """f = zp + gamma A c with gamma = 0 at the start, so that training begins exactly at CLIP-ReID [O].

    While gamma is 0, A and the ResNet receive no gradient through f; gamma does.
    """

    def __init__(self, source: int, target: int, generator: torch.Generator) -> None:
        super().__init__()
        self.projection = _linear(source, target, generator)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, zp: Tensor, c: Tensor) -> Tensor:
        """zp (B, D), c (B, R) to f (B, D)."""
        return zp + self.gamma * self.projection(c)


class CrossAttention(nn.Module):
    """f = zp + gate A mean(attention(ViT tokens -> ResNet map)) with gate = 0 at the start [O].

    Queries are the class token and the patch tokens, keys and values the h * w cells of the map; multi-head scaled
    dot-product attention at the ViT's width, LayerNorm on both inputs.
    """

    def __init__(self, width: int, source: int, target: int, generator: torch.Generator, head_width: int = 64) -> None:
        super().__init__()
        self.heads = max(1, width // head_width)
        self.query_norm, self.map_norm = nn.LayerNorm(width), nn.LayerNorm(source)
        self.query = _linear(width, width, generator)
        self.key, self.value = _linear(source, width, generator), _linear(source, width, generator)
        self.projection = _linear(width, target, generator)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, zp: Tensor, tokens: Tensor, feature_map: Tensor) -> Tensor:
        """zp (B, D), tokens (B, 1 + L, V), feature_map (B, R, h, w) to f (B, D)."""
        cells = self.map_norm(feature_map.flatten(2).transpose(1, 2))  # (B, hw, R)
        query = self._split(self.query(self.query_norm(tokens)))  # (B, heads, 1 + L, V / heads)
        answer = F.scaled_dot_product_attention(query, self._split(self.key(cells)), self._split(self.value(cells)))
        return zp + self.gate * self.projection(answer.mean(dim=2).flatten(1))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class VisualEncoder(nn.Module):
    """Images to Embeddings, by one of the variants [A, forms O].

    - ``steer``: f = zp + gamma A c.
    - ``concat``: f = zp; the branches meet only in the descriptor.
    - ``cross_attention``: the ViT's tokens ask the ResNet's map, through a gate.
    - ``two_vits``: f = zp + gamma A c as in ``steer``, but c (B, D) is zp of a second ViT that starts from the
      same weights and is trained at the ViT's rate: the control for the ResNet [O].
    - ``none``: the ViT alone, f = zp: CLIP-ReID's encoder [C].
    - ``resnet``: the ResNet alone, c.

    Args:
        clip: whose ViT is used, not copied; the text tower stays outside. None for ``resnet``.
        resnet: None for ``none`` and ``two_vits``.
        variant: one of VARIANTS.
        generator: draws the joining layer's initial weights, on the CPU.

    Raises:
        InputError: an unknown variant, or a tower missing that the variant needs.
    """

    def __init__(
        self, clip: ClipTower | None, resnet: ResNetTower | None, variant: str, generator: torch.Generator
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise InputError(f"unknown vss {variant!r}; one of {', '.join(VARIANTS)}")
        if (clip is None and variant != "resnet") or (resnet is None and variant in WITH_RESNET):
            raise InputError(f"vss={variant} needs {'a ResNet' if resnet is None else 'a CLIP'}, and none was given")
        self.variant, self.recompute = variant, False
        self.vit = clip.visual if clip is not None and variant != "resnet" else None
        self.resnet = resnet if variant in WITH_RESNET else None
        self.second_vit = copy.deepcopy(self.vit) if variant == "two_vits" else None
        self.widths: dict[str, int] = {}
        if self.vit is not None:
            self.register_buffer("vit_mean", clip.mean.clone())  # kept with the weights: they belong together
            self.register_buffer("vit_std", clip.std.clone())
            self.widths |= {"z11": clip.width, "z12": clip.width, "f": clip.embed_dim}
        if self.resnet is not None:
            self.widths |= {"c": resnet.width}
        if self.second_vit is not None:
            self.widths |= {"c": clip.embed_dim}
        if variant in ("steer", "two_vits"):
            self.join = Steering(self.widths["c"], clip.embed_dim, generator)
        elif variant == "cross_attention":
            self.join = CrossAttention(clip.width, resnet.width, clip.embed_dim, generator)

    def compile_blocks(self) -> None:
        """Compile the blocks that the towers repeat, each kind once: compiling the whole would take several times as
        long, and gain little more."""
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)  # kinds of block: 8 is few
        for block in _repeated(self):
            block.compile(dynamic=False)

    def forward(self, images: Tensor) -> Embeddings:
        """Images (B, 3, H, W), RGB, uint8 or float in [0, 1], to Embeddings in float32."""
        images = to_float(images)
        branch = self.resnet(images) if self.resnet is not None else None
        c = branch.pooled.float() if branch is not None else None
        if self.vit is None:
            return Embeddings(None, None, None, c)
        recompute = self.recompute and torch.is_grad_enabled()
        images = (images - self.vit_mean) / self.vit_std
        vit = vit_features(self.vit, images, recompute, tokens=self.variant == "cross_attention")
        if self.second_vit is not None:
            c = vit_features(self.second_vit, images, recompute).zp.float()
        f = vit.zp
        if self.variant in ("steer", "two_vits"):
            f = self.join(vit.zp, c)
        elif self.variant == "cross_attention":
            f = self.join(vit.zp, torch.cat([vit.z12[:, None], vit.tokens], dim=1), branch.feature_map)
        # float32 whatever the autocast: distances and softmax over identities need the digits
        return Embeddings(vit.z11.float(), vit.z12.float(), f.float(), c)


@dataclass(frozen=True)
class HeadOutputs:
    """logits: (B, N) of z12, f, c, those that there are; triplet: (B, D) of z11, z12, f, c; float32."""

    logits: dict[str, Tensor]
    triplet: dict[str, Tensor]


class Heads(nn.Module):
    """BNNeck and identity classifier on z12, f and c; the triplet reads z11, z12, f, c before it [C].

    BNNeck (Luo et al., CVPRW 2019, BoT): batch norm whose bias stays 0, then a classifier without bias,
    init N(0, 0.001).

    Args:
        widths: an encoder's ``widths``.
        identities: N.
        generator: draws the classifiers' weights, on the CPU.
    """

    def __init__(self, widths: dict[str, int], identities: int, generator: torch.Generator) -> None:
        super().__init__()
        self.necks, self.classifiers = nn.ModuleDict(), nn.ModuleDict()
        for name in (name for name in CLASSIFIED if name in widths):
            self.necks[name] = nn.BatchNorm1d(widths[name])
            self.necks[name].bias.requires_grad_(False)
            self.classifiers[name] = _linear(widths[name], identities, generator, deviation=0.001)

    def forward(self, embeddings: Embeddings, f_map: FeatureMap | None = None) -> HeadOutputs:
        """Logits, and what the triplet compares.

        ``f_map`` is applied to f (B, D) before both, such as clothing phrases taken out [O]; the text
        loss goes on reading ``embeddings.f``.
        """
        parts = embeddings.parts()
        if f_map is not None and "f" in parts:
            parts["f"] = f_map(parts["f"])
        logits = {name: self.classifiers[name](neck(parts[name])).float() for name, neck in self.necks.items()}
        return HeadOutputs(logits, parts)


def parameter_groups(encoder: VisualEncoder, heads: nn.Module, experiment: Experiment) -> list[dict[str, Any]]:
    """Adam's groups: every trainable parameter once, with its rate; biases at twice the rate [C].

    The ViT (or both) at lr_vit, the ResNet at lr_resnet, the joining layer and ``heads`` at lr_heads; weight decay
    on all, as in CLIP-ReID's configuration [C]. Each group has params, lr, weight_decay, and name.
    """
    rates = {"vit": experiment.lr_vit, "second_vit": experiment.lr_vit}
    rates |= {"resnet": experiment.lr_resnet, "heads": experiment.lr_heads}
    members: dict[tuple[str, bool], list[nn.Parameter]] = {(name, bias): [] for name in rates for bias in (False, True)}
    named = [*encoder.named_parameters(), *((f"heads.{name}", value) for name, value in heads.named_parameters())]
    for name, value in named:
        if value.requires_grad:
            tower = name.split(".")[0]
            members[tower if tower in rates else "heads", name.endswith("bias")].append(value)
    return [
        {
            "name": f"{tower}_bias" if bias else tower,
            "params": params,
            "lr": rates[tower] * (2 if bias else 1),
            "weight_decay": experiment.weight_decay,
        }
        for (tower, bias), params in members.items()
        if params
    ]


def _repeated(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that stand beside others of their class in a list: blocks of a ViT, of a ResNet."""
    for child in module.children():
        kinds = {type(part) for part in child.children()}
        if isinstance(child, nn.Sequential | nn.ModuleList) and len(child) > 1 and len(kinds) == 1:
            yield from child
        else:
            yield from _repeated(child)


def _linear(source: int, target: int, generator: torch.Generator, deviation: float | None = None) -> nn.Linear:
    """Without bias, N(0, deviation); by default 1 / sqrt(source), which keeps the scale of its input."""
    layer = nn.utils.skip_init(nn.Linear, source, target, bias=False)
    nn.init.normal_(layer.weight, std=deviation or source**-0.5, generator=generator)
    return layer
