"""Counting n-grams of every order in sorted arrays, and the four ways to make probabilities of them.

Every order is one sort of the text's positions, without a Python object an n-gram. Letters: c counts, h a
context, N1 the number of different n-grams that occur once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platen.models.classic.ngram_table import Ids, Level, NgramTable
from platen.models.classic.words import END, START

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Counted:
    """The n-grams of one order: `parent` and `suffix` are places one order below, without the last and the
    first word. Those that end in a sentence's start are contexts only and count 0."""

    keys: NDArray[np.uint64]
    parent: Ids
    suffix: Ids
    count: Ids


@dataclass(frozen=True)
class NgramCounts:
    """`levels[k - 1]` are the n-grams of order k; order 1 has every word of the vocabulary."""

    vocab_size: int
    levels: tuple[Counted, ...]

    @classmethod
    def of(cls, sentences: Iterable[Ids], vocab_size: int, order: int, *, ends: bool = True) -> NgramCounts:
        """Count sentences of ids, each after order - 1 starts and, with `ends`, before one end.

        Holds some 170 bytes a token for order 5.
        """
        if order < 1:
            raise ValueError("an n-gram has one word or more")
        before, after = np.full(order - 1, START), np.array([END] if ends else [], dtype=np.int64)
        pieces = [piece for ids in sentences for piece in (before, ids, after)]
        row = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)
        counted = row != START
        place = row
        none = np.zeros(vocab_size, dtype=np.int64)
        unigrams = np.bincount(row[counted], minlength=vocab_size)
        levels = [Counted(np.arange(vocab_size, dtype=np.uint64), none, none, unigrams)]
        # Contexts must not reach over a sentence's start into the one before.
        depth = _depths(pieces, order)
        for k in range(2, order + 1):
            parents, kept = place[:-1], (depth[1:] >= k - 1)
            keys = parents.astype(np.uint64) * np.uint64(vocab_size) + row[1:].astype(np.uint64)
            found, inverse = np.unique(keys[kept], return_inverse=True)
            count = np.bincount(inverse, weights=counted[1:][kept], minlength=len(found)).astype(np.int64)
            suffix = np.zeros(len(found), dtype=np.int64)
            suffix[inverse] = place[1:][kept]
            levels.append(Counted(found, (found // np.uint64(vocab_size)).astype(np.int64), suffix, count))
            place = np.full(len(row), -1)
            place[1:][kept] = inverse
        return cls(vocab_size, tuple(levels))

    def context_counts(self, k: int, count: NDArray[Any]) -> Doubles:
        """The sum of `count`, one for each n-gram of order k, by context: one for each of order k - 1."""
        level = self.levels[k - 1]
        size = 1 if k == 1 else len(self.levels[k - 2].keys)
        return np.bincount(level.parent, weights=count, minlength=size).astype(np.float64)

    def continuations(self, k: int) -> Ids:
        """For each n-gram of order k, the number of different words seen before it."""
        above = self.levels[k]
        size = len(self.levels[k - 1].keys)
        different = np.bincount(above.suffix[above.count > 0], minlength=size)
        return np.asarray(different, dtype=np.int64)


def _depths(pieces: Sequence[Ids], order: int) -> Ids:
    """How many ids of its own sentence stand before each, up to `order`."""
    triples = [sum(len(piece) for piece in pieces[i : i + 3]) for i in range(0, len(pieces), 3)]
    if not triples:
        return np.zeros(0, dtype=np.int64)
    lengths = np.asarray(triples)
    begins = np.repeat(np.cumsum(lengths) - lengths, lengths)
    depths: Ids = np.minimum(np.arange(len(begins)) - begins, order)
    return depths


def maximum_likelihood(counts: NgramCounts) -> NgramTable:
    """c(h, w) / c(h): nothing for what was not seen."""
    return _exact(counts, added=0)


def laplace(counts: NgramCounts) -> NgramTable:
    """(c(h, w) + 1) / (c(h) + V), V the number of words that can come: all but the sentence's start."""
    return _exact(counts, added=1)


def _exact(counts: NgramCounts, added: int) -> NgramTable:
    possible = counts.vocab_size - 1
    levels: list[Level] = []
    totals = counts.context_counts(1, counts.levels[0].count)
    for k, level in enumerate(counts.levels, start=1):
        probability = _ratio(level.count + added, totals[level.parent] + added * possible)
        # What this order's n-grams weigh as contexts.
        last = k == len(counts.levels)
        totals = np.zeros(len(level.keys)) if last else counts.context_counts(k + 1, counts.levels[k].count)
        backoff = _ratio(added * possible, totals + added * possible)
        levels.append(_level(level, probability, backoff))
    return NgramTable(counts.vocab_size, tuple(levels), shorter=False, base=added / possible)


def kneser_ney(counts: NgramCounts, discounts: Sequence[float] | None = None) -> NgramTable:
    """Interpolated Kneser-Ney smoothing, modified (Chen and Goodman, 1999).

    Below the highest order an n-gram counts the different words seen before it. `discounts` has one an order,
    lowest first; by default three an order are estimated, for n-grams counted once, twice and more often.
    The lowest order is interpolated with an even distribution, so every word has some probability.
    """
    adjusted = [counts.continuations(k) for k in range(1, len(counts.levels))] + [counts.levels[-1].count]
    possible = counts.vocab_size - 1
    below: Doubles = np.full(1, 1 / possible)
    probabilities: list[Doubles] = []
    backoffs: list[Doubles] = []
    for k, (level, count) in enumerate(zip(counts.levels, adjusted, strict=True), start=1):
        discount = _discounts(count, None if discounts is None else discounts[k - 1])[np.minimum(count, 3)]
        totals = counts.context_counts(k, count)
        weight = _ratio(counts.context_counts(k, discount), totals, otherwise=1.0)
        above = _ratio(count - discount, totals[level.parent])
        probability = above + weight[level.parent] * below[level.suffix]
        probabilities.append(probability)
        backoffs.append(weight)
        below = probability
    return _interpolating(counts, probabilities, backoffs[1:])


def back_off(counts: NgramCounts, discounts: Sequence[float] | None = None) -> NgramTable:
    """Katz's back-off with absolute discounts: seen n-grams give some of their share to unseen ones, which
    divide it as the order below would. `discounts` as for `kneser_ney`."""
    possible = counts.vocab_size - 1
    probabilities: list[Doubles] = []
    backoffs: list[Doubles] = []
    for k, level in enumerate(counts.levels, start=1):
        discount = _discounts(level.count, None if discounts is None else discounts[k - 1])
        taken = discount[np.minimum(level.count, 3)]
        totals = counts.context_counts(k, level.count)
        left = _ratio(counts.context_counts(k, taken), totals, otherwise=1.0)
        probability = _ratio(level.count - taken, totals[level.parent])
        if k == 1:
            probability = probability + left[0] / possible
        else:
            seen = np.where(level.count > 0, probabilities[-1][level.suffix], 0.0)
            backoffs.append(_ratio(left, 1 - counts.context_counts(k, seen), otherwise=0.0))
        probabilities.append(probability)
    return _interpolating(counts, probabilities, backoffs)


def _interpolating(
    counts: NgramCounts, probabilities: Sequence[Doubles], backoffs: Sequence[Doubles]
) -> NgramTable:
    probabilities[0][START] = 0.0
    last = np.ones(len(counts.levels[-1].keys))
    levels = (
        _level(level, probability, backoff)
        for level, probability, backoff in zip(counts.levels, probabilities, [*backoffs, last], strict=True)
    )
    return NgramTable(counts.vocab_size, tuple(levels), shorter=True)


def _discounts(count: Ids, fixed: float | None) -> Doubles:
    """What n-grams counted 0, 1, 2 and 3 or more times give away."""
    if fixed is not None:
        return np.array([0.0, fixed, fixed, fixed])
    n1, n2, n3, n4 = (float(np.count_nonzero(count == times)) for times in (1, 2, 3, 4))
    if not n1 or not n2 or not n3:
        return np.array([0.0, 0.5, 0.75, 0.75])  # too little text to estimate from
    y = n1 / (n1 + 2 * n2)
    estimates = [0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
    return np.clip(estimates, [0, 0.05, 0.05, 0.05], [0, 1, 2, 3])


def _ratio(above: Any, below: Doubles, otherwise: float = 0.0) -> Doubles:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 1e-12, above / below, otherwise)


def _level(level: Counted, probability: Doubles, backoff: Doubles) -> Level:
    return Level(level.keys, probability.astype(np.float32), backoff.astype(np.float32))
