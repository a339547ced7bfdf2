"""A small EVA-02 as a timm model, for tests of its architecture."""

from __future__ import annotations

import timm
from timm.models.eva import Eva

EVA = "eva_csgn_test"  # its name in timm


@timm.models.register_model
def eva_csgn_test(pretrained: bool = False, **kwargs: object) -> Eva:
    """32 x 32, patch 8, three blocks, width 32; positions learned, and rotary."""
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(name, None)
    kind = dict(qkv_fused=False, swiglu_mlp=True, scale_mlp=True, scale_attn_inner=True, use_rot_pos_emb=True)
    kind |= dict(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, ref_feat_shape=(4, 4))
    model = Eva(**(kind | kwargs))
    model.default_cfg = {}
    return model
