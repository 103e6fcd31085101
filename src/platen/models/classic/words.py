"""Words and sentences for the classic models: two regular expressions, bag-of-words counts and a vocabulary.

No model and no download: `words` lowercases and keeps letters, digits and single punctuation marks apart,
`sentences` cuts at empty lines and after closing punctuation. A `Vocabulary` maps words to numbers both ways
and is read from a memory-mapped file, so that a large one opens at once.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

START, END, UNKNOWN = 0, 1, 2
"""Ids of the sentence's start and end and of words that the vocabulary lacks; its own words follow."""
FIRST_WORD = 3
VECTORS_FILE = "vectors.json"
"""By it a folder of word vectors is known."""
_SPECIALS = ("<s>", "</s>", "<unk>")
_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[^\W\d_a-z])|\n\s*\n")


def words(text: str) -> list[str]:
    """The words and punctuation marks of a text, lowercased."""
    return _WORD.findall(text.lower())


def sentences(text: str) -> list[str]:
    """The sentences of a text, by its punctuation: an abbreviation before a capital letter is a cut too."""
    return [piece for piece in (part.strip() for part in _SENTENCE_END.split(text)) if piece]


def bag_of_words(tokens: Iterable[str]) -> Counter[str]:
    """How often each token occurs: all that this model knows of a text."""
    return Counter(tokens)


class _Sorted(Sequence[bytes]):
    """Byte strings in sorted order in one array, without an object each."""

    def __init__(self, blob: NDArray[np.uint8], ends: NDArray[np.uint64]) -> None:
        self.blob, self.ends = blob, ends

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        begin = int(self.ends[index - 1]) if index else 0
        return self.blob[begin : int(self.ends[index])].tobytes()


class Vocabulary:
    """Words with ids from `FIRST_WORD` on, in the order of their UTF-8 bytes. Safe to share by threads."""

    def __init__(self, known: _Sorted) -> None:
        self._known = known
        self.id = lru_cache(maxsize=1 << 17)(self._find)

    @classmethod
    def of(cls, counts: Counter[str], min_count: int = 1) -> Vocabulary:
        """The words of `counts` that occur `min_count` times or more."""
        encoded = sorted(word.encode("utf-8", "replace") for word, n in counts.items() if n >= min_count)
        blob = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        ends = np.cumsum([len(word) for word in encoded], dtype=np.uint64)
        return cls(_Sorted(blob, ends))

    def __len__(self) -> int:
        """Ids in all, the three special ones included."""
        return FIRST_WORD + len(self._known)

    def _find(self, word: str) -> int:
        raw = word.encode("utf-8", "replace")
        at = bisect_left(self._known, raw)
        found = at < len(self._known) and self._known[at] == raw
        return FIRST_WORD + at if found else UNKNOWN

    def ids(self, tokens: Sequence[str]) -> NDArray[np.int64]:
        """The id of each token."""
        return np.fromiter((self.id(token) for token in tokens), dtype=np.int64, count=len(tokens))

    def word(self, id: int) -> str:
        """The word of an id; `<s>`, `</s>`, `<unk>` for the special ones."""
        return _SPECIALS[id] if id < FIRST_WORD else self._known[id - FIRST_WORD].decode()

    def __iter__(self) -> Iterator[str]:
        """The words, without the special ones, in the order of their ids."""
        return (word.decode() for word in self._known)

    def save(self, folder: Path) -> None:
        """Write `words.npy` and `word_ends.npy` into an existing folder."""
        np.save(folder / "words.npy", self._known.blob, allow_pickle=False)
        np.save(folder / "word_ends.npy", self._known.ends, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> Vocabulary:
        """Map what `save` wrote. Raises OSError or ValueError when it is damaged."""
        blob = _map(folder / "words.npy")
        ends = _map(folder / "word_ends.npy")
        if (ends[-1] if len(ends) else 0) != len(blob):
            raise ValueError("words.npy and word_ends.npy disagree")
        return cls(_Sorted(blob, ends))


def _map(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
