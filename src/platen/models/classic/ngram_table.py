"""N-gram probabilities in sorted arrays: what a fitted n-gram model is when it is asked.

The n-grams of order k are one ascending array of keys `parent * V + word`: `parent` is the place of their
first k - 1 words among those of order k - 1, V the size of the vocabulary. So a look-up is a binary search,
the words seen after a context lie together, and a file is mapped into memory rather than read: 16 bytes an
n-gram, touched where they are asked for. Ids are those of `words.Vocabulary`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from platen.models.classic.words import END, START

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Level:
    """The n-grams of one order.

    `probability[i]` is that of n-gram i's last word after its others; `backoff[i]` the weight of what is
    known with one word less when i is a context after which the word in question was not seen.
    """

    keys: NDArray[np.uint64]
    probability: Floats
    backoff: Floats


@dataclass(frozen=True)
class NgramTable:
    """All orders of a model, `levels[k - 1]` those of order k; order 1 has every word of the vocabulary.

    With `shorter` a missing n-gram takes the probability after one word less. Without, it takes `base`, times
    the context's `backoff` where the context was seen.
    """

    vocab_size: int
    levels: tuple[Level, ...]
    shorter: bool
    base: float = 0.0

    @property
    def order(self) -> int:
        return len(self.levels)

    def size(self) -> int:
        """N-grams of all orders."""
        return sum(len(level.keys) for level in self.levels)

    def bytes(self) -> int:
        return sum(
            level.keys.nbytes + level.probability.nbytes + level.backoff.nbytes for level in self.levels
        )

    def log2_scores(self, ids: Ids, context: Sequence[int] | None = None) -> NDArray[np.float64]:
        """log2 of each id's probability after those before it.

        Before the first stands `context`, by default the start of a sentence. -inf where it is impossible.
        """
        before = [START] * (self.order - 1) if context is None else list(context)[-self.order :]
        row = np.concatenate([np.asarray(before, dtype=np.int64), ids])
        probability = self._probabilities(row)[len(before) :]
        with np.errstate(divide="ignore"):
            return np.log2(probability)

    def _probabilities(self, row: Ids) -> NDArray[np.float64]:
        """Of each id after up to `order - 1` before it in the row."""
        here = row.copy()  # the place of the n-gram that ends at each id, -1 where it was never seen
        result = self.levels[0].probability[row].astype(np.float64)
        for below, level, k in zip(self.levels, self.levels[1:], range(1, self.order), strict=False):
            context = np.concatenate([[-1], here[:-1]])
            here = self._find(level, context, row)
            found, known = here >= 0, context >= 0
            weight = np.where(known, below.backoff[np.maximum(context, 0)], 1.0)
            missed = weight * (result if self.shorter else self.base)
            longer = np.where(found, level.probability[np.maximum(here, 0)], missed)
            # The first k ids of the row have no k before them.
            result[k:] = longer[k:]
        return result

    def _find(self, level: Level, parents: Ids, word: Ids) -> Ids:
        if not len(level.keys):
            return np.full(len(word), -1)
        wanted = np.maximum(parents, 0).astype(np.uint64) * np.uint64(self.vocab_size) + word.astype(
            np.uint64
        )
        at = np.minimum(np.searchsorted(level.keys, wanted), len(level.keys) - 1)
        return np.where((parents >= 0) & (level.keys[at] == wanted), at, -1)

    def distribution(self, context: Sequence[int]) -> NDArray[np.float64]:
        """The probability of every id of the vocabulary after a context, of which the last words count."""
        context = list(context)[max(0, len(context) - self.order + 1) :]
        result = self.levels[0].probability.astype(np.float64)
        places = dict(self._contexts(context))
        for length in range(1, len(context) + 1):
            place = places.get(length)
            if place is None:
                result = result if self.shorter else self._even(1.0)
                continue
            weight = float(self.levels[length - 1].backoff[place])
            result = result * weight if self.shorter else self._even(weight)
            level = self.levels[length]
            first = np.uint64(place * self.vocab_size)
            begin, end = np.searchsorted(level.keys, [first, first + np.uint64(self.vocab_size)])
            result[(level.keys[begin:end] - first).astype(np.int64)] = level.probability[begin:end]
        result[START] = 0.0
        return result

    def _even(self, weight: float) -> NDArray[np.float64]:
        return np.full(self.vocab_size, weight * self.base)

    def _contexts(self, context: Sequence[int]) -> Iterator[tuple[int, int]]:
        """(length, place) of those ends of a context that were seen."""
        for length in range(1, len(context) + 1):
            place = context[-length]
            for level, word in zip(self.levels[1:], context[len(context) - length + 1 :], strict=False):
                place = int(self._find(level, np.array([place]), np.array([word]))[0])
                if place < 0:
                    break
            if place >= 0:
                yield length, place

    def sample(self, count: int, context: Sequence[int], generator: np.random.Generator) -> list[int]:
        """Up to `count` ids after a context, drawn one by one; the end of the sentence ends them."""
        drawn: list[int] = []
        while len(drawn) < count and (not drawn or drawn[-1] != END):
            weights = np.cumsum(self.distribution([*context, *drawn]))
            if weights[-1] <= 0:
                break  # an unsmoothed model has seen nothing after this
            drawn.append(int(np.searchsorted(weights, generator.random() * weights[-1], side="right")))
        return drawn

    def save(self, folder: Path) -> None:
        """Write three arrays an order into an existing folder."""
        for k, level in enumerate(self.levels, start=1):
            for name, array in vars(level).items():
                np.save(folder / f"{name}.{k}.npy", array, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path, vocab_size: int, order: int, shorter: bool, base: float) -> NgramTable:
        """Map what `save` wrote. Raises OSError or ValueError when it is damaged."""
        names = ("keys", "probability", "backoff")
        levels = []
        for k in range(1, order + 1):
            arrays = [
                np.load(folder / f"{name}.{k}.npy", mmap_mode="r", allow_pickle=False) for name in names
            ]
            if len({array.shape for array in arrays}) > 1:
                raise ValueError(f"the arrays of order {k} differ in length")
            levels.append(Level(*arrays))
        if len(levels[0].keys) != vocab_size:
            raise ValueError("the vocabulary and the unigrams differ in size")
        return cls(vocab_size, tuple(levels), shorter, base)
