"""Drops documents with words of a list, found whatever their case, accents and look-alike letters."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from datatrove.data import Document

from platen.data.filters.block import Block, Removed
from platen.errors import ConfigError
from platen.projectfilters import ToxicityBlock
from platen.scan.words import LONGEST_ENTRY, Words


@cache
def _scanner(words: tuple[str, ...]) -> Words:
    """Kept by the process: an automaton can't travel to workers, its words can."""
    return Words(words)


class Toxicity(Block):
    """Raises ConfigError for a list that can't be read."""

    def __init__(self, config: ToxicityBlock) -> None:
        super().__init__(config.block)
        self._words = read_words(Path(config.words))
        self._most = config.max_matches

    def apply(self, document: Document) -> str | Removed:
        matches = [*_scanner(self._words).matches(document.text, 0)]
        if matches:
            self.found("words", len(matches))
        text: str = document.text
        return Removed("words of the list") if len(matches) > self._most else text


def read_words(path: Path) -> tuple[str, ...]:
    """A file's lines, less empty ones and those that begin with `#`."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the word list {path} can't be read: {error}", hint="Name it relative to platen.yaml."
        ) from None
    words = tuple(line for line in lines if line and not line.startswith("#"))
    if too_long := [word for word in words if len(word) > LONGEST_ENTRY // 2]:
        raise ConfigError(f"{path}: '{too_long[0][:40]}…' is longer than {LONGEST_ENTRY // 2} characters")
    return words
