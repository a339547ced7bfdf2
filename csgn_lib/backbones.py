"""The towers: open_clip's CLIP and timm's ResNet, and the one file that knows their insides.

Everything else sees three calls: image features as CLIP-ReID reads them, text features of strings,
and text features of prompts whose word embeddings are learned. Images are RGB in [0, 1]; each tower
normalises for itself, since CLIP and ImageNet disagree on mean and deviation.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import open_clip
import timm
import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from csgn_lib.records import InputError

TOWERS = Path(__file__).parent / "towers"
EMBEDDED = "embedded"
CLIP_FILES = {"csgn-tiny": "csgn-tiny.safetensors"}
RESNET_FILES = {"csgn_tiny_resnet": "csgn-tiny-resnet.safetensors"}
open_clip.add_model_config(TOWERS / "csgn-tiny.json")


@dataclass(frozen=True)
class VitFeatures:
    """What a ViT says of B images, as CLIP-ReID reads it [C].

    z11 (B, W): class token after the last but one block. z12 (B, W): class token after the last
    block and its LayerNorm. zp (B, P): z12 projected into the space shared with text.
    tokens (B, L, W): patch tokens after the last block and its LayerNorm, row by row.
    """

    z11: Tensor
    z12: Tensor
    zp: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class ResNetFeatures:
    """pooled (B, C): average over the map. feature_map (B, C, h, w): after the last stage."""

    pooled: Tensor
    feature_map: Tensor


class CompactTokenizer:
    """open_clip's byte-pair tokenizer, its ids renumbered to the few that a small world uses.

    The full table has 49,408 rows; at width 128 that alone would be 25 MB, twice what both embedded
    towers may weigh, and nearly all rows would never be trained. Order is kept, so padding stays 0
    and end-of-text stays the highest id, which is where open_clip reads the text feature.
    """

    def __init__(self, words: Sequence[str], context_length: int) -> None:
        self.tokenizer = open_clip.SimpleTokenizer(context_length=context_length)
        self.context_length = context_length
        kept = {0, self.tokenizer.sot_token_id, self.tokenizer.eot_token_id}
        for word in words:
            kept.update(self.tokenizer.encode(word))
        self.ids = {old: new for new, old in enumerate(sorted(kept))}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(N, context_length) int64. Raises InputError naming a word that the small CLIP never read."""
        return torch.tensor([[self.ids[int(i)] for i in self._known(text)] for text in texts])

    def _known(self, text: str) -> list[int]:
        tokens = self.tokenizer.encode(text)
        unknown = [self.tokenizer.decode([i]).strip() for i in tokens if i not in self.ids]
        if unknown:
            raise InputError(f"the small CLIP never read {', '.join(map(repr, unknown))} (in {text!r}); use its words")
        if len(tokens) + 2 > self.context_length:
            raise InputError(f"{text!r} has {len(tokens) + 2} tokens, more than {self.context_length}; shorten it")
        tokens = [self.tokenizer.sot_token_id, *tokens, self.tokenizer.eot_token_id]
        return tokens + [0] * (self.context_length - len(tokens))


@lru_cache(maxsize=1)
def tiny_words() -> tuple[str, ...]:
    """Every word that the small CLIP was trained on."""
    return tuple((TOWERS / "csgn-tiny.words").read_text(encoding="utf-8").split())


def _attention() -> contextlib.AbstractContextManager[None]:
    """Plain attention on the CPU: its backward is three times as fast as the fused one's there (torch 2.14)."""
    return sdpa_kernel([SDPBackend.MATH]) if torch.is_grad_enabled() else contextlib.nullcontext()


