"""From image files to batches: the pixel cache, the P x K sampler, and augmentation.

An image is decoded and resized once, into one uint8 array that is memory-mapped by every later run.
A batch is then one indexing of that array, and crops, flips and erasing are tensor operations over
the whole batch, on the device it is on. So there are no loader processes to start, feed and collect:
at 256 x 128 a batch of 64 is a 6 MB copy, less than handing it from one process to another costs, and
a thread makes it while the batch before is used.

Everything random is a function of (seed, epoch, step): a run that resumes in the middle of an epoch
sees the batches and crops that it would have seen.
"""

from csgn_lib.batches.augmentation import Augmentation, AugmentationDraw, random_stream
from csgn_lib.batches.pixels import Batch, ImageSet, iterate, open_images
from csgn_lib.batches.prefetching import Prefetcher
from csgn_lib.batches.sampling import IdentitySampler
from csgn_lib.images import to_float, to_gray

__all__ = [
    "Prefetcher",
    "Augmentation",
    "AugmentationDraw",
    "Batch",
    "IdentitySampler",
    "ImageSet",
    "iterate",
    "open_images",
    "random_stream",
    "to_float",
    "to_gray",
]
