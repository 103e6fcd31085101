"""Drops documents that share a run of words with a benchmark, as GPT-3's authors did (Brown et al. 2020).

The benchmark's n-grams lie in files of sorted 64-bit numbers, which every worker maps.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document

from platen.core.errors import DataError
from platen.data.filters.block import Block, Removed
from platen.data.filters.config import ContaminationBlock
from platen.data.filters.shingles import Hashes, ngrams, word_hashes

FEWEST_WORDS = 5
"""Of an item that counts as a whole; shorter ones are said by chance."""

Index = dict[int, Hashes]
"""Length of n-grams in words → their sorted hashes."""


def build_index(items: Iterable[str], n: int) -> Index:
    """The n-grams of all items; one shorter than `n` words counts as a whole."""
    parts: dict[int, list[Hashes]] = {}
    for item in items:
        words = word_hashes(item)
        if len(words) >= FEWEST_WORDS:
            length = min(n, len(words))
            parts.setdefault(length, []).append(np.unique(ngrams(words, length)))
    return {length: np.unique(np.concatenate(found)) for length, found in sorted(parts.items())}


def touches(text: str, index: Index) -> bool:
    """Whether a text has an n-gram of the index."""
    words = word_hashes(text)
    for length, known in index.items():
        grams = ngrams(words, length)
        places = np.minimum(np.searchsorted(known, grams), len(known) - 1)
        if (known[places] == grams).any():
            return True
    return False


def read_items(path: Path) -> Iterator[str]:
    """A benchmark's texts: every text value of each JSON line, or a whole text file. Raises DataError."""
    try:
        content = path.read_text(encoding="utf-8")
        if path.suffix not in (".jsonl", ".json"):
            yield content
            return
        lines = [content] if path.suffix == ".json" else content.splitlines()
        for line in filter(str.strip, lines):
            yield from _texts(json.loads(line))
    except (OSError, ValueError) as error:
        raise DataError(
            f"the benchmark {path} can't be read: {error}", hint="Correct data.filters.blocks.against."
        ) from None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


class Contamination(Block):
    """`folder` gets the index; it must be where all workers can read it. Paths begin at `directory`."""

    def __init__(self, config: ContaminationBlock, directory: Path, folder: Path) -> None:
        """Raises DataError for a benchmark that can't be read or has no item to look for."""
        super().__init__(config.block)
        self._folder = folder
        self._index: Index | None = None
        folder.mkdir(parents=True)
        for name in config.against:
            index = build_index(read_items(directory / name), config.ngram)
            if not index:
                raise DataError(
                    f"the benchmark {name} has no text of {FEWEST_WORDS} words",
                    hint="Give text, or JSON lines with texts in them.",
                )
            for length, known in index.items():
                file = folder / f"{length}.npy"
                whole = np.union1d(np.load(file), known) if file.exists() else known
                np.save(file, whole)

    def apply(self, document: Document) -> str | Removed:
        if self._index is None:
            files = sorted(self._folder.glob("*.npy"))
            self._index = {int(file.stem): np.load(file, mmap_mode="r") for file in files}
        text: str = document.text
        return Removed("shared with a benchmark") if touches(text, self._index) else text

    def __getstate__(self) -> dict[str, Any]:
        """Mapped files do not travel to workers; each maps them itself."""
        return self.__dict__ | {"_index": None}
