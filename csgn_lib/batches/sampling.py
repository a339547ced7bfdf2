"""Batch sampling: P identities x K images."""

from __future__ import annotations

import numpy as np
import pandas as pd

from csgn_lib.records import InputError


class IdentitySampler:
    """Batches of P identities x K images; an epoch uses each image at most once, in chunks of K per identity [C].

    As RandomIdentitySampler of CLIP-ReID and fast-reid: the shuffled images of an identity are cut into chunks of K;
    the remainder is not used in this epoch, and an identity with fewer than K images repeats some. A batch has P
    different identities with one chunk each. Their sampler stops when fewer than P identities have a chunk left, so the
    length of an epoch is random; here it is the largest number of full batches that the counts allow, the same in every
    epoch [O]. Every identity is in every epoch, unless an epoch has fewer places than there are identities.

    Args:
        frame: training frame with person and clothes labels.
        batch_persons, batch_images: P, K.
        seed: seed of the order.
        two_outfits: each chunk shows at least two outfits of an identity that has them [O].

    Raises:
        InputError: fewer identities than P, or than 2; ``two_outfits`` without clothes labels.
    """

    def __init__(
        self, frame: pd.DataFrame, batch_persons: int, batch_images: int, seed: int, two_outfits: bool = False
    ) -> None:
        person = frame["person"].to_numpy(dtype=np.int64)
        self.clothes = frame["clothes"].to_numpy(dtype=np.int64)
        order = np.argsort(person, kind="stable")
        starts = np.unique(person[order], return_index=True)[1]
        self.rows = np.split(order, starts[1:])  # an identity's rows of the frame
        self.persons, self.images, self.seed, self.two_outfits = batch_persons, batch_images, seed, two_outfits
        identities = len(self.rows) if len(person) else 0
        if identities < 2:
            raise InputError(f"the frame has {identities} identities; training compares people, and needs at least 2")
        if identities < batch_persons:
            raise InputError(
                f"batch_persons={batch_persons}, but the frame has {identities} identities; "
                f"set it to {identities} or less"
            )
        if two_outfits and (self.clothes < 0).all():
            raise InputError("sampler=clothes needs clothes labels and this benchmark has none; set sampler=identity")
        self.chunks = np.array([max(1, len(rows) // batch_images) for rows in self.rows])
        self.length = int(self.chunks.sum()) // batch_persons
        # Full batches of distinct identities exist exactly if sum_i min(chunks_i, length) >= P * length.
        while np.minimum(self.chunks, self.length).sum() < batch_persons * self.length:
            self.length -= 1

    def __len__(self) -> int:
        """Batches per epoch, the same in every epoch."""
        return self.length

    def epoch(self, epoch: int) -> np.ndarray:
        """Rows of the frame (batches, P * K), int64, the K of an identity adjacent.

        A pure function of seed and epoch: to resume at a step, skip the batches before it.
        """
        random = np.random.default_rng([self.seed, epoch])
        left = self._places(random)
        chunks = [self._cut(random, rows, count) for rows, count in zip(self.rows, self.chunks, strict=True)]
        batches = np.empty((self.length, self.persons, self.images), np.int64)
        for step in range(self.length):
            # First those that must be in every remaining batch, then random ones in proportion to remaining chunks.
            key = -random.exponential(size=len(left)) / np.maximum(left, 1)
            key[left == self.length - step] = 1.0
            key[left == 0] = -np.inf
            chosen = np.argpartition(-key, self.persons - 1)[: self.persons]
            left[chosen] -= 1
            batches[step] = [chunks[person][left[person]] for person in random.permutation(chosen)]
        return batches.reshape(self.length, -1)

    def _places(self, random: np.random.Generator) -> np.ndarray:
        """Chunks of each identity in this epoch: P * length in total; every identity keeps one chunk if possible."""
        left = np.minimum(self.chunks, self.length)
        surplus = int(left.sum()) - self.persons * self.length
        taken = random.permutation(np.repeat(np.arange(len(left)), left - 1))[:surplus]
        np.subtract.at(left, taken, 1)
        left[random.permutation(len(left))[: surplus - len(taken)]] -= 1
        return left

    def _cut(self, random: np.random.Generator, rows: np.ndarray, count: int) -> np.ndarray:
        """An identity's chunks (count, K)."""
        shuffled = np.resize(
            random.permutation(rows), count * self.images
        )  # repeats images only in a chunk that is too short
        if not self.two_outfits:
            return shuffled.reshape(count, self.images)
        # Images sorted by outfit are distributed in turn: only an outfit with the majority can fill a chunk.
        outfits = random.permutation(np.unique(self.clothes[rows]))
        rank = np.argmax(self.clothes[shuffled][:, None] == outfits, axis=1)
        chunks = shuffled[np.argsort(rank, kind="stable")].reshape(self.images, count).T.copy()
        for chunk in chunks:
            others = rows[self.clothes[rows] != self.clothes[chunk[0]]]
            if len(others) and (self.clothes[chunk] == self.clothes[chunk[0]]).all():
                chunk[-1] = random.choice(others)
        return random.permutation(chunks)
