"""What documents are like as a whole: lengths, languages, words for people, and those that stand out."""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from platen.data.filters.bias import BiasProbe
from platen.data.sources import Document

_LISTED = 5
_SAMPLE = 500


class Profile:
    """Counts documents as they go by. With `probes`, also what takes longer: bias and anomalies."""

    def __init__(self, *, probes: bool = False) -> None:
        self.documents = 0
        self.characters = 0
        self.lengths: Counter[int] = Counter()
        """Documents by the binary digits of their characters: under `d`, 2^(d-1) to 2^d - 1."""
        self.languages: Counter[str] = Counter()
        self.bias = BiasProbe() if probes else None
        self.anomalies: dict[str, list[tuple[float, str]]] = {}
        """What is measured → the highest values with the documents' ids."""
        self.seconds = 0.0

    def watch(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Pass documents through."""
        for document in documents:
            self.add(document, None)
            yield document

    def add(self, document: Document, language: str | None) -> None:
        """Count one document."""
        began = time.perf_counter()
        text = document.text
        self.documents += 1
        self.characters += len(text)
        self.lengths[len(text).bit_length()] += 1
        if language is not None:
            self.languages[language] += 1
        if self.bias is not None:
            self.bias.add(text)
            for what, measure in MEASURES.items():
                highest = self.anomalies.setdefault(what, [])
                entry = (measure(text), document.id)
                (heapq.heappush if len(highest) < _LISTED else heapq.heappushpop)(highest, entry)
        self.seconds += time.perf_counter() - began


def _no_letters(text: str) -> float:
    """The share of characters in the middle of a text that are neither letters nor blanks."""
    first = max(0, (len(text) - _SAMPLE) // 2)
    middle = "".join(text[first : first + _SAMPLE].split())
    return 1 - sum(map(str.isalpha, middle)) / len(middle) if middle else 0.0


MEASURES: dict[str, Callable[[str], float]] = {
    "characters": len,
    "characters in the longest line": lambda text: max(map(len, text.split("\n"))),
    "share of characters that are no letters": _no_letters,
    "replacement characters": lambda text: text.count("\ufffd"),
}
