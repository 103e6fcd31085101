"""What a block over the whole corpus is, and the one that finds documents with the same text.

Workers make a sketch of fixed size of each document; when all are there, one process decides which documents
go. Sketches lie in a file that is mapped, so memory does not grow with the corpus.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Sketches = npt.NDArray[Any]
Originals = npt.NDArray[np.int64]
"""For each document the number of the earlier one that it repeats, or -1."""


class CorpusBlock(Protocol):
    name: str
    dtype: np.dtype[Any]
    """Of one sketch."""

    def sketch(self, text: str) -> Any:
        """What is kept of a document: the bytes of one `dtype`."""
        ...

    def decide(self, sketches: Sketches, alive: npt.NDArray[np.bool_]) -> Originals:
        """Which of the documents that are `alive` repeat which of them."""
        ...


class ExactDuplicates:
    """128-bit hashes of the text in lower case with single blanks."""

    name = "exact_duplicates"
    dtype = np.dtype([("high", "<u8"), ("low", "<u8")])

    def sketch(self, text: str) -> bytes:
        from xxhash import xxh3_128_digest

        return xxh3_128_digest(" ".join(text.lower().split()).encode("utf-8", "replace"))

    def decide(self, sketches: Sketches, alive: npt.NDArray[np.bool_]) -> Originals:
        originals = np.full(len(sketches), -1, np.int64)
        documents = np.flatnonzero(alive)
        high, low = sketches["high"][documents], sketches["low"][documents]
        order = np.lexsort((low, high))  # stable: equal ones stay in order
        high, low, order = high[order], low[order], documents[order]
        same = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
        first = first_of_run(same)
        repeats = np.flatnonzero(same) + 1
        originals[order[repeats]] = order[first[repeats]]
        return originals


def first_of_run(same: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Where the run begins that each place is in; `same[i]` says that place i + 1 equals place i."""
    begins = np.arange(len(same) + 1)
    begins[1:][same] = 0
    return np.maximum.accumulate(begins)
