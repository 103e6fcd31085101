"""Finds the language of each document with py3langid's packaged model; nothing is downloaded."""

from __future__ import annotations

from functools import cache
from typing import Any

from datatrove.data import Document

from platen.data.filters.block import Block, Removed
from platen.data.filters.config import LanguageBlock

READ = 2_000
"""Characters, from the middle of a text, that are looked at."""
UNKNOWN = "und"
"""ISO 639 for a language that is not determined."""
_SAME = {"nb": "no", "nn": "no"}
"""Norway's two written forms count as Norwegian, as in ISO 639's macrolanguage."""


def identify(text: str) -> tuple[str, float]:
    """The ISO 639 code of a text's language and how sure it is, from 0 to 1."""
    first = max(0, (len(text) - READ) // 2)
    code, sure = _identifier().classify(text[first : first + READ])
    return _SAME.get(code, code), float(sure)


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


class Language(Block):
    """Notes the language in the document's metadata, and drops those that are not wanted."""

    def __init__(self, config: LanguageBlock) -> None:
        super().__init__(config.block)
        self._keep = frozenset(_SAME.get(code, code) for code in config.keep)
        self._sure = config.min_confidence

    def apply(self, document: Document) -> str | Removed:
        code, sure = identify(document.text)
        if sure < self._sure:
            code = UNKNOWN
        self.found(code)
        document.metadata["language"] = code
        if self._keep and code not in self._keep:
            return Removed(code)
        text: str = document.text
        return text
