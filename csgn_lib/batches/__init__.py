"""From image files to batches: the pixel cache, the P x K sampler, and augmentation.

Each image is decoded and resized once, into one uint8 array that later runs memory-map. A batch is one indexing of
that array; crops, flips and erasing are tensor operations over the whole batch, on its device. There are no loader
processes: at 256 x 128 a batch of 64 is a copy of 6 MB, which costs less than passing it between processes, and a
thread prepares it while the previous batch is in use.

All random streams derive from (seed, epoch, step): a run that resumes in the middle of an epoch gets the same batches
and crops as an uninterrupted one.
"""

from csgn_lib.batches.augmentation import Augmentation, AugmentationDraw, random_stream
from csgn_lib.batches.pixels import Batch, ImageSet, iterate, open_images
from csgn_lib.batches.prefetching import Prefetcher
from csgn_lib.batches.sampling import IdentitySampler
from csgn_lib.images import to_float, to_gray
