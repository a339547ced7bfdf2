"""Which images make a batch: P identities x K images."""

from __future__ import annotations

import numpy as np
import pandas as pd

from csgn_lib.records import InputError


class IdentitySampler:
    """P identities x K images a batch, an epoch being all images once, in chunks of K per identity [C].

    As RandomIdentitySampler of CLIP-ReID and fast-reid: an identity's images, shuffled, are cut into
    chunks of K, what is left over waits for another epoch, and an identity with fewer than K repeats
    its own. A batch is P different identities with a chunk of each. Theirs stops when fewer than P
    identities have a chunk left, so that an epoch's length is an accident; here it is the largest
    number of full batches that the counts allow, the same each epoch [O]. Every identity is in every
    epoch unless there are fewer places than identities. With one chunk an identity, that is each
    identity once.

    Args:
        frame: training frame with person and clothes labels.
        batch_persons, batch_images: P, K.
        seed: of the order.
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
        found = len(self.rows) if len(person) else 0
        if found < 2:
            raise InputError(f"the frame has {found} identities; training compares people, and needs at least 2")
        if found < batch_persons:
            raise InputError(
                f"batch_persons={batch_persons}, but the frame has {found} identities; set it to {found} or less"
            )
        if two_outfits and (self.clothes < 0).all():
            raise InputError("sampler=clothes needs clothes labels and this benchmark has none; set sampler=identity")
        self.chunks = np.array([max(1, len(rows) // batch_images) for rows in self.rows])
        self.length = int(self.chunks.sum()) // batch_persons
        # Full batches of distinct identities exist exactly if sum_i min(chunks_i, length) >= P * length.
        while np.minimum(self.chunks, self.length).sum() < batch_persons * self.length:
            self.length -= 1

    def __len__(self) -> int:
        """Batches an epoch, the same every epoch."""
        return self.length

    def epoch(self, epoch: int) -> np.ndarray:
        """Rows of the frame (batches, P * K), int64, the K of an identity side by side.

        A pure function of seed and epoch: to resume at a step, leave the rows before it out.
        """
        random = np.random.default_rng([self.seed, epoch])
        left = self._places(random)
        chunks = [self._cut(random, rows, count) for rows, count in zip(self.rows, self.chunks, strict=True)]
        batches = np.empty((self.length, self.persons, self.images), np.int64)
        for step in range(self.length):
            # Who must be in every remaining batch comes first, then by chance in proportion to what is left.
            key = -random.exponential(size=len(left)) / np.maximum(left, 1)
            key[left == self.length - step] = 1.0
            key[left == 0] = -np.inf
            chosen = np.argpartition(-key, self.persons - 1)[: self.persons]
            left[chosen] -= 1
            batches[step] = [chunks[person][left[person]] for person in random.permutation(chosen)]
        return batches.reshape(self.length, -1)

    def _places(self, random: np.random.Generator) -> np.ndarray:
        """Chunks of each identity in this epoch: P * length in all, nobody's last taken unless it must be."""
        left = np.minimum(self.chunks, self.length)
        surplus = int(left.sum()) - self.persons * self.length
        taken = random.permutation(np.repeat(np.arange(len(left)), left - 1))[:surplus]
        np.subtract.at(left, taken, 1)
        left[random.permutation(len(left))[: surplus - len(taken)]] -= 1
        return left

    def _cut(self, random: np.random.Generator, rows: np.ndarray, count: int) -> np.ndarray:
        """An identity's chunks (count, K)."""
        shuffled = np.resize(random.permutation(rows), count * self.images)  # repeats only what is too short
        if not self.two_outfits:
            return shuffled.reshape(count, self.images)
        # Dealt like cards, sorted by outfit: a chunk has one outfit only where that outfit outnumbers all others.
        outfits = random.permutation(np.unique(self.clothes[rows]))
        rank = np.argmax(self.clothes[shuffled][:, None] == outfits, axis=1)
        chunks = shuffled[np.argsort(rank, kind="stable")].reshape(self.images, count).T.copy()
        for chunk in chunks:
            others = rows[self.clothes[rows] != self.clothes[chunk[0]]]
            if len(others) and (self.clothes[chunk] == self.clothes[chunk[0]]).all():
                chunk[-1] = random.choice(others)
        return random.permutation(chunks)
