"""Drift between two bodies of text, told by word vectors.

`word_drift`: which words changed their company between two sets of vectors trained apart, after one is turned
onto the other (orthogonal Procrustes, Hamilton et al., 2016). `corpus_distance`: how far apart two sets of
texts lie under the same vectors (Fréchet distance of their texts' vectors).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from platen.core.errors import DataError
from platen.models.classic.word_vectors import WordVectors, unit


@dataclass(frozen=True)
class WordDrift:
    """`distance` is the mean of the words' cosine distances (0 the same, 1 unrelated); most changed first."""

    distance: float
    words: tuple[tuple[str, float], ...]


def word_drift(old: WordVectors, new: WordVectors) -> WordDrift:
    """Compare the words that both know. Raises DataError for fewer shared words than a vector has numbers,
    which could always be turned onto one another, and for vectors of unlike size."""
    size = old.vectors.shape[1]
    if new.vectors.shape[1] != size:
        raise DataError(f"vectors of {size} and {new.vectors.shape[1]} numbers can't be compared")
    known = set(new.vocabulary)
    shared = [word for word in old.vocabulary if word in known]
    if len(shared) <= size:
        raise DataError(
            f"both know {len(shared)} words, too few to compare vectors of {size} numbers",
            hint="Take more text or smaller vectors.",
        )
    before = unit(np.stack([old[word] for word in shared]))
    after = unit(np.stack([new[word] for word in shared]))
    left, _, right = np.linalg.svd(before.T @ after)
    distances = 1 - ((before @ left @ right) * after).sum(axis=1)
    order = np.argsort(-distances, kind="stable")
    return WordDrift(
        float(distances.mean()), tuple((shared[index], float(distances[index])) for index in order)
    )


def corpus_distance(
    vectors: WordVectors, old: Sequence[Sequence[str]], new: Sequence[Sequence[str]]
) -> float:
    """|m - n|² + tr(S + T - 2 (ST)^½) of the two corpora's text vectors, m and n their means, S and T their
    covariances: 0 for the same texts. Raises DataError when either has fewer than two texts."""
    if min(len(old), len(new)) < 2:
        raise DataError("a corpus of fewer than two texts has no spread to compare")
    first, second = (np.stack([unit(vectors.text_vector(text)) for text in texts]) for texts in (old, new))
    return frechet_distance(first, second)


def frechet_distance(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """The same between two sets of vectors (N, C) and (M, C), taken as normally distributed."""
    a, b = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    values, axes = np.linalg.eigh(a)
    root = (axes * np.sqrt(np.maximum(values, 0))) @ axes.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ b @ root), 0)).sum()
    apart = first.mean(axis=0, dtype=np.float64) - second.mean(axis=0, dtype=np.float64)
    return float(max(0.0, apart @ apart + np.trace(a) + np.trace(b) - 2 * shared))
