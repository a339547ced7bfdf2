"""Pretrained networks ("towers"): open_clip's CLIP and timm's ResNet. Only this package depends on their internals.

The rest of the library uses three methods: image features at the two depths that CLIP-ReID uses, text features of
strings, and text features of prompts with learned word embeddings. Images are RGB in [0, 1]; each network normalises
them itself, because CLIP and ImageNet use different means and deviations. `attention` gives access to attention weights
without changing the network.
"""

from csgn_lib.backbones.attention import attention_weights, last_norm, vit_grid, vit_layers
from csgn_lib.backbones.checkpoints import EMBEDDED, TOWERS, Misfit, fill
from csgn_lib.backbones.clip import CLIP_FILES, ClipTower, load_clip, load_tokenizer
from csgn_lib.backbones.prefixes import PromptPrefix
from csgn_lib.backbones.resnet import RESNET_FILES, ResNetFeatures, ResNetTower, load_resnet
from csgn_lib.backbones.tokens import CompactTokenizer, Tokenizer, tiny_words, token_count, unreadable_words
from csgn_lib.backbones.vit import VitFeatures, vit_features
