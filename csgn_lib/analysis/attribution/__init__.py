"""Attribution maps of the similarity of two images, and checks of these maps.

Three checks: a network with shuffled weights should give another map; removing the pixels that a map marks should
reduce the similarity faster than removing others; a map's share on a part is compared with the part's share of pixels.

Maps are (B, H, W), at the size of the images, non-negative, and sum to one. A map without any relevance is all zero.
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
