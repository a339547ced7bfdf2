"""Training recipe of the embedded models: a small CLIP and a small ResNet, trained on rendered people only.

The package contains no public CLIP weights, so the embedded benchmark has a CLIP of its own. It is trained on pictures
and captions of people who occur in no benchmark: people and cameras are drawn from seeds that no world can have. Unlike
the training data of a public CLIP, they are drawn from the distributions of the benchmark. ``make tiny-clip`` runs the
recipe; the resulting weights are committed under ``csgn_lib/backbones/weights``.

In the first half of its training, the small CLIP learns attributes only, by four kinds of losses: linear readers of the
ViT's class token predict attribute values, continuous measures and colours; images, and sentences, are classified by
prototypes in the joint space, one for each value; and images are classified by the sentences themselves. In the second
half the contrastive loss is added, and the other losses decrease to zero, so that the last steps are those of a plain
CLIP. Readers and prototypes are discarded. The ResNet learns attributes without text, like a ResNet-50 pretrained on
ImageNet.
"""

from csgn_lib.synthetic.pretraining.labels import LabelledPictures, batches, labelled, levels_of
from csgn_lib.synthetic.pretraining.losses import save_half
from csgn_lib.synthetic.pretraining.pairs import CHUNK, UNSEEN, Pictures, render, scenes_of
from csgn_lib.synthetic.pretraining.recipe import train_clip, train_resnet
from csgn_lib.synthetic.pretraining.scores import moves, readable, zero_shot
