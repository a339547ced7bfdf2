"""Images to maps: where a feature looks, how far such a map can be believed, and which parts it lies on.

A map is not an explanation until it has passed a check, so each kind of map goes with three: a network of
random weights should give another map, taking away what a map marks should cost similarity faster than
taking away something else, and a map's share of a part means nothing but beside the part's share of the image.

Maps are (B, H, W), at the image's size, non-negative, and sum to one; a map that found nothing is all zero.
"""

from csgn_lib.analysis.attribution.attention import heads, rollout
from csgn_lib.analysis.attribution.checks import (
    Curves,
    deletion_insertion,
    depth,
    random_maps,
    randomised,
    rank_correlation,
)
from csgn_lib.analysis.attribution.images import Read, whole
from csgn_lib.analysis.attribution.maps import all_maps
from csgn_lib.analysis.attribution.occluding import occlusion
from csgn_lib.analysis.attribution.pairs import grad_cam, pair_similarity
from csgn_lib.analysis.attribution.parts import cell_size, coarse, share_on

__all__ = [
    "Curves",
    "Read",
    "all_maps",
    "cell_size",
    "coarse",
    "deletion_insertion",
    "depth",
    "grad_cam",
    "heads",
    "occlusion",
    "pair_similarity",
    "random_maps",
    "randomised",
    "rank_correlation",
    "rollout",
    "share_on",
    "whole",
]
