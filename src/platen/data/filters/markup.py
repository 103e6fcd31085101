"""Gets the text out of HTML pages, with trafilatura, and drops lines of nothing but symbols from any text."""

from __future__ import annotations

import re

from datatrove.data import Document

from platen.data.filters.block import Block, Removed
from platen.data.filters.config import MarkupBlock

_TAG = re.compile(
    r"<(?:!doctype|html|head|body|div|p|table|tr|ul|li|span|article|section|h[1-6]|br)\b[^<>]{0,500}>", re.I
)
_FEW = 3
# Rules, frames, ASCII art: only ASCII symbols, dashes, bullets and box drawing, and at least one of them.
_SYMBOLS = re.compile(
    "(?m)^(?=[^\n]*[^\\s])[!-/:-@\\[-`{-~ \t\u2010-\u2015\u2022\u2026\u2500-\u259f]+(?:\n|\\Z)"
)


class Markup(Block):
    """What is no HTML only loses its symbol lines."""

    def __init__(self, config: MarkupBlock) -> None:
        super().__init__(config.block)
        self._boilerplate = config.boilerplate

    def apply(self, document: Document) -> str | Removed:
        text: str = document.text
        if is_html(text):
            self.found("HTML pages")
            text = main_text(text) if self._boilerplate else bare_text(text)
            if not text:
                return Removed("no text in the page")
        return _SYMBOLS.sub("", text)


def is_html(text: str) -> bool:
    """Whether a text is a page: at least three tags of HTML's frame, one of them near its beginning."""
    if "<" not in text or not _TAG.search(text, 0, 2_000):
        return False
    return sum(1 for _, _ in zip(_TAG.finditer(text), range(_FEW), strict=False)) == _FEW


def main_text(page: str) -> str:
    """A page's main text without navigation and the like; all its text where no main part is found."""
    import trafilatura

    found = trafilatura.extract(page, include_comments=False, deduplicate=False)
    return found or bare_text(page)


def bare_text(page: str) -> str:
    """All text of a page; blocks stand on lines of their own, scripts and styles go."""
    from lxml import etree, html

    try:
        tree = html.document_fromstring(page)
    except (etree.ParserError, ValueError):  # nothing in it, or an encoding declared in the text
        return re.sub(r"<[^<>]*>", " ", page).strip()
    etree.strip_elements(tree, "script", "style", "template", "noscript", with_tail=False)
    for element in tree.iter(
        "p", "div", "br", "li", "tr", "table", "h1", "h2", "h3", "h4", "h5", "h6", "pre"
    ):
        element.tail = "\n" + (element.tail or "")
    lines = (" ".join(line.split()) for line in tree.text_content().splitlines())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
