"""The rules that FineWeb adds to Gopher's and C4's (Penedo et al. 2024, arXiv 2406.17557, section 3.6)."""

from __future__ import annotations

from datatrove.utils.text import TERMINAL_PUNCTUATION

from platen.data.filters.block import Rules
from platen.data.filters.config import FineWebBlock
from platen.data.filters.gopher import repeated

_PUNCTUATION = frozenset(TERMINAL_PUNCTUATION)


class FineWeb(Rules):
    """Lists, menus and texts that say the same lines again."""

    def __init__(self, config: FineWebBlock) -> None:
        super().__init__(config.block)
        self._config = config

    def reason(self, text: str) -> str | None:
        config = self._config
        lines = [line for line in text.split("\n") if line.strip()]
        if not lines:
            return "empty"
        if sum(line[-1] in _PUNCTUATION for line in lines) / len(lines) < config.min_punctuated_lines:
            return "lines without punctuation"
        if sum(len(line) <= config.short_line for line in lines) / len(lines) > config.max_short_lines:
            return "short lines"
        feeds = text.count("\n")
        if repeated(lines)[1] / (len(text) - feeds) > config.max_duplicate_characters:
            return "repeated characters"
        if feeds / len(text.split()) > config.max_newline_ratio:
            return "a list"
        return None
