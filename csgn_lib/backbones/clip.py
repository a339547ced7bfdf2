"""open_clip's CLIP with the outputs that CLIP-ReID uses: two depths of the ViT, and learned prompts."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.models.eva import Eva
from torch import Tensor, nn

from csgn_lib.backbones import checkpoints, prefixes
from csgn_lib.backbones.tokens import CompactTokenizer, Tokenizer, tiny_words
from csgn_lib.backbones.vit import VitFeatures, fast_attention, vit_features
from csgn_lib.records import InputError

MIN_STRIDE = 8  # pixels: half a patch of ViT-B/16
CLIP_FILES = {"csgn-tiny": "csgn-tiny"}  # model to the name of its weights in TOWERS
open_clip.add_model_config(checkpoints.TOWERS / "csgn-tiny.json")


class ClipTower(nn.Module):
    """A CLIP with the outputs that CLIP-ReID uses: two depths of the ViT, and prompts with learned word embeddings.

    Args:
        model: an open_clip model with a ViT of class token pooling, open_clip's own or EVA's.
        tokenizer: texts to (N, context_length) ids.
        mean, std: of RGB in [0, 1], as the weights were trained with.
        checkpoint: the file that the weights came from; None for random weights.

    Raises:
        InputError: the image encoder is not a supported ViT, or pools in another way.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: object,
        mean: Sequence[float],
        std: Sequence[float],
        checkpoint: Path | None = None,
    ) -> None:
        super().__init__()
        visual = model.visual
        own = isinstance(visual, VisionTransformer) and visual.attn_pool is None and visual.pool_type == "tok"
        if not own and not _is_eva(visual):
            raise InputError(
                f"{type(visual).__name__} has no class token to read; use a ViT such as ViT-B-16-quickgelu"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.checkpoint = checkpoint
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.text = getattr(model, "text", None) or model  # CustomTextCLIP has a separate text module
        self.width = int(visual.conv1.out_channels if own else visual.trunk.embed_dim)
        self.embed_dim = int(visual.proj.shape[1] if own else visual.trunk.head.out_features)
        self.text_width = int(self.text.token_embedding.weight.shape[1])
        self.context_length = int(self.text.context_length)

    @property
    def visual(self) -> VisionTransformer | TimmModel:
        """The ViT: the only part of CLIP that stage 2 trains."""
        return self.model.visual

    @property
    def logit_scale(self) -> Tensor:
        """The trained logarithm of the inverse temperature, a scalar."""
        return self.model.logit_scale

    def visual_features(self, images: Tensor, tokens: bool = False) -> VitFeatures:
        """Images (B, 3, H, W), RGB in [0, 1], of the size that the network was built for, to VitFeatures."""
        return vit_features(self.visual, (images - self.mean) / self.std, tokens=tokens)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(N, context_length) int64 token ids, on the model's device."""
        return self.tokenizer(list(texts)).to(self.text.token_embedding.weight.device)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Token ids (N, L) to word embeddings (N, L, text_width), without position embeddings."""
        return self.text.token_embedding(tokens)

    def whole_words(self) -> tuple[list[str], Tensor]:
        """All tokens that are complete words of letters, and their embeddings: V words and (V, text_width).

        Raises InputError for a tokenizer that is not CLIP's byte pairs: its tokens do not mark the end of a word.
        """
        pairs = getattr(self.tokenizer, "tokenizer", self.tokenizer)  # the small CLIP's wraps open_clip's
        if not isinstance(pairs, open_clip.SimpleTokenizer):
            raise InputError(f"{type(pairs).__name__} is not CLIP's byte-pair tokenizer; its words cannot be listed")
        ids = getattr(self.tokenizer, "ids", None) or {i: i for i in pairs.decoder}
        words = {
            text.removesuffix("</w>"): ids[i] for i, text in pairs.decoder.items() if text.endswith("</w>") and i in ids
        }
        words = {word: i for word, i in words.items() if word.isascii() and word.isalpha()}
        return list(words), self.text.token_embedding.weight[list(words.values())].detach()

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Strings to features (N, P) in the joint space, not normalised."""
        return self.token_features(self.tokenize(texts))

    def token_features(self, tokens: Tensor) -> Tensor:
        """Token ids (N, L) to features (N, P). The text encoder is causal, so tokens after the last end-of-text have
        no influence; they are cut off, which gives the same features faster."""
        end = tokens.argmax(dim=-1)
        return self.prompt_features(self.embed_tokens(tokens[:, : int(end.max()) + 1]), end)

    def prompt_features(self, embeddings: Tensor, end: Tensor) -> Tensor:
        """Word embeddings (N, L, text_width) to features (N, P) at end-of-text, whose positions are ``end`` (N,)."""
        length = embeddings.shape[1]
        x = embeddings + self.text.positional_embedding[:length]
        with fast_attention(x.device):
            x = self.text.transformer(x, attn_mask=self.text.attn_mask[:length, :length])
        return self._projected(x[torch.arange(len(x), device=x.device), end])

    def prompt_prefix(self, embeddings: Tensor, lengths: Sequence[int], size: int) -> prefixes.PromptPrefix | None:
        """What M prompts (M, L, text_width) begin with, ``lengths`` tokens of each; ``size`` tokens follow.

        None for a tower whose blocks are not open_clip's own, or one that reads prompts in its own way.
        """
        own = type(self).prompt_features is ClipTower.prompt_features
        if not own or not prefixes.has_plain_blocks(self.text.transformer):
            return None
        x = embeddings + self.text.positional_embedding[: embeddings.shape[1]]
        return prefixes.PromptPrefix.of(self.text.transformer, x, lengths, size)

    def continued_features(self, embeddings: Tensor, prefix: prefixes.PromptPrefix) -> Tensor:
        """Features (M, Y, P) of Y prompts on each of M beginnings, read at their last token.

        embeddings (M, Y, S, text_width): the words that follow the beginnings.
        """
        x = embeddings + self.text.positional_embedding[prefix.positions][:, None]
        with fast_attention(x.device):
            x = prefixes.last_after_prefix(self.text.transformer, x.flatten(0, 1), prefix)
        return self._projected(x).unflatten(0, embeddings.shape[:2])

    def _projected(self, x: Tensor) -> Tensor:
        x, projection = self.text.ln_final(x), self.text.text_projection
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection


def _is_eva(visual: nn.Module) -> bool:
    """Whether it is timm's EVA, in which only LayerNorm and head of the class token follow the blocks."""
    if not isinstance(visual, TimmModel) or not isinstance(visual.trunk, Eva):
        return False
    trunk = visual.trunk
    plain = isinstance(trunk.fc_norm, nn.Identity) and isinstance(trunk.head, nn.Linear) and not len(visual.head)
    return plain and trunk.global_pool == "token" and trunk.num_prefix_tokens == 1 and trunk.attn_pool is None


def load_clip(model: str, checkpoint: str | None, image_size: tuple[int, int], stride: int | None = None) -> ClipTower:
    """Build a CLIP and load its weights; position embeddings are interpolated to the grid of ``image_size``.

    Args:
        model: an open_clip name, such as ViT-B-16-quickgelu or EVA02-B-16, or csgn-tiny.
        checkpoint: embedded; a file (safetensors, or a pickle that ``weights_only`` accepts, OpenAI's key layout
            among them); an open_clip tag, which open_clip then downloads; or None for random weights.
        image_size: (H, W) in pixels.
        stride: pixels from one patch to the next, 8 to the patch size; less than the patch size, and patches
            overlap [C: 12]. None: the patch size, the only one that EVA takes.

    Raises:
        InputError: unknown model or tag, a stride or size that does not fit, a missing or refused file, weights of
            another shape.
    """
    vision = _clip_config(model)["vision_cfg"]
    _check_grid(model, vision, image_size, stride)
    source = checkpoints.embedded(model, checkpoint, CLIP_FILES, "clip")
    is_file = source is not None and Path(source).is_file()
    if source and not is_file and source not in open_clip.list_pretrained_tags_by_model(model):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise InputError(f"clip_checkpoint {checkpoint!r} is neither a file nor a tag of {model} (tags: {tags})")
    # open_clip interpolates from square grids only, and not for timm's towers
    own_grid = (model in CLIP_FILES and source is not None) or "timm_model_name" in vision
    clip = _build_clip(model, None if is_file else source, None if own_grid else image_size)
    if not own_grid:
        _set_grid(clip.visual, image_size, stride)
    file = None
    if source:
        try:
            tagged = None if is_file else open_clip.get_pretrained_cfg(model, source)
            file = Path(open_clip.download_pretrained(tagged) if tagged else source)  # shows size and progress
            _load_clip_weights(clip, _of_this_gelu(model, checkpoints.read_weights(file)))
        except Exception as error:  # torch and open_clip raise nine kinds for a file that is none of this model's
            why, cure = checkpoints.diagnosis(error, "clip_model")
            raise InputError(f"clip_checkpoint {source} cannot be loaded into {model}: {why}; {cure}") from error
    if own_grid:
        _set_grid(clip.visual, image_size, stride)
    cfg = open_clip.get_model_preprocess_cfg(clip)
    return ClipTower(clip, load_tokenizer(model), cfg["mean"], cfg["std"], file)


def load_tokenizer(model: str) -> Tokenizer:
    """The tokenizer of a CLIP: texts to ids (N, context_length). Raises InputError for a model that is not one."""
    length = _clip_config(model)["text_cfg"].get("context_length", 77)
    return CompactTokenizer(tiny_words(), length) if model in CLIP_FILES else open_clip.get_tokenizer(model)


def _clip_config(model: str) -> dict[str, Any]:
    """open_clip's configuration of a model; InputError if its architecture is not supported."""
    config = open_clip.get_model_config(model) if model in open_clip.list_models() else None
    if config is None:
        raise InputError(f"clip_model {model!r} is not an open_clip model; see open_clip.list_models()")
    vision = config["vision_cfg"]
    eva = vision.get("timm_model_name", "eva").startswith("eva")  # of timm's image encoders, those with a class token
    if not eva or isinstance(vision.get("layers"), list) or "hf_model_name" in config["text_cfg"]:
        raise InputError(
            f"clip_model {model!r}: its towers are neither open_clip's own nor EVA's; use ViT-B-16-quickgelu or such"
        )
    return config


def _check_grid(model: str, vision: dict[str, Any], image_size: tuple[int, int], stride: int | None) -> None:
    patch = int(vision.get("patch_size", 16))
    if stride is not None and "timm_model_name" in vision:
        raise InputError(f"vit_stride={stride}: the patches of {model} cannot overlap; set vit_stride to none")
    if stride is not None and not MIN_STRIDE <= stride <= patch:
        raise InputError(f"vit_stride={stride}: {model} has patches of {patch} pixels; set {MIN_STRIDE} to {patch}")
    if min(image_size) < patch:
        height, width = image_size
        raise InputError(
            f"images of {height} x {width} are smaller than a patch of {model} ({patch}); make them larger"
        )


def _build_clip(model: str, tag: str | None, image_size: tuple[int, int] | None) -> nn.Module:
    """A model with random weights on the default device; mean and deviation are those of the tag's weights."""
    trained = open_clip.get_pretrained_cfg(model, tag) if tag else {}
    if tag and bool(trained.get("quick_gelu")) != _has_quick_gelu(model):
        raise InputError(f"clip_checkpoint {tag} of {model} was trained with the other GELU; {_other_gelu(model)}")
    with _no_word_of_random_weights():
        return open_clip.create_model(
            model,
            device=torch.get_default_device(),
            force_image_size=image_size,
            force_preprocess_cfg={name: trained[name] for name in ("mean", "std") if name in trained},
        )


def _has_quick_gelu(model: str) -> bool:
    return bool(open_clip.get_model_config(model).get("quick_gelu"))


def _other_gelu(model: str) -> str:
    """The remedy for weights of the other activation function: the model of the same shape that has it."""
    twin = model.removesuffix("-quickgelu") if model.endswith("-quickgelu") else f"{model}-quickgelu"
    return f"set clip_model to {twin}" if twin in open_clip.list_models() else "give other weights"


def _of_this_gelu(model: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights without OpenAI's three scalars. Raises NoWeights for OpenAI's in a model without QuickGELU."""
    if checkpoints.is_openai(weights) and not _has_quick_gelu(model):
        raise checkpoints.NoWeights("it is OpenAI's, which was trained with QuickGELU", _other_gelu(model))
    return {name: value for name, value in weights.items() if name not in checkpoints.BESIDE_WEIGHTS}


@contextlib.contextmanager
def _no_word_of_random_weights() -> Iterator[None]:
    """Suppress open_clip's warning about random weights, which are intended here or replaced immediately."""

    def other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No pretrained weights loaded")

    logging.getLogger().addFilter(other)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(other)


def _load_clip_weights(clip: nn.Module, state: dict[str, Tensor]) -> None:
    """Like open_clip.load_checkpoint, for tensors that were already read."""
    state = convert_state_dict(clip, state)
    if "positional_embedding" in state and not hasattr(clip, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    for name in (name for name in state if name.endswith("positional_embedding")):
        state[name] = state[name].float()  # OpenAI's are float16, which the CPU cannot interpolate
    for resize in (resize_pos_embed, resize_text_pos_embed):
        with contextlib.suppress(AssertionError, RuntimeError):  # of another width, or not square: fill names them
            resize(state, clip)
    checkpoints.fill(clip, state)


def _set_grid(visual: VisionTransformer | TimmModel, image_size: tuple[int, int], stride: int | None) -> None:
    """Patches ``stride`` pixels apart: (side - patch) // stride + 1 of them to a side.

    Position embeddings are interpolated to that grid, bicubic with antialiasing, as in open_clip; EVA's by timm, which
    also changes its rotary grid.
    """
    if isinstance(visual, TimmModel):
        visual.set_input_size(image_size)
        return
    steps = visual.patch_size if stride is None else (stride, stride)
    places = zip(image_size, visual.patch_size, steps, strict=True)
    old, new = tuple(visual.grid_size), tuple((side - patch) // step + 1 for side, patch, step in places)
    visual.conv1.stride = tuple(steps)
    visual.image_size, visual.grid_size = tuple(image_size), new
    if new == old:
        return
    with torch.no_grad():
        positions = visual.positional_embedding
        grid = positions[1:].T.reshape(1, -1, *old)
        grid = F.interpolate(grid, size=new, mode="bicubic", antialias=True, align_corners=False)
        visual.positional_embedding = nn.Parameter(torch.cat([positions[:1], grid[0].flatten(1).T]))
