"""From image files to batches: the pixel cache, the P x K sampler, and augmentation.

Each image is decoded and resized once into a uint8 array, which later runs memory-map. A batch is a selection of rows
of that array; crops, flips and erasing are tensor operations on the whole batch and its device. There are no loader
processes: at 256 x 128 a batch of 64 images is 6 MB, which is faster to copy than to pass between processes. A thread
prepares the next batch while the current one is in use.

All random streams derive from (seed, epoch, step): a run that resumes in the middle of an epoch gets the same batches
and crops as an uninterrupted one.
"""

from csgn_lib.batches.augmentation import Augmentation, AugmentationDraw, random_stream
from csgn_lib.batches.pixels import Batch, ImageSet, iterate, open_images
from csgn_lib.batches.prefetching import Prefetcher
from csgn_lib.batches.sampling import IdentitySampler
from csgn_lib.images import to_float, to_gray
