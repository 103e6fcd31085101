"""The cleaning step as a block, for a place after others."""

from __future__ import annotations

from dataclasses import asdict

from datatrove.data import Document

from platen.data.clean import CleaningCounts, clean_text
from platen.data.config import CleanConfig
from platen.data.filters.block import Block
from platen.data.filters.config import UnicodeBlock


class Unicode(Block):
    """Line ends, Unicode form, control characters, blanks at line ends."""

    def __init__(self, config: UnicodeBlock) -> None:
        super().__init__(config.block)
        self._config = CleanConfig(unicode=config.form)

    def apply(self, document: Document) -> str:
        counts = CleaningCounts()
        text = clean_text(document.text, self._config, counts)
        for what, times in asdict(counts).items():
            if times:
                self.found(what, times)
        return text
