"""Repairs texts that were decoded with the wrong encoding, by ftfy: `cafÃ©` was `café`.

Only what a wrong decoding left is changed: quotes, ligatures and wide letters stay as they were written.
"""

from __future__ import annotations

import re

from datatrove.data import Document

from platen.data.filters.block import Block
from platen.data.filters.config import EncodingBlock

# Without one of these there is nothing to repair: characters beyond ASCII, terminal escapes, HTML entities.
_CLUE = re.compile("[^\x09\x0a\x20-\x7e]")
_ENTITY = re.compile("&[#A-Za-z0-9]{2,32};")


class Encoding(Block):
    """ftfy with its display-only fixes off, as datatrove sets it."""

    def __init__(self, config: EncodingBlock) -> None:
        super().__init__(config.block)
        self._entities = config.unescape_html

    def apply(self, document: Document) -> str:
        from ftfy import TextFixerConfig, fix_text

        text: str = document.text
        entities = self._entities and "&" in text and "<" not in text and _ENTITY.search(text)
        if not entities and not _CLUE.search(text):
            return text
        return fix_text(
            text,
            config=TextFixerConfig(
                unescape_html="auto" if self._entities else False,
                fix_latin_ligatures=False,
                fix_character_width=False,
                uncurl_quotes=False,
                fix_line_breaks=False,
                normalization=None,
            ),
        )
