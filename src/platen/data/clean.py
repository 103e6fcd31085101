"""Makes texts uniform without changing what they say: line ends, Unicode form, stray control characters.

Each step counts what it changed, for the report.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from platen.data.config import CleanConfig

# C0 and C1 controls but tab and line feed, and the byte order mark.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")


@dataclass
class CleaningCounts:
    """What cleaning changed, in characters; `normalised_documents` changed in their Unicode form."""

    line_ends: int = 0
    control_characters: int = 0
    trailing_blanks: int = 0
    normalised_documents: int = 0


def clean_text(text: str, config: CleanConfig, counts: CleaningCounts) -> str:
    """The cleaned text; adds to `counts`.

    Line ends become a line feed, the Unicode form is `config.unicode`, control characters but tab go, and so
    do blanks at the ends of lines and empty lines around the text.
    """
    unified = text.replace("\r\n", "\n").replace("\r", "\n")
    counts.line_ends += text.count("\r")
    if config.unicode != "none" and not unicodedata.is_normalized(config.unicode, unified):
        unified = unicodedata.normalize(config.unicode, unified)
        counts.normalised_documents += 1
    visible, removed = _CONTROL.subn("", unified)
    counts.control_characters += removed
    trimmed = "\n".join(line.rstrip() for line in visible.split("\n")).strip("\n")
    counts.trailing_blanks += len(visible) - len(trimmed)
    return trimmed
