"""Drops documents with words of a list, found whatever their case, accents and look-alike letters."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from datatrove.data import Document

from platen.data.filters.block import Block, Removed
from platen.projectfilters import ToxicityBlock
from platen.scan.lists import read_words
from platen.scan.words import Words


@cache
def _scanner(words: tuple[str, ...]) -> Words:
    """Kept by the process: an automaton can't travel to workers, its words can."""
    return Words(words)


class Toxicity(Block):
    """Raises ConfigError for a list that can't be read."""

    def __init__(self, config: ToxicityBlock, directory: Path) -> None:
        super().__init__(config.block)
        self._words = tuple(read_words(directory / config.words, "word list"))
        self._most = config.max_matches

    def apply(self, document: Document) -> str | Removed:
        matches = [*_scanner(self._words).matches(document.text, 0)]
        if matches:
            self.found("words", len(matches))
        text: str = document.text
        return Removed("words of the list") if len(matches) > self._most else text
