"""The rules of C4 (Raffel et al. 2020, JMLR 21:140, section 2.2), with those that only its code has."""

from __future__ import annotations

import re

from datatrove.data import Document

from platen.data.filters.block import Block, Removed
from platen.data.filters.config import C4Block

LONGEST_WORD = 1_000
_CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
_ENDS = (".", "?", "!", '"', "'")
_POLICIES = re.compile("terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies")
_SENTENCE_END = re.compile(r"""[.?!]+["')\]]*(?=\s|$)""")


class C4(Block):
    """Keeps lines that are sentences; drops documents with too few, with lorem ipsum, and code."""

    def __init__(self, config: C4Block) -> None:
        super().__init__(config.block)
        self._config = config

    def apply(self, document: Document) -> str | Removed:
        config, text = self._config, document.text
        if config.curly_brackets and "{" in text:
            return Removed("curly bracket")
        if "lorem ipsum" in text.lower():
            return Removed("lorem ipsum")
        kept = [line for line in map(self._line, text.splitlines()) if line]
        if sum(map(count_sentences, kept)) < config.min_sentences:
            return Removed("too few sentences")
        return "\n".join(kept)

    def _line(self, line: str) -> str:
        """The line without citations, or nothing when it is to go."""
        line = line.strip()
        if len(line) > LONGEST_WORD and max(map(len, line.split())) > LONGEST_WORD:
            return ""
        if "[" in line:
            line = _CITATION.sub("", line).rstrip()
        if self._config.terminal_punctuation and (not line.endswith(_ENDS) or line.endswith("...")):
            return ""
        if len(line.split(None, self._config.min_words_in_line)) < self._config.min_words_in_line:
            return ""
        lower = line.lower()
        return "" if "javascript" in lower or _POLICIES.search(lower) else line


def count_sentences(text: str) -> int:
    """Sentences by their final marks; a text without one is one."""
    return max(1, sum(1 for _ in _SENTENCE_END.finditer(text)))
