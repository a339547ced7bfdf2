"""The recipe of the embedded towers: a small CLIP and a small ResNet, from rendered pairs alone.

No real CLIP may be shipped, so the embedded world brings one of its own, trained on pictures and
captions of people who are not in the benchmark. ``make tiny-clip`` runs this recipe; what it wrote is
committed under ``csgn_lib/backbones/weights``.

The small CLIP first learns to see, then to speak of what it sees. Contrastive training alone learned
colours and hardly any shape: colours tell the pairs of a batch apart, and while neither side tells two
shapes apart, neither gives the other a reason to. So the first half asks about attributes only, "a photo
of a person with long legs" against "with short legs", in three ways: through linear classifiers on the
ViT; through prototypes in the joint space, one for each value, that image *and* sentence are to find, so
that the text side has a place for each word before the image side has earned it; and directly, sentence
against image. In the second half the contrastive loss joins, and the three fall to zero: the last steps
are plain CLIP. Classifiers and prototypes are thrown away. The weight matrices of the transformers learn
by Muon (Jordan et al., 2024), which learns several times as fast here as Adam does.
"""

from csgn_lib.synthetic.pretraining.pairs import IGNORED, SIZE, Pairs, batches, label_row, render, render_chunk
from csgn_lib.synthetic.pretraining.recipe import (
    Classifiers,
    Progress,
    Prototypes,
    Questions,
    attribute_loss,
    attribute_weight,
    contrastive,
    save_half,
    train_clip,
    train_resnet,
)
from csgn_lib.synthetic.pretraining.scores import colour_sensitivity, image_features, score, zero_shot

__all__ = [
    "Classifiers",
    "IGNORED",
    "Pairs",
    "Progress",
    "Prototypes",
    "Questions",
    "SIZE",
    "attribute_loss",
    "attribute_weight",
    "batches",
    "colour_sensitivity",
    "contrastive",
    "image_features",
    "label_row",
    "render",
    "render_chunk",
    "save_half",
    "score",
    "train_clip",
    "train_resnet",
    "zero_shot",
]
