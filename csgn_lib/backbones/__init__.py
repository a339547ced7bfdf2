"""The towers: open_clip's CLIP and timm's ResNet, and the one room that knows their insides.

Everything else sees three calls: image features as CLIP-ReID reads them, text features of strings,
and text features of prompts whose word embeddings are learned. Images are RGB in [0, 1]; each tower
normalises for itself, since CLIP and ImageNet disagree on mean and deviation. `attention` lets a tower be looked
into for maps, unchanged.
"""

from csgn_lib.backbones.attention import attention_weights, last_norm, vit_grid, vit_layers
from csgn_lib.backbones.checkpoints import EMBEDDED, TOWERS, Misfit, fill
from csgn_lib.backbones.clip import (
    CLIP_FILES,
    ClipTower,
    CompactTokenizer,
    VitFeatures,
    load_clip,
    tiny_words,
    vit_features,
)
from csgn_lib.backbones.resnet import RESNET_FILES, ResNetFeatures, ResNetTower, load_resnet
