"""The main text of a web page, without its menus and footers, by trafilatura."""

from __future__ import annotations

import re
from html import unescape

from platen.data.readers.config import ReadLimits
from platen.data.readers.parser import Parsed

_TITLE = re.compile(r"<title[^>]*>([^<]{1,500})</title>", re.IGNORECASE)
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")  # says an encoding that the text is no longer in


def parse(raw: bytes, limits: ReadLimits) -> Parsed:
    import trafilatura

    page = _DECLARATION.sub("", raw.decode())
    text = trafilatura.extract(page, include_comments=False, include_tables=True) or ""
    title = _TITLE.search(page)
    return Parsed(text, {"title": " ".join(unescape(title.group(1)).split())} if title else {})
