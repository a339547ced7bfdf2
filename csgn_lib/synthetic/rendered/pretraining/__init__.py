"""The recipe of the rendered world's towers: a small CLIP and a small ResNet, from rendered people alone.

No real CLIP may be shipped, so the rendered world brings one of its own, trained on pictures and captions of people who
are in no benchmark: they and their cameras are drawn from seeds that no world has. They are drawn from the same
distributions, which a real CLIP's data are not. ``make rendered-clip`` runs this recipe; what it wrote is committed
under ``csgn_lib/backbones/weights``.

The small CLIP first learns to see, then to speak of what it sees. The first half asks about attributes only, in four
ways: through linear readers of the ViT's class token (names, and continuous measures and colours); through prototypes
in the joint space, one for each value, that image *and* sentence are to find; and directly, sentence against image. In
the second half the contrastive loss joins, and the others fall to zero: the last steps are plain CLIP. Readers and
prototypes are thrown away. The ResNet learns names and measures only, as a real ResNet-50 comes from ImageNet.
"""

from csgn_lib.synthetic.rendered.pretraining.labels import Lessons, batches, lessons, levels_of
from csgn_lib.synthetic.rendered.pretraining.pairs import CHUNK, UNSEEN, Pictures, render, scenes_of
from csgn_lib.synthetic.rendered.pretraining.recipe import train_clip, train_resnet
from csgn_lib.synthetic.rendered.pretraining.scores import moves, readable, zero_shot

__all__ = [
    "CHUNK",
    "Lessons",
    "Pictures",
    "UNSEEN",
    "batches",
    "lessons",
    "levels_of",
    "moves",
    "readable",
    "render",
    "scenes_of",
    "train_clip",
    "train_resnet",
    "zero_shot",
]
