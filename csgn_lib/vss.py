"""VSS, Visual Semantic Steering: CLIP's ViT and a ResNet in parallel, and the heads that train them.

Parallel branches [A+P]: the ViT gives z11, z12 and zp, the ResNet gives c. How they are joined is not public; each
variant ("form") is a possible reading [O]:

    steer             f = zp + gamma A c,  gamma = 0 at the start, so that training begins exactly at CLIP-ReID
    concat            f = zp; the branches are joined only in the descriptor
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csgn_lib import registry
from csgn_lib.backbones import ClipTower, ResNetTower, vit_features
from csgn_lib.config import Experiment
from csgn_lib.images import to_float
from csgn_lib.records import InputError
from csgn_lib.registry import Form

DESCRIPTOR = ("z12", "f", "c")
CLASSIFIED = ("z12", "f", "c")
HEAD_WIDTH = 64  # of cross-attention, as in CLIP's ViTs
FeatureMap = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of B images, float32; None where the form has no such branch.

    z11 (B, V), z12 (B, V): class token after the last but one and the last block. f (B, D): the joint
    embedding, which is compared with text. c (B, R): the ResNet's pooled map, or a second ViT's zp (B, D).
    """

    z11: Tensor | None
    z12: Tensor | None
    f: Tensor | None
    c: Tensor | None

    def parts(self) -> dict[str, Tensor]:
        """The embeddings that are not None, by name, in the order z11, z12, f, c."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def descriptor(self, parts: Sequence[str] | None = None, f_map: FeatureMap | None = None) -> Tensor:
        """The test descriptor [z12; f; c] (B, D): each part L2-normalised, then concatenated [C; norm O].

        Args:
            parts: which of z11, z12, f, c; None takes those of z12, f, c that are not None.
            f_map: applied to f (B, D) before normalisation, such as ``vocabulary.remove`` with the clothing basis.

        Raises:
            InputError: a part that the model lacks; ``f_map`` for a descriptor without f.
        """
        values = self.parts()
        names = tuple(name for name in DESCRIPTOR if name in values) if parts is None else tuple(parts)
        for name in names:
            if name not in values:
                raise InputError(f"descriptor part {name!r} is not in this model; it has {', '.join(values)}")
        if not names or (f_map is not None and "f" not in names):
            raise InputError(f"the descriptor's parts are {names}; name at least one, and f if f_map is given")
        if f_map is not None:
            values["f"] = f_map(values["f"])
        return torch.cat([F.normalize(values[name], dim=1) for name in names], dim=1)


def concatenate(batches: Sequence[Embeddings]) -> Embeddings:
    """Embeddings of several batches, one after another."""
    names = batches[0].parts()
    joined = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in names}
    return Embeddings(**{field.name: joined.get(field.name) for field in fields(Embeddings)})


@dataclass(frozen=True)
class Branches:
    """The outputs of the two towers for B images, which a ``vss`` form joins to f.

    zp (B, D): the ViT's projection. c (B, R): the ResNet's pooled map, float32, or zp (B, D) of a second ViT; None
    without a second branch. tokens (B, 1 + L, V): class token and patch tokens, row by row; None unless the form is
    registered with ``tokens=True``. feature_map (B, R, h, w): the ResNet's map; None without a ResNet.
    """

    zp: Tensor
    c: Tensor | None = None
    tokens: Tensor | None = None
    feature_map: Tensor | None = None


class Unjoined(nn.Module):
    """f = zp. A second branch, if there is one, is joined in the descriptor only [C, O]."""

    def __init__(self, widths: Mapping[str, int], generator: torch.Generator) -> None:
        super().__init__()

    def forward(self, branches: Branches) -> Tensor:
        """Branches to f (B, D)."""
        return branches.zp


class Steering(nn.Module):
    """f = zp + gamma A c with gamma = 0 at the start, so that training begins exactly at CLIP-ReID [O].

    While gamma is 0, A and the ResNet receive no gradient through f; gamma does.
    """

    def __init__(self, widths: Mapping[str, int], generator: torch.Generator) -> None:
        super().__init__()
        self.projection = _linear(widths["c"], widths["f"], generator)  # A
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, branches: Branches) -> Tensor:
        """Branches with c (B, R) to f (B, D)."""
        return branches.zp + self.gamma * self.projection(branches.c)


class CrossAttention(nn.Module):
    """f = zp + gate A mean(attention(ViT tokens -> ResNet map)) with gate = 0 at the start [O].

    Queries are the class token and the patch tokens, keys and values the h * w cells of the map; multi-head scaled
    dot-product attention at the ViT's width, 64 numbers a head, LayerNorm on both inputs.
    """

    def __init__(self, widths: Mapping[str, int], generator: torch.Generator) -> None:
        super().__init__()
        width, source = widths["z12"], widths["c"]
        self.heads = max(1, width // HEAD_WIDTH)
        self.query_norm, self.map_norm = nn.LayerNorm(width), nn.LayerNorm(source)
        self.query = _linear(width, width, generator)
        self.key, self.value = _linear(source, width, generator), _linear(source, width, generator)
        self.projection = _linear(width, widths["f"], generator)  # A
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, branches: Branches) -> Tensor:
        """Branches with tokens (B, 1 + L, V) and feature_map (B, R, h, w) to f (B, D)."""
        cells = self.map_norm(branches.feature_map.flatten(2).transpose(1, 2))  # (B, hw, R)
        query = self._split(self.query(self.query_norm(branches.tokens)))  # (B, heads, 1 + L, V / heads)
        answer = F.scaled_dot_product_attention(query, self._split(self.key(cells)), self._split(self.value(cells)))
        return branches.zp + self.gate * self.projection(answer.mean(dim=2).flatten(1))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class VisualEncoder(nn.Module):
    """Images to Embeddings: the ViT, the second branch, and a ``vss`` form that joins them [A, forms O].

    Args:
        clip: its ViT is used, not copied; the text tower stays outside. None for a form without a ViT (resnet).
        resnet: None for a form without a ResNet (none, two_vits).
        form: a ``vss`` form of the registry, or the name of a built-in one.
        generator: draws the initial weights of the joining module, on the CPU.

    Raises:
        InputError: an unknown form, or a tower missing that the form needs.
    """

    def __init__(
        self, clip: ClipTower | None, resnet: ResNetTower | None, form: str | Form, generator: torch.Generator
    ) -> None:
        super().__init__()
        form = form if isinstance(form, Form) else registry.form("vss", form)
        has_vit, branch = form.trait("vit"), form.trait("branch")
        if (clip is None and has_vit) or (resnet is None and branch == "resnet"):
            missing = "a ResNet" if resnet is None else "a CLIP"
            raise InputError(f"vss={form.name} needs {missing}, and none was given")
        self.variant, self.recompute, self.tokens = form.name, False, form.trait("tokens")
        self.vit = clip.visual if has_vit else None
        self.resnet = resnet if branch == "resnet" else None
        self.second_vit = copy.deepcopy(self.vit) if branch == "vit" else None
        self.widths = embedding_widths(form, clip, resnet)
        if self.vit is not None:
            self.register_buffer("vit_mean", clip.mean.clone())  # saved with the weights that need them
            self.register_buffer("vit_std", clip.std.clone())
            self.join = form(self.widths, generator)

    def compile_blocks(self) -> None:
        """Compile the repeated blocks of the towers, each kind once.

        Compiling the whole encoder takes several times as long and is hardly faster at run time."""
        # the default of 8 is fewer than the kinds of block
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        for block in _repeated(self):
            block.compile(dynamic=False)

    def forward(self, images: Tensor) -> Embeddings:
        """Images (B, 3, H, W), RGB, uint8 or float in [0, 1], to Embeddings in float32."""
        images = to_float(images)
        branch = self.resnet(images) if self.resnet is not None else None
        c, feature_map = (branch.pooled.float(), branch.feature_map) if branch is not None else (None, None)
        if self.vit is None:
            return Embeddings(None, None, None, c)
        recompute = self.recompute and torch.is_grad_enabled()
        images = (images - self.vit_mean) / self.vit_std
        vit = vit_features(self.vit, images, recompute, tokens=self.tokens)
        if self.second_vit is not None:
            c = vit_features(self.second_vit, images, recompute).zp.float()
        tokens = torch.cat([vit.z12[:, None], vit.tokens], dim=1) if self.tokens else None
        f = self.join(Branches(vit.zp, c, tokens, feature_map))
        # float32 whatever the autocast: distances and softmax over identities need the precision
        return Embeddings(vit.z11.float(), vit.z12.float(), f.float(), c)


def embedding_widths(form: Form, clip: ClipTower | None, resnet: ResNetTower | None) -> dict[str, int]:
    """Widths of the embeddings z11, z12, f and c that an encoder of this form has, by name."""
    widths = {"z11": clip.width, "z12": clip.width, "f": clip.embed_dim} if form.trait("vit") else {}
    if form.trait("branch") is not None:
        widths["c"] = resnet.width if form.trait("branch") == "resnet" else clip.embed_dim
    return widths


@dataclass(frozen=True)
class HeadOutputs:
    """logits: (B, N) of z12, f and c; triplet: z11, z12, f and c, each (B, width); float32; by name."""

    logits: dict[str, Tensor]
    triplet: dict[str, Tensor]


class Heads(nn.Module):
    """BNNeck and identity classifier on z12, f and c; the triplet loss reads z11, z12, f, c before the neck [C].

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
        """Logits, and the inputs of the triplet loss.

        ``f_map`` is applied to f (B, D) before both, such as ``vocabulary.remove`` with the clothing basis [O]; the
        text loss reads ``embeddings.f`` unchanged.
        """
        parts = embeddings.parts()
        if f_map is not None and "f" in parts:
            parts["f"] = f_map(parts["f"])
        logits = {name: self.classifiers[name](neck(parts[name])).float() for name, neck in self.necks.items()}
        return HeadOutputs(logits, parts)