class ClipTower(nn.Module):
    """A CLIP, read as CLIP-ReID reads it: two depths of the ViT, and prompts with learned words.

    Args:
        model: an open_clip model with a ViT of class token pooling.
        tokenizer: texts to (N, context_length) ids.
        mean, std: of RGB in [0, 1], as the weights were trained with.

    Raises:
        InputError: the visual tower is not open_clip's own ViT, or pools otherwise.
    """

    def __init__(self, model: nn.Module, tokenizer: object, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        visual = model.visual
        if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None or visual.pool_type != "tok":
            raise InputError(
                f"{type(visual).__name__} has no class token to read; use a ViT such as ViT-B-16-quickgelu"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.text = getattr(model, "text", None) or model  # CustomTextCLIP keeps its text tower apart
        self.width = int(visual.conv1.out_channels)
        self.embed_dim = int(visual.proj.shape[1])
        self.text_width = int(self.text.token_embedding.weight.shape[1])
        self.context_length = int(self.text.context_length)

    @property
    def visual(self) -> VisionTransformer:
        """The ViT: the only part of CLIP that stage 2 trains."""
        return self.model.visual

    @property
    def logit_scale(self) -> Tensor:
        """The trained logarithm of the inverse temperature, a scalar."""
        return self.model.logit_scale

    def visual_features(self, images: Tensor) -> VitFeatures:
        """Images (B, 3, H, W), RGB in [0, 1], at the size the tower was built for, to VitFeatures."""
        return vit_features(self.visual, (images - self.mean) / self.std)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(N, context_length) int64 token ids, on the tower's device."""
        return self.tokenizer(list(texts)).to(self.text.token_embedding.weight.device)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Token ids (N, L) to word embeddings (N, L, text_width), positions not yet added."""
        return self.text.token_embedding(tokens)

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Strings to features (N, P) in the joint space, not normalised."""
        tokens = self.tokenize(texts)
        return self.prompt_features(self.embed_tokens(tokens), tokens.argmax(dim=-1))

    def prompt_features(self, embeddings: Tensor, end: Tensor) -> Tensor:
        """Word embeddings (N, L, text_width) to features (N, P), read at end-of-text.

        ``end`` (N,) is the position of end-of-text. The text tower is causal, so what follows the
        last end cannot matter and is cut off: same numbers, a fraction of the time.
        """
        length = int(end.max()) + 1
        x = embeddings[:, :length] + self.text.positional_embedding[:length]
        with _attention() if x.device.type == "cpu" else contextlib.nullcontext():
            x = self.text.transformer(x, attn_mask=self.text.attn_mask[:length, :length])
        x = self.text.ln_final(x)[torch.arange(len(x), device=x.device), end]
        projection = self.text.text_projection
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection


def vit_features(visual: VisionTransformer, normalised: Tensor) -> VitFeatures:
    """Normalised images (B, 3, H, W) through open_clip's ViT, read at two depths [C]."""
    x = visual._embeds(normalised)
    blocks = visual.transformer.resblocks
    with _attention() if x.device.type == "cpu" else contextlib.nullcontext():
        for block in blocks[:-1]:
            x = block(x)
        last = visual.ln_post(blocks[-1](x))
    z12 = last[:, 0]
    return VitFeatures(z11=x[:, 0], z12=z12, zp=z12 @ visual.proj, tokens=last[:, 1:])


def load_clip(model: str, checkpoint: str | None, image_size: tuple[int, int]) -> ClipTower:
    """Build a CLIP and load its weights; position embeddings are interpolated to ``image_size``.

    Args:
        model: an open_clip name, such as ViT-B-16-quickgelu, or csgn-tiny.
        checkpoint: embedded; a file (safetensors, or a pickle that ``weights_only`` accepts); an open_clip
            tag, which open_clip then downloads; or None for random weights.
        image_size: (H, W) in pixels.

    Raises:
        InputError: unknown model or tag, a missing or refused file, weights of another shape.
    """
    config = open_clip.get_model_config(model) if model in open_clip.list_models() else None
    if config is None:
        raise InputError(f"clip_model {model!r} is not an open_clip model; see open_clip.list_models()")
    vision = config["vision_cfg"]
    if "timm_model_name" in vision or isinstance(vision.get("layers"), list) or "hf_model_name" in config["text_cfg"]:
        raise InputError(f"clip_model {model!r}: its towers are not open_clip's own; use ViT-B-16-quickgelu or such")
    source = _embedded(model, checkpoint, CLIP_FILES, "clip")
    if source and not Path(source).is_file() and source not in open_clip.list_pretrained_tags_by_model(model):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise InputError(f"clip_checkpoint {checkpoint!r} is neither a file nor a tag of {model} (tags: {tags})")
    own_grid = model in CLIP_FILES and source is not None  # open_clip interpolates from square grids only
    try:
        clip = open_clip.create_model(
            model, pretrained=source, force_image_size=None if own_grid else image_size, weights_only=True
        )
    except Exception as error:  # open_clip raises nine kinds for a file that is no checkpoint of this model
        raise InputError(f"clip_checkpoint {source} cannot be loaded into {model}: {_cause(error)}") from error
    if own_grid:
        _interpolate_positions(clip.visual, image_size)
    tokenizer = (
        CompactTokenizer(tiny_words(), clip.context_length) if model in CLIP_FILES else open_clip.get_tokenizer(model)
    )
    cfg = open_clip.get_model_preprocess_cfg(clip)
    return ClipTower(clip, tokenizer, cfg["mean"], cfg["std"])


def _interpolate_positions(visual: VisionTransformer, image_size: tuple[int, int]) -> None:
    """Position embeddings to the grid of another image size, bicubic with antialias, as open_clip does."""
    old = tuple(visual.grid_size)
    new = tuple(side // patch for side, patch in zip(image_size, visual.patch_size, strict=True))
    visual.image_size, visual.grid_size = tuple(image_size), new
    if new == old:
        return
    with torch.no_grad():
        positions = visual.positional_embedding
        grid = positions[1:].T.reshape(1, -1, *old)
        grid = F.interpolate(grid, size=new, mode="bicubic", antialias=True, align_corners=False)
        visual.positional_embedding = nn.Parameter(torch.cat([positions[:1], grid[0].flatten(1).T]))


def _cause(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):
        return "it is no checkpoint, or a pickle that would run code; save the tensors as safetensors"
    return " ".join(line.strip() for line in str(error).splitlines()[:2]) or type(error).__name__


class ResNetTower(nn.Module):
    """A timm ResNet whose last stage keeps its resolution (last stride 1, as in BoT and CLIP-ReID [C])."""

    def __init__(self, model: ResNet, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.width = int(model.num_features)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> ResNetFeatures:
        """Images (B, 3, H, W), RGB in [0, 1], to pooled (B, C) and feature_map (B, C, h, w)."""
        feature_map = self.model.forward_features((images - self.mean) / self.std)
        return ResNetFeatures(feature_map.mean(dim=(2, 3)), feature_map)


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
        model: a timm ResNet name, such as resnet50, or csgn_tiny_resnet.
        checkpoint: embedded; timm (timm's default weights, downloaded by timm); a safetensors file; or
            None for random weights.

    Raises:
        InputError: not a ResNet of timm's, a missing file, weights of another shape.
    """
    if not timm.is_model(model):
        raise InputError(f"resnet_model {model!r} is not a timm model; see timm.list_models('resnet*')")
    source = _embedded(model, checkpoint, RESNET_FILES, "resnet")
    try:
        net = timm.create_model(model, pretrained=source == "timm", num_classes=0)
    except (OSError, RuntimeError) as error:
        raise InputError(f"resnet_checkpoint=timm of {model} cannot be had ({_cause(error)}); give a file") from error
    if not isinstance(net, ResNet):
        raise InputError(f"resnet_model {model!r} is a {type(net).__name__}, not a ResNet with four stages")
    if source and source != "timm":
        if not Path(source).is_file():
            raise InputError(f"resnet_checkpoint {source} does not exist")
        try:  # timm's own files hold the classifier of ImageNet too
            weights = {name: value.float() for name, value in load_file(source).items() if not name.startswith("fc.")}
            net.load_state_dict(weights)
        except (RuntimeError, SafetensorError) as error:
            raise InputError(f"resnet_checkpoint {source} cannot be loaded into {model}: {_cause(error)}") from error
    _keep_resolution(net.layer4[0])
    cfg = net.pretrained_cfg if hasattr(net, "pretrained_cfg") else {}
    mean, std = cfg.get("mean") or (0.485, 0.456, 0.406), cfg.get("std") or (0.229, 0.224, 0.225)
    return ResNetTower(net, mean, std)


def _keep_resolution(block: nn.Module) -> None:
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
        elif module is not block and getattr(module, "stride", 1) not in (1, (1, 1)):
            raise InputError("this ResNet pools where it halves its map (-d, blur); its last stride cannot be set to 1")


def _embedded(model: str, checkpoint: str | None, files: dict[str, str], kind: str) -> str | None:
    if checkpoint != EMBEDDED:
        return checkpoint
    if model not in files:
        raise InputError(f"{kind}_checkpoint=embedded is for {', '.join(files)}; {model} needs a file or a tag")
    return str(TOWERS / files[model])
