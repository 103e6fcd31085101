"""The texts of a file of vectors that are most alike a query, by cosine, read a batch at a time."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from platen.core.errors import DataError
from platen.data.document import Document
from platen.retrieve.embedders import TextModel
from platen.retrieve.vectorfile import VectorFile


@dataclass(frozen=True)
class Match:
    """A document and its cosine with the query."""

    score: float
    document: Document


def search(file: VectorFile, model: TextModel, query: str, count: int) -> list[Match]:
    """The `count` nearest, best first, of equals the earlier one.

    Raises DataError when another model's, and for a query that nothing can be alike: word vectors know none
    of its words.
    """
    file.stamp.check_comparable(model.stamp, str(file.path))
    wanted = model.embed([query]).vectors[0]
    if not wanted.any():
        raise DataError(
            f"{model.stamp.model} knows no word of the query {query!r}",
            hint="Ask with words that were in the texts it was trained on.",
        )
    best: list[tuple[float, int, Document]] = []
    number = 0
    for batch in file.batches():
        lengths = np.linalg.norm(batch.vectors, axis=1) * np.linalg.norm(wanted)
        cosines = (batch.vectors @ wanted) / np.where(lengths > 0, lengths, 1)
        rows = [(float(cosine), -(number + i), batch.documents[i]) for i, cosine in enumerate(cosines)]
        best = heapq.nlargest(count, best + rows, key=lambda row: row[:2])
        number += len(rows)
    return [Match(score, document) for score, _, document in best]