def parameter_groups(encoder: VisualEncoder, heads: nn.Module, experiment: Experiment) -> list[dict[str, Any]]:
    """Parameter groups for Adam: each trainable parameter once, biases at twice the learning rate [C].

    Both ViTs at lr_vit, the ResNet at lr_resnet, the joining module and ``heads`` at lr_heads; weight decay on all, as
    in CLIP-ReID's configuration [C]. Each group has the keys params, lr, weight_decay and name.
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
    """The blocks of a ViT or a ResNet: the outermost modules in a list of modules of one class."""
    for child in module.children():
        kinds = {type(part) for part in child.children()}
        if isinstance(child, nn.Sequential | nn.ModuleList) and len(child) > 1 and len(kinds) == 1:
            yield from child
        else:
            yield from _repeated(child)


def _linear(source: int, target: int, generator: torch.Generator, deviation: float | None = None) -> nn.Linear:
    """A linear layer without bias, N(0, deviation); by default 1 / sqrt(source), which keeps the scale of the input."""
    layer = nn.utils.skip_init(nn.Linear, source, target, bias=False)
    nn.init.normal_(layer.weight, std=deviation or source**-0.5, generator=generator)
    return layer


def uses_resnet(experiment: Experiment) -> bool:
    """Whether the experiment's ``vss`` form has a ResNet, or a tower in its place."""
    return experiment.form("vss").trait("branch") == "resnet"
